"""WriteService over real shards: what becomes of documents, and that searches then find it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router import shard_writes
from router.fanout import LocalLink
from router.service import Question, SearchService
from router.writes import SLICE_DOCUMENTS, WriteService
from shard_worker.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ShardUnavailable,
    StorageFull,
    Unavailable,
)
from shard_worker.shard import Shard
from shard_worker.types import Mode, Operation, Outcome
from tests.fakes import (
    BrokenLink,
    FrozenLink,
    HashEncoder,
    make_service,
    make_shards,
    make_writer,
)

DIMENSION = 64
NOTHING = np.empty((0, DIMENSION), dtype=np.float32)


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
        return dict(orjson.loads(asyncio.run(self.writer.upsert(body))))

    def statuses(self, *documents: Any) -> list[str]:
        return [result["status"] for result in self.upsert(*documents)["results"]]

    def delete(self, *ids: str) -> dict[str, Any]:
        answer = asyncio.run(self.writer.delete(orjson.dumps({"ids": ids})))
        return dict(orjson.loads(answer))

    def found(self, mode: Mode = Mode.EXHAUSTIVE, top_k: int = 100) -> dict[str, str | None]:
        """Text by id of all that a search finds."""
        question = Question(vector=np.ones(DIMENSION), top_k=top_k, mode=mode)
        hits = asyncio.run(self.service.search(question)).hits
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
        {"id": "a", "status": "deleted", "error": None},
        {"id": "b", "status": "missing", "error": None},
        {"id": "a", "status": "missing", "error": None},
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
        "detail": "no text and no vector",
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


def test_an_index_of_ready_made_vectors_takes_vectors_only(tmp_path: Path) -> None:
    vector = np.arange(1, DIMENSION + 1, dtype=np.float32)
    with opened(tmp_path, has_model=False) as index:
        assert index.statuses(doc("a"), {"id": "b", "vector": vector}) == ["rejected", "created"]
        assert index.statuses({"id": "b", "vector": vector}) == ["unchanged"]
        assert index.statuses({"id": "b", "vector": -vector}) == ["updated"]
        hits = asyncio.run(index.service.search(Question(vector=-vector))).hits
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
    lines, counts = asyncio.run(index.writer.upsert_lines(block, 41, False))
    answers = [orjson.loads(line) for line in lines.splitlines()]
    assert [(a["line"], a["id"], a["status"]) for a in answers] == [
        (41, "a", "created"),
        (43, None, "rejected"),
        (44, "b", "created"),
    ]
    assert counts == {"created": 2, "updated": 0, "unchanged": 0, "rejected": 1, "failed": 0}
    lines, counts = asyncio.run(index.writer.upsert_lines(block, 41, True))
    assert [orjson.loads(line)["line"] for line in lines.splitlines()] == [43]
    assert (counts["unchanged"], counts["rejected"]) == (2, 1)


def test_an_empty_call_is_answered_with_nothing(index: Index) -> None:
    assert index.upsert() == {
        "results": [], "created": 0, "updated": 0, "unchanged": 0, "rejected": 0, "failed": 0,
    }  # fmt: skip
    assert index.delete() == {"results": [], "deleted": 0, "missing": 0, "failed": 0}


# --- what fails ----------------------------------------------------------------------------


class FullLink(LocalLink):
    """A real shard whose disk is full. ``was_reached`` proves that it was asked."""

    was_reached = False

    async def write(self, operations: Sequence[Operation]) -> list[list[Outcome]]:
        self.was_reached = True
        raise StorageFull("the disk of shard 1 is full")


def with_link(index: Index, number: int, link: Any) -> None:
    """Put ``link`` in the place of a shard's."""
    index.links[number] = link
    calibration = index.service.description.calibration
    index.writer = make_writer(index.links, calibration, index.encoder)


def ids_of(index: Index, shard: int, count: int = 3) -> list[str]:
    from shard_worker.codes import shard_of

    names = (f"n{i}" for i in range(1_000))
    return [name for name in names if shard_of(name, len(index.shards)) == shard][:count]


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
        "error": {"type": "StorageFull", "detail": "the disk of shard 1 is full"},
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
    with pytest.raises(DeadlineExceeded, match="it may have: send the same again"):
        index.upsert(*[doc(key) for key in ids_of(index, 1)])
    assert frozen.was_reached
    assert index.statuses(*[doc(key) for key in ids_of(index, 0)]) == ["created"] * 3


def test_a_model_that_fails_stores_nothing_of_what_it_was_to_encode(index: Index) -> None:
    class BrokenModel(HashEncoder):
        calls = 0

        def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
            self.calls += 1
            raise Unavailable("the model 'm' returned NaN or zeros; nothing is kept")

    broken = BrokenModel(DIMENSION)
    calibration = index.service.description.calibration
    index.writer = make_writer(index.links, calibration, broken)
    with pytest.raises(Unavailable, match="the model 'm' returned NaN"):
        index.upsert(doc("a"), doc("b"))
    assert broken.calls
    vector = [1.0] * DIMENSION
    assert index.statuses(doc("a"), doc("v", vector=vector)) == ["failed", "created"]
    assert set(index.found()) == {"v"}


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
            gate.wait(30)
            return super().encode_documents(texts)

    encoder = GatedEncoder()
    index.writer = make_writer(index.links, index.service.description.calibration, encoder)
    many = orjson.dumps({"documents": [doc(f"d{i}", f"text number {i}") for i in range(1_000)]})

    async def scenario() -> None:
        large = asyncio.create_task(index.writer.upsert(many))
        await asyncio.to_thread(reached.wait, 30)
        small = asyncio.create_task(
            index.writer.upsert(orjson.dumps({"documents": [doc("s", "small")]}))
        )
        await asyncio.sleep(0.1)
        gate.set()
        await small
        place = next(n for n, batch in enumerate(encoder.batches) if "small" in batch)
        assert sum(len(batch) for batch in encoder.batches[:place]) <= 200
        await large

    asyncio.run(scenario())
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
        async def write(self, operations: Sequence[Operation]) -> list[list[Outcome]]:
            calls.append(len(operations))
            return await super().write(operations)

    with opened(tmp_path, 1) as index:
        with_link(index, 0, CountingLink(index.shards[0]))

        async def scenario() -> None:
            bodies = [orjson.dumps({"documents": [doc(f"d{i}")]}) for i in range(24)]
            await asyncio.gather(*(index.writer.upsert(body) for body in bodies))

        asyncio.run(scenario())
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
