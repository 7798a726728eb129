"""WriteService over real shards: what becomes of documents, and that searches then find it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsift.errors import (
    DeadlineExceeded,
    Fenced,
    InvalidRequest,
    RequestOutcome,
    ShardUnavailable,
    StorageFull,
    Unavailable,
)
from bitsift.options import Mode, SearchOptions
from bitsift.router.service import SearchService
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.placement import Placement
from bitsift.router.write import service as service_module
from bitsift.router.write import shard_writes
from bitsift.router.write.service import SLICE_DOCUMENTS, WriteService
from bitsift.shard_worker.operations import Confirm, Operation, Outcome, Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store import Store
from bitsift.write_status import WriteStatus
from tests.fakes import (
    BrokenLink,
    FrozenLink,
    HashEncoder,
    make_service,
    make_shards,
    make_writer,
)
from tests.replicas import FaultyLink

DIMENSION = 64
WAIT_S = 60.0
T = TypeVar("T")
NOTHING = np.empty((0, DIMENSION), dtype=np.float32)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Its result. Raises TimeoutError where it would hang."""
    return asyncio.run(asyncio.wait_for(work, WAIT_S))


class CountingEncoder(HashEncoder):
    """Keeps the texts that it was given, batch by batch."""

    def __init__(self) -> None:
        super().__init__(DIMENSION)
        self.batches: list[list[str]] = []

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        return self.encode_queries(texts)

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


@dataclass
class Index:
    """Real shards, a writer and a search service over them."""

    shards: list[Shard]
    links: list[Any]
    writer: WriteService
    service: SearchService
    encoder: CountingEncoder

    def upsert(self, *documents: Any) -> dict[str, Any]:
        body = orjson.dumps({"documents": documents}, option=orjson.OPT_SERIALIZE_NUMPY)
        return dict(orjson.loads(run(self.writer.upsert(body))))

    def statuses(self, *documents: Any) -> list[str]:
        return [result["status"] for result in self.upsert(*documents)["results"]]

    def delete(self, *ids: str) -> dict[str, Any]:
        answer = run(self.writer.delete(orjson.dumps({"ids": ids})))
        return dict(orjson.loads(answer))

    def found(self, mode: Mode = Mode.EXHAUSTIVE, top_k: int = 100) -> dict[str, str | None]:
        """Text by id of all that a search finds."""
        question = SearchOptions(vector=np.ones(DIMENSION, np.float32), top_k=top_k, mode=mode)
        hits = run(self.service.search(question)).hits
        assert len({hit.id for hit in hits}) == len(hits)
        return {hit.id: hit.text for hit in hits}

    @property
    def documents(self) -> int:
        return sum(shard.status().documents for shard in self.shards)


@contextlib.contextmanager
def opened(folder: Path, shards: int = 2, *, has_model: bool = True) -> Iterator[Index]:
    made, calibration = make_shards(folder, NOTHING, DIMENSION, shards)
    encoder = CountingEncoder()
    links = [LocalLink(shard) for shard in made]
    writer = make_writer(links, calibration, encoder, has_model=has_model)
    try:
        yield Index(made, list(links), writer, make_service(links, calibration), encoder)
    finally:
        for shard in made:
            shard.close()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with opened(tmp_path) as made:
        yield made


def doc(key: str, text: str = "a text", **more: Any) -> dict[str, Any]:
    return {"id": key, "text": text, **more}


def test_a_document_is_created_then_unchanged_then_updated_then_deleted(index: Index) -> None:
    assert index.statuses(doc("a")) == ["created"]
    assert index.statuses(doc("a")) == ["unchanged"]
    assert index.statuses(doc("a", "another")) == ["updated"]
    assert index.statuses(doc("a", "another", title="t")) == ["updated"]
    assert index.statuses(doc("a", "another", title="t", metadata={"k": 1})) == ["updated"]
    assert index.found() == {"a": "another"}
    assert index.delete("a", "b", "a")["results"] == [
        {"id": "a", "status": "deleted", "error": None, "version": None},
        {"id": "b", "status": "missing", "error": None, "version": None},
        {"id": "a", "status": "missing", "error": None, "version": None},
    ]
    assert index.found() == {}
    assert index.statuses(doc("a")) == ["created"]


@pytest.mark.parametrize("mode", list(Mode))
def test_what_was_acknowledged_is_found_at_once_in_every_mode(index: Index, mode: Mode) -> None:
    index.upsert(*[doc(f"d{i}", f"text {i}") for i in range(50)])
    assert len(index.found(mode)) == 50
    index.upsert(doc("d7", "changed"))
    index.delete("d8")
    found = index.found(mode)
    assert found["d7"] == "changed"
    assert "d8" not in found
    assert len(found) == 49


def test_the_same_content_is_not_encoded_again(index: Index) -> None:
    index.upsert(doc("a", "one", title="title"), doc("b", "two"))
    assert sorted(index.encoder.texts) == ["title one", "two"]
    answer = index.upsert(doc("a", "one", title="title"), doc("b", "two!"), doc("c", "three"))
    assert (answer["created"], answer["updated"], answer["unchanged"]) == (1, 1, 1)
    assert sorted(index.encoder.texts) == ["three", "title one", "two", "two!"]


def test_one_bad_document_does_not_stop_the_others_and_results_keep_their_order(
    index: Index,
) -> None:
    answer = index.upsert(doc("a"), {"id": "bad"}, doc("b"), 5, doc("c", vector=[1.0]))
    assert [(r["id"], r["status"]) for r in answer["results"]] == [
        ("a", "created"),
        ("bad", "rejected"),
        ("b", "created"),
        (None, "rejected"),
        ("c", "rejected"),
    ]
    assert answer["results"][1]["error"] == {
        "type": "InvalidRequest",
        "detail": "no text, no title and no vector",
        "outcome": "not_done",
    }
    assert (answer["created"], answer["rejected"], answer["failed"]) == (2, 3, 0)
    assert set(index.found()) == {"a", "b"}


def test_of_several_documents_of_one_id_the_last_good_one_counts(index: Index) -> None:
    answer = index.upsert(doc("a", "1"), doc("b"), doc("a", "2"), doc("a", "3"), {"id": "a"})
    statuses = [result["status"] for result in answer["results"]]
    assert statuses == ["unchanged", "created", "unchanged", "created", "rejected"]
    assert index.found()["a"] == "3"
    assert index.encoder.texts.count("1") == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [("é", "e\u0301"), ("a/../b", "b"), ("A", "a"), ("x" * 5_000, "x" * 4_999), (" a", "a")],
)
def test_ids_are_kept_exactly_and_twins_are_two_documents(
    index: Index, one: str, other: str
) -> None:
    assert index.statuses(doc(one, "1"), doc(other, "2")) == ["created", "created"]
    assert index.found() == {one: "1", other: "2"}
    assert index.delete(one)["deleted"] == 1
    assert index.found() == {other: "2"}


def test_a_given_vector_takes_the_place_of_the_models_and_back(index: Index) -> None:
    vector = np.arange(1, DIMENSION + 1, dtype=np.float32)
    assert index.statuses(doc("a")) == ["created"]
    assert index.statuses(doc("a", vector=vector)) == ["updated"]
    assert index.statuses(doc("a", vector=vector)) == ["unchanged"]
    assert index.statuses(doc("a", vector=vector[::-1].copy())) == ["updated"]
    assert index.statuses(doc("a")) == ["updated"]
    assert index.encoder.texts == ["a text", "a text"]


def test_an_index_of_precomputed_embeddings_takes_vectors_only(tmp_path: Path) -> None:
    vector = np.arange(1, DIMENSION + 1, dtype=np.float32)
    with opened(tmp_path, has_model=False) as index:
        assert index.statuses(doc("a"), {"id": "b", "vector": vector}) == ["rejected", "created"]
        assert index.statuses({"id": "b", "vector": vector}) == ["unchanged"]
        assert index.statuses({"id": "b", "vector": -vector}) == ["updated"]
        hits = run(index.service.search(SearchOptions(vector=-vector))).hits
        assert hits[0].id == "b"
        assert hits[0].score > 0.99


def test_more_documents_than_a_slice_are_stored_and_answered_in_order(index: Index) -> None:
    many = [doc(f"d{i}", f"text {i}") for i in range(SLICE_DOCUMENTS * 2 + 10)]
    answer = index.upsert(*many)
    assert answer["created"] == len(many)
    assert [result["id"] for result in answer["results"]] == [d["id"] for d in many]
    assert index.documents == len(many)
    assert index.upsert(*many)["unchanged"] == len(many)


def test_a_large_text_is_stored_whole(index: Index) -> None:
    text = "word " * 200_000
    assert (
        index.statuses(doc("a", text), *[doc(f"d{i}", text[:-i]) for i in range(1, 9)])
        == ["created"] * 9
    )
    assert index.found()["a"] == text


def test_lines_are_answered_by_lines_with_their_numbers(index: Index) -> None:
    block = b'{"id":"a","text":"x"}\n\n{"id":\n{"id":"b","text":"y"}\n'
    lines, counts, _ = run(index.writer.upsert_lines(block, 41, False))
    answers = [orjson.loads(line) for line in lines.splitlines()]
    assert [(a["line"], a["id"], a["status"]) for a in answers] == [
        (41, "a", "created"),
        (43, None, "rejected"),
        (44, "b", "created"),
    ]
    assert {status: count for status, count in counts.items() if count} == {
        "created": 2, "rejected": 1,
    }  # fmt: skip
    lines, counts, _ = run(index.writer.upsert_lines(block, 41, True))
    assert [orjson.loads(line)["line"] for line in lines.splitlines()] == [43]
    assert (counts["unchanged"], counts["rejected"]) == (2, 1)


def test_an_empty_call_is_answered_with_nothing(index: Index) -> None:
    assert index.upsert() == {
        "results": [], "created": 0, "updated": 0, "unchanged": 0, "conflict": 0, "rejected": 0,
        "failed": 0, "token": None,
    }  # fmt: skip
    assert index.delete() == {
        "results": [], "deleted": 0, "missing": 0, "conflict": 0, "failed": 0, "token": None,
    }  # fmt: skip


# --- what fails ----------------------------------------------------------------------------


class FullLink(LocalLink):
    """A real shard whose disk is full. ``was_reached`` proves that it was asked."""

    was_reached = False

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        self.was_reached = True
        raise StorageFull("the disk of shard 1 is full")


class BrokenWrites(LocalLink):
    """A real shard whose writes raise ``error``."""

    was_reached = False

    def __init__(self, shard: Shard, error: Exception) -> None:
        super().__init__(shard)
        self.error = error

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        self.was_reached = True
        raise self.error


def with_link(index: Index, number: int, link: Any) -> None:
    """Put ``link`` in the place of a shard's."""
    index.links[number] = link
    calibration = index.service.description.calibration
    index.writer = make_writer(index.links, calibration, index.encoder)


def ids_of(index: Index, shard: int, count: int = 3) -> list[str]:
    names = [f"n{i}" for i in range(1_000)]
    places = Placement(len(index.shards)).by_owner(names)[shard]
    return [names[place] for place in places[:count].tolist()]


def test_a_shard_that_fails_fails_its_documents_and_no_others(index: Index) -> None:
    full = FullLink(index.shards[1])
    with_link(index, 1, full)
    good, bad = ids_of(index, 0), ids_of(index, 1)
    answer = index.upsert(*[doc(key) for key in (*good, *bad)])
    assert full.was_reached
    assert (answer["created"], answer["failed"]) == (3, 3)
    assert answer["results"][-1] == {
        "id": bad[-1],
        "status": "failed",
        "error": {
            "type": "StorageFull",
            "detail": "the disk of shard 1 is full",
            "outcome": "not_done",
        },
        "version": None,
    }
    assert set(index.found()) == set(good)


def test_when_all_fail_alike_the_call_fails_with_that_error(index: Index) -> None:
    with_link(index, 1, FullLink(index.shards[1]))
    with pytest.raises(StorageFull, match="disk of shard 1"):
        index.upsert(*[doc(key) for key in ids_of(index, 1)])
    with_link(index, 1, BrokenLink(ShardUnavailable("shard 1 is loading")))
    with pytest.raises(ShardUnavailable, match="loading"):
        index.upsert(*[doc(key) for key in ids_of(index, 1)])
    with pytest.raises(ShardUnavailable, match="loading"):
        index.delete(*ids_of(index, 1))
    mixed = index.upsert({"id": "bad"}, doc(ids_of(index, 1)[0]))
    assert [result["status"] for result in mixed["results"]] == ["rejected", "failed"]


def test_a_shard_that_does_not_answer_is_a_failure_that_may_have_been_written(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writes, "WRITE_TIMEOUT_S", 0.05)
    frozen = FrozenLink()
    with_link(index, 1, frozen)
    with pytest.raises(DeadlineExceeded, match="it may have") as raised:
        index.upsert(*[doc(key) for key in ids_of(index, 1)])
    assert raised.value.outcome is RequestOutcome.UNKNOWN
    assert frozen.was_reached
    assert index.statuses(*[doc(key) for key in ids_of(index, 0)]) == ["created"] * 3


class FrozenHint(FrozenLink):
    """A shard that never says what it holds."""

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.was_reached = True
        await asyncio.Event().wait()
        raise AssertionError


def test_a_shard_that_does_not_say_what_it_holds_is_a_failure_that_was_not_written(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writes, "FORESEE_TIMEOUT_S", 0.05)
    frozen = FrozenHint()
    with_link(index, 1, frozen)
    with pytest.raises(DeadlineExceeded, match="which documents it has") as raised:
        index.upsert(*[doc(key) for key in ids_of(index, 1)])
    assert raised.value.outcome is RequestOutcome.NOT_DONE
    assert frozen.was_reached


class RecordingLink(LocalLink):
    """A real shard that keeps the operations it was asked to do."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard)
        self.written: list[Operation] = []

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        self.written += operations
        return await super().write(operations)


def test_what_is_unchanged_is_what_the_write_itself_says(index: Index) -> None:
    link = RecordingLink(index.shards[0])
    with_link(index, 0, link)
    keys = ids_of(index, 0)
    assert index.statuses(*[doc(key) for key in keys]) == ["created"] * 3
    assert [type(operation) for operation in link.written] == [Upsert]
    assert index.statuses(*[doc(key) for key in keys]) == ["unchanged"] * 3
    assert [type(operation) for operation in link.written] == [Upsert, Confirm]
    assert len(index.encoder.texts) == 3


class FencedLink(FaultyLink):
    """A real shard with a newer table than the writer's, which its writes and conditions meet."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard)
        self.fence(Fenced("a newer one is in force"))

    def fence(self, error: Fenced | None) -> None:
        self.write_error = self.held_error = error

    async def held(self, ids: Sequence[str], epoch: int) -> Sequence[int]:
        if self.held_error is not None:
            raise self.held_error
        return await super().held(ids, epoch)


async def refused(link: FencedLink, times: int = 2) -> None:
    """Returns when the shard has refused so many writes."""
    before = link.calls["write"]
    while link.calls["write"] < before + times:
        await asyncio.sleep(0.01)


def test_a_write_that_a_newer_table_refuses_waits_for_that_table(index: Index) -> None:
    """Each shard does it once: that which did it is not asked again."""
    fenced, other = FencedLink(index.shards[1]), RecordingLink(index.shards[0])
    with_link(index, 1, fenced)
    with_link(index, 0, other)
    keys = [*ids_of(index, 0), *ids_of(index, 1)]
    body = orjson.dumps({"documents": [doc(key) for key in keys]})

    async def scenario() -> dict[str, Any]:
        writing = asyncio.ensure_future(index.writer.upsert(body))
        await refused(fenced)
        fenced.fence(None)
        return dict(orjson.loads(await writing))

    assert [it["status"] for it in run(scenario())["results"]] == ["created"] * 6
    assert [type(operation) for operation in other.written] == [Upsert]
    assert index.documents == 6


def test_a_condition_that_cannot_be_read_under_an_old_table_is_decided_by_the_write(
    index: Index,
) -> None:
    (key,) = ids_of(index, 1, 1)
    version = index.upsert(doc(key))["results"][0]["version"]
    fenced = FencedLink(index.shards[1])
    with_link(index, 1, fenced)

    def body(expected: str) -> bytes:
        return orjson.dumps({"documents": [doc(key, "another", if_version=expected)]})

    async def scenario() -> list[dict[str, Any]]:
        writing = [
            asyncio.ensure_future(index.writer.upsert(body(it))) for it in ("12345", version)
        ]
        await refused(fenced)
        fenced.fence(None)
        return [orjson.loads(said)["results"][0] for said in await asyncio.gather(*writing)]

    assert [it["status"] for it in run(scenario())] == ["conflict", "updated"]


def test_a_write_waits_so_long_for_a_newer_table(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "FENCED_S", 0.15)
    fenced = FencedLink(index.shards[1])
    with_link(index, 1, fenced)
    with pytest.raises(Fenced) as raised:
        index.upsert(*[doc(key) for key in ids_of(index, 1)])
    assert raised.value.outcome is RequestOutcome.NOT_DONE
    assert fenced.calls["write"] > 1
    assert index.documents == 0


def test_a_write_that_may_have_been_done_before_it_was_refused_is_not_tried_again(
    index: Index,
) -> None:
    fenced = FencedLink(index.shards[1])
    fenced.fence(Fenced("some have it").with_outcome(RequestOutcome.UNKNOWN))
    with_link(index, 1, fenced)
    with pytest.raises(Fenced):
        index.upsert(*[doc(key) for key in ids_of(index, 1)])
    assert fenced.calls["write"] == 1


def test_a_hold_does_not_wait_for_writes_that_wait_for_its_end(
    index: Index, tmp_path: Path
) -> None:
    """A controller holds writes before it gives out the table for which they wait; they are done by
    the shards that take over.
    """
    fenced = FencedLink(index.shards[1])
    with_link(index, 1, fenced)
    keys = ids_of(index, 1)
    body = orjson.dumps({"documents": [doc(key) for key in keys]})

    async def scenario(links: list[LocalLink]) -> dict[str, Any]:
        writing = asyncio.ensure_future(index.writer.upsert(body))
        await refused(fenced)
        await index.writer.gate.hold(30.0)
        calls = fenced.calls["write"]
        await asyncio.sleep(3 * service_module._PAUSE_S)
        assert fenced.calls["write"] == calls
        index.writer.switch(links, "another")
        index.writer.gate.release()
        return dict(orjson.loads(await writing))

    with opened(tmp_path / "others", 3) as others:
        said = run(scenario([LocalLink(shard) for shard in others.shards]))
        assert [it["status"] for it in said["results"]] == ["created"] * 3
        assert (index.documents, others.documents) == (0, 3)


class HintOfYesterday(RecordingLink):
    """A real shard whose hint is that of a copy which has not seen the newest writes."""

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return [[WriteStatus.UNCHANGED] * len(operation) for operation in operations]


def test_a_hint_that_is_wrong_costs_a_call_and_acknowledges_nothing(index: Index) -> None:
    """The document that it takes for unchanged is new, changed, deleted, or damaged."""
    link = HintOfYesterday(index.shards[0])
    with_link(index, 0, link)
    new, changed, gone, same = ids_of(index, 0, 4)
    assert index.statuses(*[doc(key) for key in (changed, gone, same)]) == ["created"] * 3
    index.delete(gone)
    link.written.clear()
    answer = index.statuses(doc(new), doc(changed, "another"), doc(gone), doc(same))
    assert answer == ["created", "updated", "created", "unchanged"]
    assert [(type(it), len(it)) for it in link.written] == [(Confirm, 4), (Upsert, 3)]
    assert index.found() == {new: "a text", changed: "another", gone: "a text", same: "a text"}


def test_a_confirmation_that_fails_was_not_done(index: Index) -> None:
    (key,) = ids_of(index, 0, 1)
    assert index.statuses(doc(key)) == ["created"]
    with_link(index, 0, BrokenWrites(index.shards[0], ShardUnavailable("shard 0 died")))
    with pytest.raises(ShardUnavailable, match="died") as raised:
        index.upsert(doc(key))
    assert raised.value.outcome is RequestOutcome.NOT_DONE


@pytest.mark.parametrize("error", [MemoryError(), TimeoutError(), OSError(5, "a\nb")], ids=repr)
def test_an_error_that_nobody_foresaw_is_its_shards_and_the_others_results_are_kept(
    index: Index, error: Exception
) -> None:
    broken = BrokenWrites(index.shards[1], error)
    with_link(index, 1, broken)
    good, bad = ids_of(index, 0), ids_of(index, 1)
    answer = index.upsert(*[doc(key) for key in (*good, *bad)])
    assert broken.was_reached
    assert (answer["created"], answer["failed"]) == (3, 3)
    said = answer["results"][-1]["error"]
    assert (said["type"], said["outcome"]) == ("ShardUnavailable", "unknown")
    assert said["detail"].startswith("shard 1 failed unexpectedly")
    assert type(error).__name__ in said["detail"]
    assert set(index.found()) == set(good)
    gone = index.delete(*good, *bad)
    assert (gone["deleted"], gone["failed"]) == (3, 3)
    assert index.found() == {}


def test_a_slice_that_fails_leaves_the_results_of_the_others(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize, failed = index.writer._quantize, []

    def failing(vectors: Sequence[Any]) -> Any:
        if len(vectors) < SLICE_DOCUMENTS:
            failed.append(len(vectors))
            raise MemoryError
        return quantize(vectors)

    monkeypatch.setattr(index.writer, "_quantize", failing)
    many = [doc(f"d{i}", f"text {i}") for i in range(SLICE_DOCUMENTS + 10)]
    answer = index.upsert(*many)
    assert failed == [10]
    assert (answer["created"], answer["failed"]) == (SLICE_DOCUMENTS, 10)
    error = answer["results"][-1]["error"]
    assert error == {
        "type": "BitsiftError",
        "detail": "the writer failed (MemoryError)",
        "outcome": "unknown",
    }
    assert index.documents == SLICE_DOCUMENTS


def test_what_failed_before_anything_was_sent_to_be_written_was_not_done(index: Index) -> None:
    """Whatever the class says otherwise: only what the shard holds was asked."""

    class Late(LocalLink):
        async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
            raise DeadlineExceeded("shard 1 did not say what it holds")

    with_link(index, 1, Late(index.shards[1]))
    with pytest.raises(DeadlineExceeded) as raised:
        index.upsert(*[doc(key) for key in ids_of(index, 1)])
    assert raised.value.outcome is RequestOutcome.NOT_DONE

    class LateModel(HashEncoder):
        def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
            raise DeadlineExceeded("the model takes too long")

    calibration = index.service.description.calibration
    index.writer = make_writer(index.links, calibration, LateModel(DIMENSION))
    with pytest.raises(DeadlineExceeded, match="model") as raised:
        index.upsert(*[doc(key) for key in ids_of(index, 0)])
    assert raised.value.outcome is RequestOutcome.NOT_DONE


def test_failures_of_one_class_with_different_outcomes_are_not_raised_as_one(index: Index) -> None:
    loading = ShardUnavailable("shard 0 is loading").with_outcome(RequestOutcome.NOT_DONE)
    with_link(index, 0, BrokenLink(loading))
    with_link(index, 1, BrokenWrites(index.shards[1], ShardUnavailable("shard 1 died")))
    first, second = ids_of(index, 0, 1) + ids_of(index, 1, 1)
    answer = index.upsert(doc(first), doc(second))
    assert [result["error"]["outcome"] for result in answer["results"]] == ["not_done", "unknown"]
    answer = index.delete(first, second)
    assert [result["error"]["outcome"] for result in answer["results"]] == ["not_done", "unknown"]


def test_of_several_operations_in_one_call_only_the_one_that_failed_is_reported_so(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three callers wait for one shard: what the disk refuses of one is no news to the others."""
    bad, *good = ids_of(index, 1)
    index.upsert(doc(bad), doc(good[0]), doc(good[1]))
    plain, together = Store.write, list[int]()

    def write(self: Store, operations: Sequence[Operation], then: Any, **options: Any) -> Any:
        together.append(len(operations))
        if any(bad in operation.ids for operation in operations):
            raise StorageFull("no room")
        return plain(self, operations, then, **options)

    monkeypatch.setattr(Store, "write", write)

    async def scenario() -> list[Any]:
        bodies = [orjson.dumps({"ids": [key]}) for key in (good[0], bad, good[1])]
        calls = (index.writer.delete(body) for body in bodies)
        return list(await asyncio.gather(*calls, return_exceptions=True))

    first, failed, last = run(scenario())
    assert max(together) > 1, "they were not written together"
    assert isinstance(failed, StorageFull)
    assert failed.outcome is RequestOutcome.NOT_DONE
    assert [orjson.loads(answer)["deleted"] for answer in (first, last)] == [1, 1]
    assert bad in index.found()


def test_a_model_that_fails_stores_nothing_of_what_it_was_to_encode(index: Index) -> None:
    class BrokenModel(HashEncoder):
        calls = 0

        def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
            self.calls += 1
            raise Unavailable("the model 'm' returned NaN or zeros; nothing was stored")

    broken = BrokenModel(DIMENSION)
    calibration = index.service.description.calibration
    index.writer = make_writer(index.links, calibration, broken)
    with pytest.raises(Unavailable, match="the model 'm' returned NaN"):
        index.upsert(doc("a"), doc("b"))
    assert broken.calls
    vector = [1.0] * DIMENSION
    assert index.statuses(doc("a"), doc("v", vector=vector)) == ["failed", "created"]
    assert set(index.found()) == {"v"}


def test_a_document_that_the_model_has_no_vector_for_is_rejected_in_its_place(
    index: Index,
) -> None:
    class ForgetfulModel(HashEncoder):
        def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
            found = super().encode_documents(texts)
            found[["xyzzy" in text for text in texts]] = np.nan
            return found

    calibration = index.service.description.calibration
    index.writer = make_writer(index.links, calibration, ForgetfulModel(DIMENSION))
    given = [doc("a"), doc("bad", "xyzzy"), doc("b")]
    assert index.statuses(*given) == ["created", "rejected", "created"]
    assert index.statuses(doc("bad", "xyzzy")) == ["rejected"]
    lines = b"\n".join(orjson.dumps(document) for document in given)
    answered = run(index.writer.upsert_lines(lines, 1, only_errors=True))[0]
    (line,) = map(orjson.loads, answered.splitlines())
    assert (line["line"], line["status"]) == (2, "rejected")
    assert "no vector for this text" in line["error"]["detail"]


def test_a_model_that_cannot_be_loaded_is_the_operators_and_is_tried_again(tmp_path: Path) -> None:
    made, calibration = make_shards(tmp_path, NOTHING, DIMENSION, 1)
    tries = []

    def load() -> HashEncoder:
        tries.append(1)
        if len(tries) == 1:
            raise InvalidRequest("the model 'm' cannot be loaded")
        return HashEncoder(DIMENSION)

    from tests.fakes import make_description

    links = [LocalLink(shard) for shard in made]
    writer = WriteService(make_description(1, calibration), links, load)
    index = Index(made, links, writer, make_service(links, calibration), CountingEncoder())
    with pytest.raises(Unavailable, match="cannot be loaded"):
        index.upsert(doc("a"))
    assert index.statuses(doc("a")) == ["created"]
    assert index.statuses(doc("b")) == ["created"]
    assert len(tries) == 2
    made[0].close()


# --- together ------------------------------------------------------------------------------


def test_a_single_document_does_not_wait_for_a_large_calls_end(index: Index) -> None:
    """Its text goes into one of the next batches of the model."""
    gate, reached = threading.Event(), threading.Event()

    class GatedEncoder(CountingEncoder):
        def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
            reached.set()
            assert gate.wait(30)
            return super().encode_documents(texts)

    encoder = GatedEncoder()
    index.writer = make_writer(index.links, index.service.description.calibration, encoder)
    many = orjson.dumps({"documents": [doc(f"d{i}", f"text number {i}") for i in range(1_000)]})

    async def scenario() -> None:
        large = asyncio.create_task(index.writer.upsert(many))
        assert await asyncio.to_thread(reached.wait, 30)
        vectors = index.writer._vectors
        assert vectors is not None
        waiting = vectors._batcher.waiting
        small = asyncio.create_task(
            index.writer.upsert(orjson.dumps({"documents": [doc("s", "small")]}))
        )
        while vectors._batcher.waiting == waiting:  # until its text waits for the model
            await asyncio.sleep(0)
        gate.set()
        await small
        place = next(n for n, batch in enumerate(encoder.batches) if "small" in batch)
        assert sum(len(batch) for batch in encoder.batches[:place]) <= 200
        await large

    run(scenario())
    assert len(encoder.texts) == 1_001


def test_the_model_runs_at_the_lowest_priority(index: Index) -> None:
    seen: list[int] = []

    class SeenEncoder(HashEncoder):
        def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
            seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return self.encode_queries(texts)

    encoder = SeenEncoder(DIMENSION)
    index.writer = make_writer(index.links, index.service.description.calibration, encoder)
    index.upsert(doc("a"))
    assert seen == [19]


def test_what_waits_for_a_shard_goes_in_one_call(tmp_path: Path) -> None:
    calls: list[int] = []

    class CountingLink(LocalLink):
        async def write(
            self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
        ) -> Sequence[Outcome]:
            calls.append(len(operations))
            return await super().write(operations)

    with opened(tmp_path, 1) as index:
        with_link(index, 0, CountingLink(index.shards[0]))

        async def scenario() -> None:
            bodies = [orjson.dumps({"documents": [doc(f"d{i}")]}) for i in range(24)]
            await asyncio.gather(*(index.writer.upsert(body) for body in bodies))

        run(scenario())
        assert sum(calls) == 24
        assert len(calls) < 24
        assert index.documents == 24


operations = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "x", "y", "z"])), max_size=8
)


@given(st.lists(operations, max_size=6))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_calls_leave_what_a_dictionary_would_hold(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[tuple[str, str]]]
) -> None:
    """An empty text stands for a delete; each call is one upsert and one delete."""
    with opened(tmp_path_factory.mktemp("model"), 2) as index:
        model: dict[str, str] = {}
        for call in calls:
            written = [(key, text) for key, text in call if text]
            final = dict(written)
            answer = index.upsert(*[doc(key, text) for key, text in written])
            changed = {key for key, text in final.items() if model.get(key) != text}
            assert answer["created"] + answer["updated"] == len(changed)
            assert answer["created"] == len(changed - model.keys())
            model |= final
            gone = {key for key, text in call if not text}
            assert index.delete(*sorted(gone))["deleted"] == len(gone & model.keys())
            model = {key: text for key, text in model.items() if key not in gone}
            assert index.found() == model
        assert index.documents == len(model)
