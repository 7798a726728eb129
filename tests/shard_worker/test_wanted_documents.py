"""Documents are read in the shard under the bytes that may be used, and only the wanted fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.operations import Insert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.row_reader import RowReader
from bitsift.shard_worker.types import FIELDS, Document, Query, Unread, Wanted
from tests.shard_worker.small_shard import CALIBRATION, new_shard, unit_vectors, vector_of
from tests.writing import written

LONG = "long " * 40_000
TEXTS = ["short", LONG, "small", LONG + "er", "tiny"]


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    made = new_shard(tmp_path / "shard")
    codes = CALIBRATION.quantize(unit_vectors(len(TEXTS)))[0]
    ids = [f"id {number}" for number in range(len(TEXTS))]
    titles = [f"title {number}" for number in range(len(TEXTS))]
    metadata = ['{"a":[1,"\\""]}'] * len(TEXTS)
    written(made, Insert(ids, titles, TEXTS, metadata, range(len(TEXTS)), codes))
    yield made
    made.close()


@pytest.fixture
def decompressed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the compressed documents that were decompressed."""
    seen: list[int] = []
    plain = RowReader._decompressed

    def watched(self, body):  # type: ignore[no-untyped-def]
        seen.append(len(body))
        return plain(self, body)

    monkeypatch.setattr(RowReader, "_decompressed", watched)
    return seen


def stored_bytes(row: int) -> int:
    fields = [f"id {row}", f"title {row}", TEXTS[row], '{"a":[1,"\\""]}', row]
    return len(orjson.dumps(fields))


def test_what_does_not_fit_is_not_read_and_says_its_size(
    shard: Shard, decompressed: list[int]
) -> None:
    found = shard.documents(shard.origin, range(5), Wanted(FIELDS, 1_000))
    assert [isinstance(item, Document) for item in found] == [True, False, True, False, True]
    assert found[1] == Unread(stored_bytes(1))
    assert found[3] == Unread(stored_bytes(3))
    assert len(decompressed) == 3
    short = found[0]
    assert isinstance(short, Document)
    assert (short.text, short.metadata, short.size_bytes) == (
        "short",
        {"a": [1, '"']},
        stored_bytes(0),
    )


def test_exactly_as_many_bytes_as_are_left_may_be_used(shard: Shard) -> None:
    needed = sum(map(stored_bytes, range(5)))
    assert all(
        isinstance(d, Document)
        for d in shard.documents(shard.origin, range(5), Wanted(FIELDS, needed))
    )
    found = shard.documents(shard.origin, range(5), Wanted(FIELDS, needed - 1))
    assert [isinstance(item, Unread) for item in found] == [False] * 4 + [True]


@pytest.mark.parametrize(
    "fields", [frozenset(), {"title"}, {"metadata"}, {"title", "metadata"}, {"text"}]
)
def test_only_the_wanted_fields_leave_the_store_and_count(
    shard: Shard, fields: frozenset[str]
) -> None:
    found = shard.documents(shard.origin, range(5), Wanted(frozenset(fields), 600))
    assert all(isinstance(d, Document) for d in found) == ("text" not in fields)
    for row, item in enumerate(found):
        if isinstance(item, Document):
            assert item.id == f"id {row}"
            assert item.title == (f"title {row}" if "title" in fields else "")
            assert item.text == (TEXTS[row] if "text" in fields else "")
            assert item.metadata == ({"a": [1, '"']} if "metadata" in fields else {})
            assert item.size_bytes < 150
        else:
            assert isinstance(item, Unread)
            assert item.size_bytes > 200_000


def test_a_search_sends_along_only_what_fits(shard: Shard) -> None:
    for mode in (Mode.EXACT, Mode.AUTO):
        options = SearchOptions(vector=vector_of("any"), mode=mode, top_k=5)
        query = Query(options, documents_bytes_max=1_000)
        (found,) = shard.search([query])
        assert len(found) == 5
        assert sorted(d.text for d in found.documents.values()) == ["short", "small", "tiny"]
        fewer = dataclasses.replace(query, documents_bytes_max=1 << 20, documents_max=2)
        (found,) = shard.search([fewer])
        best = found.rows[np.argsort(-found.scores, kind="stable")[:2]]
        assert set(found.documents) == set(best.tolist())
