"""Pages of documents that pass a filter: each once, whatever is written between two pages."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from bitsift.errors import DeadlineExceeded, ReplicaBehind
from bitsift.filters.forms import canonical
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.operations import Delete, Upsert
from bitsift.shard_worker.search import listing as module
from bitsift.shard_worker.search.listing import KEY_MAX, Listing
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.types import Wanted
from bitsift.write_token import Reached
from tests.filters.brute_force import passes, random_filter, random_metadata
from tests.shard_worker.small_shard import flip_a_bit_where
from tests.shard_worker.test_shard import CALIBRATION, DIMENSION, IDENTITY, unit_vectors
from tests.writing import written

IDS = [f"id {number}" for number in range(400)]


class Held:
    """A shard, and the metadata of what was written to it, by id."""

    def __init__(self, folder: Path) -> None:
        Shard.create(folder, IDENTITY)
        self.shard = Shard(folder, CALIBRATION, IDENTITY)
        self.documents: dict[str, dict[str, Any]] = {}

    def write(self, documents: dict[str, dict[str, Any]]) -> None:
        count = len(documents)
        codes = CALIBRATION.quantize(unit_vectors(count))[0]
        assert codes.shape == (count, DIMENSION)
        written(
            self.shard,
            Upsert(
                ids=list(documents),
                titles=[""] * count,
                texts=["x" * 100] * count,
                metadata=[orjson.dumps(metadata).decode() for metadata in documents.values()],
                positions=[-1] * count,
                codes=codes,
            ),
        )
        self.documents |= documents

    def delete(self, ids: list[str]) -> None:
        written(self.shard, Delete(ids))
        for key in ids:
            del self.documents[key]

    def expected(self, filter_: dict[str, Any]) -> list[str]:
        found = [key for key in self.documents if passes(filter_, key, self.documents[key])]
        return [found[place] for place in np.argsort(id_keys(found), kind="stable")]

    def pages(self, filter_: dict[str, Any], limit: int, **given: Any) -> Iterator[list[str]]:
        after = -1
        while True:
            asked = Listing(canonical(filter_), after, limit, **given)
            found = self.shard.listed(asked)
            assert list(found.keys) == id_keys([it.id for it in found.documents]).tolist()
            yield [document.id for document in found.documents]
            if found.upto == KEY_MAX:
                return
            assert found.upto > after
            after = found.upto


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    held = Held(tmp_path / "shard")
    yield held
    held.shard.close()


def some(chance: random.Random, count: int) -> dict[str, dict[str, Any]]:
    return {key: random_metadata(chance) for key in chance.sample(IDS, count)}


@pytest.mark.parametrize("walked_per_id", [0, 1 << 40])
def test_pages_hold_each_document_that_passes_once_in_the_order_of_their_hashes(
    held: Held, walked_per_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WALKED_PER_ID", walked_per_id)
    chance = random.Random(walked_per_id)
    for step in range(5):
        held.write(some(chance, 100))
        held.delete(chance.sample(sorted(held.documents), 20))
        if step == 2:
            with held.shard.still() as store:
                store.merge_ids(contextlib.nullcontext())
        if step == 3:
            held.shard.save_bits()
            held.shard.compact()
        for filter_ in ({}, random_filter(chance), random_filter(chance)):
            expected = held.expected(filter_)
            assert held.shard.listed(Listing(canonical(filter_))).matching == len(expected)
            for limit in (1_000, len(expected), 7):
                pages = list(held.pages(filter_, max(1, limit)))
                assert [key for page in pages for key in page] == expected
                assert all(len(page) <= max(1, limit) for page in pages)


@pytest.mark.parametrize("walked_per_id", [0, 1 << 40])
def test_what_stays_is_listed_once_while_other_documents_come_and_go(
    held: Held, walked_per_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WALKED_PER_ID", walked_per_id)
    chance = random.Random(1)
    held.write({key: {"n": 1} for key in IDS})
    stays, changes = IDS[:100], IDS[100:300]
    seen: list[str] = []
    for page in held.pages({"n": 1}, 20):
        seen += page
        held.write({key: {"n": chance.choice([1, 2])} for key in chance.sample(changes, 20)})
        gone = [key for key in IDS[300:] if key in held.documents]
        held.delete(chance.sample(gone, min(5, len(gone))))
        if chance.random() < 0.3:
            held.shard.compact()
    assert len(seen) == len(set(seen))
    assert set(stays) <= set(seen)


def test_a_page_ends_where_its_bytes_end_and_the_next_one_goes_on(held: Held) -> None:
    held.write({key: {"n": 1} for key in IDS})
    fields = frozenset(["text"])
    pages = list(held.pages({"n": 1}, 100, wanted=Wanted(fields, 1_000)))
    assert [key for page in pages for key in page] == held.expected({"n": 1})
    assert max(map(len, pages)) < 10
    one = held.shard.listed(Listing(limit=5, wanted=Wanted(fields, 50)))  # it has no room, but goes
    assert [it.id for it in one.documents] == held.expected({})[:1]


def test_a_damaged_document_is_left_out_and_what_is_behind_it_is_listed(
    tmp_path: Path, held: Held
) -> None:
    held.write({key: {"n": 1} for key in IDS})
    expected = held.expected({})
    held.shard.close()
    flip_a_bit_where(tmp_path / "shard" / "store-00000" / DATA_FILE, b'"id 11"')
    held.shard = Shard(tmp_path / "shard", CALIBRATION, IDENTITY)
    found = [key for page in held.pages({}, 9) for key in page]
    assert len(found) == len(expected) - 1
    assert [key for key in expected if key in set(found)] == found


def test_a_listing_has_its_deadline_and_what_it_must_have_applied(held: Held) -> None:
    held.write({"a": {}})
    with pytest.raises(DeadlineExceeded):
        held.shard.listed(Listing(deadline=Deadline.after(-1.0)))
    with pytest.raises(ReplicaBehind):
        held.shard.listed(Listing(least=Reached(version=1 << 62)))
