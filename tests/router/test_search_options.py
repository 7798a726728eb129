"""Every field of SearchOptions is on every surface, with the same help, limits and effect."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import numpy as np
import pytest
from pydantic.fields import FieldInfo
from typer.main import get_command
from typer.testing import CliRunner

from bitsift import options as words
from bitsift.checked import REASONS_MAX, checked_search
from bitsift.client import AsyncClient, Client
from bitsift.cluster.cli import main as cli
from bitsift.cluster.serving import local
from bitsift.errors import InvalidRequest
from bitsift.options import (
    DIMENSION_MAX,
    HITS_MAX,
    NPROBE_MAX,
    RECALL_MAX,
    RECALL_MIN,
    Mode,
    SearchOptions,
    SearchRequest,
)
from bitsift.results import Answer, Coverage, Hit, Timings
from bitsift.router.http.gateway import WEB_FOLDER
from bitsift.router.paging import next_cursor
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.types import Query
from bitsift.shard_worker.wire.search import pack_queries, unpack_queries
from bitsift.write_token import Reached, WriteToken, index_mark
from tests.fakes import UUID, HashEncoder, make_description, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
TEXT = "a text about number 7"
HITS = [Hit(str(number), 0.5, None, None, None, 0) for number in range(10)]
DEFAULTS_AND_SAMPLES: dict[str, tuple[Any, Any]] = {
    "query": (None, TEXT),
    "vector": (None, [0.5] * DIMENSION),
    "top_k": (10, 3),
    "offset": (0, 2),
    "cursor": (None, next_cursor(SearchOptions(TEXT), frozenset(), (), HITS, partial=False)),
    "min_score": (None, -0.25),
    "filter": (None, '{"$and":[{"lang":"de"},{"year":{"$gte":2020}}]}'),
    "like": ((), ["7", "9"]),
    "unlike": ((), ["8"]),
    "keep_liked": (False, True),
    "group_by": (None, "by.name"),
    "group_size": (1, 3),
    "exclude": ((), ["7", "nobody"]),
    "sort": ((), ["year:desc", "by.name"]),
    "highlight": (False, True),
    "text_characters": (None, 100),
    "facets": ((), ["by.name", "year"]),
    "facet_limit": (10, 3),
    "candidates": (None, 50),
    "mode": (Mode.AUTO, Mode.EXACT),
    "nprobe": (None, 4),
    "recall": (None, 0.95),
    "timeout_ms": (5_000.0, 9_000.0),
    "include": (("title", "text", "metadata"), ["title", "metadata"]),
    "explain": (False, True),
    "require_complete": (False, True),
    "read_your_writes": (None, WriteToken(index_mark(UUID), {0: Reached(0, 1)}).text()),
}
"""For each field its default, and another value. A default is not sent to shards: to change one is
to change the version of the wire (frames.py), or a shard of the release before answers by its own.
"""
SAMPLES = {name: sample for name, (_, sample) in DEFAULTS_AND_SAMPLES.items()}
FIELDS = {field.name: field for field in dataclasses.fields(SearchOptions)}
OPTIONS = [name for name in FIELDS if name not in ("query", "vector")]
"""What every surface takes; a text has names of its own, a vector is for JSON and Python."""


class Recording(SearchService):
    """A service that notes what it was asked for."""

    asked: SearchOptions | None = None

    async def search(
        self,
        options: SearchOptions,
        answer: Any = None,
        liked: Any = None,
        *,
        together: bool = False,
    ) -> Answer:
        if self.asked is None:
            self.asked = options
        return await super().search(options, answer, together=together)

    def last(self) -> SearchOptions:
        asked, self.asked = self.asked, None
        assert asked is not None, "nothing was asked"
        return asked


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    texts = [f"a text about number {i}" for i in range(60)]
    units = HashEncoder(DIMENSION).encode_documents(texts)
    folder = tmp_path_factory.mktemp("options")
    shards, calibration = make_shards(folder, units, DIMENSION, 2, texts)
    links = [LocalLink(shard) for shard in shards]
    description = make_description(2, calibration)
    service = Recording(description, FanOut(links), HashEncoder(DIMENSION))
    running = Running(service, make_writer(links, calibration))
    yield running
    running.stop()
    for shard in shards:
        shard.close()


def asked_of(gateway: Running) -> SearchOptions:
    assert isinstance(gateway.service, Recording)
    return gateway.service.last()


def same(asked: SearchOptions, name: str) -> None:
    """``asked`` has the sample of field ``name``, and the defaults of all others but the query."""
    for other, field in FIELDS.items():
        expected = SAMPLES[other] if other == name else field.default
        if other != "query":
            found = getattr(asked, other)
            assert (list(found) if isinstance(found, tuple) else found) == (
                list(expected) if isinstance(expected, tuple) else expected
            ), other


def info(name: str) -> FieldInfo:
    return FieldInfo.from_annotation(get_type_hints(SearchOptions, include_extras=True)[name])


def test_each_field_has_a_sample_that_is_not_its_default_and_a_help_text() -> None:
    assert list(SAMPLES) == list(FIELDS)
    for name, field in FIELDS.items():
        assert DEFAULTS_AND_SAMPLES[name][0] == field.default
        assert SAMPLES[name] != field.default
        assert (info(name).description or "").endswith("."), name


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_arrives_the_same_by_every_way(
    gateway: Running, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = SAMPLES[name]
    body = {"query": TEXT, name: value}
    httpx.post(f"{gateway.url}/v1/search", json=body).raise_for_status()
    same(asked_of(gateway), name)

    parameters = {"q": TEXT, name: value}
    httpx.get(f"{gateway.url}/v1/search", params=parameters).raise_for_status()
    same(asked_of(gateway), name)

    with Client(gateway.url) as client:
        client.search(TEXT, **{name: value})
        same(asked_of(gateway), name)
        client.search_many([TEXT], **{name: value})
        same(asked_of(gateway), name)

    async def ask() -> None:
        async with AsyncClient(gateway.url) as client:
            await client.search(TEXT, **{name: value})
            same(asked_of(gateway), name)
            await client.search_many([TEXT], **{name: value})
            same(asked_of(gateway), name)

    asyncio.run(ask())

    run = CliRunner().invoke(cli.app, ["search", TEXT, "--url", gateway.url, *flags(name)])
    assert run.exit_code == 0, run.output
    same(asked_of(gateway), name)

    in_process: list[SearchOptions] = []

    def noted(_: Path, options: SearchOptions) -> Answer:
        in_process.append(options)
        return Answer((), Coverage(1, 1), Timings(0, 0, 0, 0, 0))

    monkeypatch.setattr(local, "search_local", noted)
    run = CliRunner().invoke(cli.app, ["search", TEXT, "--index", "any", *flags(name)])
    assert run.exit_code == 0, run.output
    same(in_process[0], name)


def flags(name: str) -> list[str]:
    flag, value = f"--{name.replace('_', '-')}", SAMPLES[name]
    if isinstance(value, bool):
        return [flag]
    values = value if isinstance(value, list) else [value]
    return [part for one in values for part in (flag, str(one))]


@pytest.mark.parametrize("name", list(FIELDS))
def test_a_shard_gets_every_option_as_the_router_has_it(name: str) -> None:
    vector = np.ones(DIMENSION, dtype=np.float32)
    sample = {name: SAMPLES[name]} if name != "vector" else {}
    sent = SearchOptions(**{"vector": vector, **sample})
    (found,) = unpack_queries(pack_queries([Query(sent)]))
    for other in FIELDS:
        if other == "vector":
            np.testing.assert_array_equal(found.vector, vector)
        else:
            ours, theirs = getattr(found.options, other), getattr(sent, other)
            assert (type(ours), ours) == (type(theirs), theirs), other


def test_the_api_the_command_line_and_the_clients_describe_the_same_fields(
    gateway: Running,
) -> None:
    path = httpx.get(f"{gateway.url}/openapi.json").json()["paths"]["/v1/search"]
    body = path["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    url = {parameter["name"]: parameter for parameter in path["get"]["parameters"]}
    flag = {parameter.name: parameter for parameter in search_command().params}
    assert body.keys() == FIELDS.keys() | {"queries", "limit"}
    assert url.keys() == set(OPTIONS) | {"q", "limit"}
    assert flag.keys() == set(OPTIONS) | {"text", "index_folder", "client_url", "config", "json"}
    for name, field in FIELDS.items():
        default = json.loads(json.dumps(field.default))
        assert body[name]["description"] == info(name).description
        assert body[name].get("default") == default
        for client in (Client, AsyncClient):
            argument = inspect.signature(client.search).parameters[name]
            assert (argument.default, argument.kind) == (field.default, kind_of(name))
        if name in OPTIONS:
            assert url[name]["description"] == flag[name].help == info(name).description
            assert url[name]["schema"].get("default") == default
            limits = ("maximum", "minimum", "exclusiveMinimum")
            assert limited(url[name]["schema"], limits) == limited(body[name], limits)
            for client in (Client, AsyncClient):
                assert name in inspect.signature(client.search_many).parameters


def kind_of(name: str) -> Any:
    kinds = inspect.Parameter
    return kinds.POSITIONAL_OR_KEYWORD if name == "query" else kinds.KEYWORD_ONLY


def limited(schema: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    parts = [schema, *schema.get("anyOf", [])]
    return {name: part[name] for part in parts for name in names if name in part}


def search_command() -> Any:
    return get_command(cli.app).commands["search"]  # type: ignore[attr-defined]


def test_a_value_beyond_a_limit_is_refused_by_every_way_with_the_same_words(
    gateway: Running,
) -> None:
    said = "offset 999 and top_k 2 are 1,001 hits together"
    body = {"query": TEXT, "offset": 999, "top_k": 2}
    posted = httpx.post(f"{gateway.url}/v1/search", json=body)
    got = httpx.get(f"{gateway.url}/v1/search", params={"q": TEXT, "offset": 999, "top_k": 2})
    assert (posted.status_code, got.status_code) == (422, 422)
    assert said in posted.json()["detail"]
    assert said in got.json()["detail"]
    with Client(gateway.url) as client, pytest.raises(InvalidRequest, match=said):
        client.search(TEXT, offset=999, top_k=2)
    arguments = ["search", TEXT, "--url", gateway.url, "--offset", "999", "--top-k", "2"]
    run = CliRunner().invoke(cli.app, arguments)
    assert isinstance(run.exception, InvalidRequest)
    assert said in run.exception.message


def test_both_names_of_top_k_are_options_of_the_command(gateway: Running) -> None:
    for name in ("--top-k", "--limit"):
        run = CliRunner().invoke(
            cli.app, ["search", TEXT, "--url", gateway.url, name, "1", "--json"]
        )
        assert run.exception is None, run.output
        assert asked_of(gateway).top_k == 1


@pytest.mark.parametrize(
    ("most", "more"),
    [
        ({"query": "a", "nprobe": NPROBE_MAX}, {"nprobe": NPROBE_MAX + 1}),
        ({"vector": [0.5] * DIMENSION_MAX}, {"vector": [0.5] * (DIMENSION_MAX + 1)}),
    ],
)
def test_a_search_visits_so_many_lists_for_a_vector_of_so_many_numbers_at_most(
    most: dict[str, Any], more: dict[str, Any]
) -> None:
    checked_search(most)
    with pytest.raises(InvalidRequest, match=next(iter(more))):
        checked_search({**most, **more})


def test_a_search_asks_for_so_much_recall_at_most() -> None:
    checked_search({"query": "a", "recall": RECALL_MAX})
    for beyond in (RECALL_MAX + 1e-6, RECALL_MIN - 1e-6):
        with pytest.raises(InvalidRequest, match="recall"):
            checked_search({"query": "a", "recall": beyond})


def test_hits_that_are_skipped_count_among_those_of_a_request() -> None:
    queries = HITS_MAX // 1_000
    SearchRequest(queries=["a"] * queries, offset=990, top_k=10)
    with pytest.raises(ValueError, match="more than 10,000 hits"):
        SearchRequest(queries=["a"] * (queries + 1), offset=990, top_k=10)


def test_only_the_first_reasons_of_a_refusal_are_listed() -> None:
    wrong = {"top_k": 0, "offset": -1, "candidates": 0, "nprobe": 0, "timeout_ms": 0, "explain": 5}
    with pytest.raises(InvalidRequest) as raised:
        checked_search({"query": TEXT, **wrong})
    assert raised.value.message.count(": Input should be") == REASONS_MAX


def test_a_date_of_python_is_a_date_of_a_filter(gateway: Running) -> None:
    with Client(gateway.url) as client:
        client.search(TEXT, filter={"at": {"$gte": datetime(2026, 1, 31, 8, tzinfo=UTC)}})
    assert asked_of(gateway).filter == '{"at":{"$gte":{"$date":"2026-01-31T08:00:00Z"}}}'
    with Client(gateway.url) as client, pytest.raises(InvalidRequest, match="serializable: set"):
        client.search(TEXT, filter={"at": {"$in": {1, 2}}})


def test_a_misspelt_option_is_an_error_of_the_caller(gateway: Running) -> None:
    with Client(gateway.url) as client, pytest.raises(TypeError, match="top_K"):
        client.search(TEXT, top_K=3)  # type: ignore[call-arg]


def test_only_what_differs_from_the_defaults_is_sent() -> None:
    assert SearchOptions("a").given() == {"query": "a"}
    assert SearchOptions("a", top_k=10, include=("title", "text", "metadata")).given() == {
        "query": "a"
    }
    vector = np.ones(DIMENSION, dtype=np.float32)
    assert SearchOptions(vector=vector).given()["vector"] is vector


def test_the_words_of_a_search_need_neither_numpy_nor_a_server() -> None:
    import subprocess
    import sys

    script = (
        "import sys, bitsift.options;"
        "print([m for m in ('numpy', 'fastapi', 'typer', 'httpx', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr
    assert typing.get_args(words.DocumentField) == words.DOCUMENT_FIELDS


def test_the_page_asks_for_options_that_there_are() -> None:
    script = (WEB_FOLDER / "app.js").read_text()
    found = re.search(r"const request = \(query\) => \(\{(.*)\}\);", script)
    assert found is not None
    names = re.findall(r"(?:^|, )(\w+)(?=:|,|$)", found[1].strip())
    assert "query" in names
    assert "top_k" in names
    assert set(names) <= FIELDS.keys()
