"""The routes that change which indexes there are: what they order, and what they refuse before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bitsift.errors import InvalidRequest
from bitsift.router.http.access import AccessSettings
from bitsift.router.http.gateway import create_admin_app
from bitsift.router.http.index_changes import NAME_CHARACTERS_MAX, SHARDS_MAX
from bitsift.router.indexes import Indexes, Served
from bitsift.router.orders import Orders
from bitsift.router.shards.local import LocalLink
from tests.fakes import make_service, make_shards, make_writer
from tests.gateways import Running


class NotedOrders(Orders):
    """Does nothing, and says what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []
        self.error: Exception | None = None

    async def ask(self, what: str, **arguments: Any) -> Any:
        self.asked.append((what, arguments))
        if self.error is not None:
            raise self.error
        return {"done": what}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, NotedOrders]]:
    """The index `main`, alias `live`."""
    folder = tmp_path_factory.mktemp("main")
    shards, calibration = make_shards(folder, np.empty((0, 32), np.float32), 32, 1)
    links = [LocalLink(shard) for shard in shards]
    main = Served("main", make_service(links, calibration), make_writer(links, calibration))
    indexes, orders = Indexes(main), NotedOrders()
    indexes.place([], {}, {"live": "main"})
    running = Running(main.service, main.writer, indexes=indexes, orders=orders)
    yield running, orders
    running.stop()
    shards[0].close()


def ask(running: Running, method: str, path: str, body: Any = None) -> httpx.Response:
    return httpx.request(method, f"{running.url}{path}", json=body, timeout=60)


@pytest.mark.parametrize(
    ("method", "path", "body", "what", "arguments"),
    [("POST", "/v1/indexes", {"name": "a", "dimensions": 64}, "create",
      {"name": "a", "model": None, "dimensions": 64, "shards": None}),
     ("POST", "/v1/indexes", {"name": "a", "model": "minilm", "shards": 2}, "create",
      {"name": "a", "model": "minilm", "dimensions": None, "shards": 2}),
     ("DELETE", "/v1/indexes/a", None, "delete", {"name": "a", "with_aliases": False}),
     ("DELETE", "/v1/indexes/a/", None, "delete", {"name": "a", "with_aliases": False}),
     ("DELETE", "/v1/indexes/a?with_aliases=true", None, "delete",
      {"name": "a", "with_aliases": True}),
     ("PUT", "/v1/aliases/x", {"index": "a"}, "put_alias", {"alias": "x", "index": "a"}),
     ("DELETE", "/v1/aliases/live", None, "drop_alias", {"alias": "live"})],
)  # fmt: skip
def test_a_change_is_ordered_as_it_was_asked_for(
    served: tuple[Running, NotedOrders], method: str, path: str, body: Any, what: str,
    arguments: dict[str, Any],
) -> None:  # fmt: skip
    running, orders = served
    answer = ask(running, method, path, body)
    assert (answer.status_code, answer.json()) == (200, {"done": what}), answer.text
    assert orders.asked[-1] == (what, arguments)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [("POST", "/v1/indexes", {"name": "a"}, 422, "give model, dimensions"),
     ("POST", "/v1/indexes", {"name": "../a", "dimensions": 64}, 422, "name"),
     ("POST", "/v1/indexes", {"name": ".a", "dimensions": 64}, 422, "name"),
     ("POST", "/v1/indexes", {"name": "a" * (NAME_CHARACTERS_MAX + 1), "dimensions": 64}, 422,
      "name"),
     ("POST", "/v1/indexes", {"name": "a", "dimensions": 64, "shards": SHARDS_MAX + 1}, 422,
      "shards"),
     ("POST", "/v1/indexes", {"name": "a", "dimension": 64}, 422, "dimension"),
     ("DELETE", "/v1/indexes/live", None, 422, "alias of 'main'"),
     ("PUT", "/v1/aliases/x", {}, 422, "index"),
     ("PUT", "/v1/aliases/x", {"index": "a/b"}, 422, "index"),
     ("DELETE", "/v1/aliases/x", None, 404, "no alias 'x'")],
)  # fmt: skip
def test_what_is_no_change_is_refused_before_it_is_ordered(
    served: tuple[Running, NotedOrders], method: str, path: str, body: Any, status: int, said: str
) -> None:
    running, orders = served
    before = len(orders.asked)
    answer = ask(running, method, path, body)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text
    assert len(orders.asked) == before


def test_the_error_of_a_change_is_that_of_its_answer(served: tuple[Running, NotedOrders]) -> None:
    running, orders = served
    orders.error = InvalidRequest("there is an index 'a' already")
    answer = ask(running, "POST", "/v1/indexes", {"name": "a", "dimensions": 64})
    orders.error = None
    assert (answer.status_code, answer.json()["detail"]) == (422, "there is an index 'a' already")


def test_a_put_that_is_no_json_changes_nothing(served: tuple[Running, NotedOrders]) -> None:
    """Of a media type of its own it needs none: a browser asks before it sends one."""
    running, _ = served
    form = {"content-type": "text/plain"}
    put = httpx.put(f"{running.url}/v1/aliases/x", content=b'{"index": "a"}', headers=form)
    assert put.status_code == 422


def test_changes_are_on_the_admin_port_where_there_is_one(
    served: tuple[Running, NotedOrders], tmp_path: Path
) -> None:
    running, orders = served
    access = AccessSettings(admin_port=1)
    indexes = Indexes(Served("main", running.service, None))
    main = Running(running.service, None, access, indexes=indexes, orders=orders)  # type: ignore[arg-type]
    try:
        assert ask(main, "GET", "/v1/indexes").status_code == 200
        made = ask(main, "POST", "/v1/indexes", {"name": "a", "dimensions": 64})
        assert made.status_code in (404, 405)
    finally:
        main.stop()
    paths = {getattr(it, "path", "") for it in create_admin_app(running.service, access).routes}
    assert {"/v1/indexes", "/v1/indexes/{name}", "/v1/aliases/{alias}"} <= paths
