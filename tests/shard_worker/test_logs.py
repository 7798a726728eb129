"""Lines of JSON in the log of every process, with the ids of the requests that they are for."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest

from bitsift.router.batching import Batcher
from bitsift.router.shards.remote import RemoteWriter
from bitsift.router.shards.remote_calls import named_call
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.logs import REQUEST_ID, REQUESTS_NAMED_MAX, name_for, write_logs
from bitsift.shard_worker.search.underway import Underway
from bitsift.shard_worker.wire.envelopes import pack_request, request_head

log = logging.getLogger("bitsift.test")
LONGEST = "x" * 64


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a process with a log in JSON writes."""
    root, written = logging.getLogger(), io.StringIO()
    before = root.handlers
    monkeypatch.setattr("sys.stderr", written)
    write_logs("json")
    yield written
    root.handlers = before


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def deadline_for(request: str) -> Deadline:
    def made() -> Deadline:
        REQUEST_ID.set(request)
        return Deadline()

    return copy_context().run(made)


def test_text_leaves_the_log_as_it_is() -> None:
    before = logging.getLogger().handlers
    write_logs("text")
    assert logging.getLogger().handlers is before


def test_what_a_shard_logs_in_a_call_names_the_requests_that_it_is_for(
    stream: io.StringIO,
) -> None:
    async def call(*deadlines: Deadline) -> None:
        with named_call(deadlines, lambda *_: None) as name:
            with Underway().call(name, deadlines):
                log.warning("within")
            log.warning("behind")

    for requests in (["a"], ["a", "b", "a"], [""]):
        asyncio.run(call(*map(deadline_for, requests)))
    one, _, several, _, none, behind = lines(stream)
    assert one["request_id"] == "a"
    assert several["request_ids"] == ["a", "b"]
    assert not {"request_id", "request_ids"} & {*none, *behind}
    assert deadline_for("a").branch().request == "a"


def test_a_call_names_some_of_its_requests() -> None:
    names = [f"{n}{LONGEST[1:]}" for n in range(REQUESTS_NAMED_MAX + 1)]
    name = name_for("0123456789abcdef-1234567890", names)
    assert name.split()[1:] == names[:REQUESTS_NAMED_MAX]
    packed = pack_request(name, b"frame")
    assert request_head(packed[:5]) == (len(name), 5)  # it fits into a byte


def test_a_batch_is_for_no_request_alone() -> None:
    seen = []

    async def run(items: list[int]) -> list[int]:
        seen.append(REQUEST_ID.get(""))
        return items

    async def ask() -> None:
        REQUEST_ID.set("a")
        assert await Batcher(run, 9).submit(1) == 1
        assert REQUEST_ID.get("") == "a"

    asyncio.run(ask())
    assert seen == [""]


class Method:
    def __init__(self, name: str, calls: list[Any]) -> None:
        self._name, self._calls = name, calls

    async def remote(self, *arguments: Any) -> bytes:
        self._calls.append((self._name, *arguments))
        return b"{}"


class FakeActor:
    """A writer's handle, which notes what is called."""

    def __init__(self, *methods: str) -> None:
        self.calls: list[Any] = []
        for name in methods:
            setattr(self, name, Method(name, self.calls))


def test_the_writer_is_told_for_which_request_it_works() -> None:
    async def ask(actor: FakeActor, request: str) -> Any:
        REQUEST_ID.set(request)
        assert await RemoteWriter(actor).delete(b"x") == b"{}"
        return actor.calls[-1]

    new, earlier = FakeActor("delete", "for_request"), FakeActor("delete")
    assert asyncio.run(ask(new, "a")) == ("for_request", "a", "delete", b"x")
    assert asyncio.run(ask(new, "")) == ("delete", b"x")
    assert asyncio.run(ask(earlier, "a")) == ("delete", b"x")
