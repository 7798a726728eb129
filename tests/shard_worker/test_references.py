"""A row number means something in one generation of one opened copy of a shard, nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsift.errors import BitsiftError, Unavailable
from bitsift.options import Mode, SearchOptions
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Candidates, Document, Found, Query, Read
from tests.fakes import make_service
from tests.shard_worker.small_shard import (
    CALIBRATION,
    batch,
    new_shard,
    open_shard,
    unit_vectors,
    vector_of,
)
from tests.writing import written

NAMES = [f"text {i}" for i in range(60)]


@contextlib.contextmanager
def two_copies(folder: Path, before: Sequence[str] = ()) -> Iterator[tuple[Shard, Shard]]:
    """A shard that holds ``before``, and a copy of its folder, both open."""
    shard = new_shard(folder / "one")
    if before:
        written(shard, batch(before, before))
    shard.close()
    shutil.copytree(folder / "one", folder / "other")
    copies = open_shard(folder / "one"), open_shard(folder / "other")
    try:
        yield copies
    finally:
        for copy in copies:
            copy.close()


def candidates(shard: Shard, text: str = NAMES[7]) -> Candidates:
    (found,) = shard.search([Query(SearchOptions(vector=vector_of(text), mode=Mode.EXACT))])
    return found


def asked(shard: Shard, found: Candidates) -> list[Found]:
    return shard.read(Read(found.origin, found.rows.tolist()))


@pytest.mark.parametrize("before", [[], NAMES[:20]], ids=["an empty one", "a filled one"])
def test_candidates_of_one_copy_are_no_documents_of_another(
    tmp_path: Path, before: list[str]
) -> None:
    later = [name for name in NAMES if name not in before]
    with two_copies(tmp_path, before) as (one, other):
        written(one, batch(later, later))
        written(other, batch(later[::-1], later[::-1]))  # the same documents in another order
        found = candidates(one)
        texts = [d.text for d in asked(one, found) if isinstance(d, Document)]
        assert texts[0] == NAMES[7]
        assert len(texts) == len(found)
        for item in asked(other, found):
            assert isinstance(item, Unavailable), f"{item} is not what was found"
            assert "another copy" in item.message


def test_a_folder_that_is_opened_again_knows_no_rows_of_before(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "one")
    written(shard, batch(NAMES, NAMES))
    found = candidates(shard)
    shard.close()
    again = open_shard(tmp_path / "one")  # meanwhile it may have been replaced by a backup
    assert all(isinstance(item, Unavailable) for item in asked(again, found))
    assert candidates(again).origin != found.origin
    again.close()


class HedgedLink(LocalLink):
    """A shard of two copies: one is searched, the other is asked for documents."""

    was_reached = False

    def __init__(self, searched: Shard, read: Shard) -> None:
        super().__init__(searched)
        self._other = read

    async def documents(self, reads: Sequence[Read]) -> Sequence[list[Found] | BitsiftError]:
        self.was_reached = True
        return await asyncio.to_thread(self._other.read_each, reads)


def test_an_answer_never_holds_the_document_of_another_copy(tmp_path: Path) -> None:
    with two_copies(tmp_path) as (one, other):
        written(one, batch(NAMES, NAMES))
        written(other, batch(NAMES[::-1], NAMES[::-1]))
        link = HedgedLink(one, other)
        service = make_service([link], CALIBRATION)
        # A later page needs a second round of calls.
        options = SearchOptions(vector=vector_of(NAMES[7]), offset=1, top_k=5)
        answer = asyncio.run(service.search(options))
        assert link.was_reached
        assert answer.hits == ()
        assert answer.partial
        assert {failure.error for failure in answer.coverage.failures} == {"Unavailable"}
        healthy = asyncio.run(make_service([LocalLink(one)], CALIBRATION).search(options))
        assert len(healthy.hits) == 5
        assert not healthy.partial


steps = st.lists(
    st.tuples(st.sampled_from(["add", "delete", "compact"]), st.integers(0, 11)), max_size=12
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, steps)
def test_rows_lead_to_the_documents_that_were_found_or_to_none(
    tmp_path_factory: pytest.TempPathFactory,
    of_one: list[tuple[str, int]],
    of_other: list[tuple[str, int]],
) -> None:
    """Whatever happens to both copies before and after: never to another document."""
    with two_copies(tmp_path_factory.mktemp("copies"), NAMES[:12]) as copies:
        for shard, done in zip(copies, (of_one, of_other), strict=True):
            do(shard, done)
        vector = unit_vectors(1)[0]
        exhaustive = Query(SearchOptions(vector=vector, top_k=100, mode=Mode.EXHAUSTIVE))
        found = [shard.search([exhaustive])[0] for shard in copies]
        expected = [asked(shard, one) for shard, one in zip(copies, found, strict=True)]
        assert all(isinstance(d, Document) for documents in expected for d in documents)
        for shard, done in zip(copies, (of_other, of_one), strict=True):
            do(shard, done)
        for place, shard in enumerate(copies):
            assert asked(shard, found[place]) == expected[place]
            foreign = asked(shard, found[1 - place])
            assert all(isinstance(item, Unavailable) for item in foreign)


def do(shard: Shard, done: list[tuple[str, int]]) -> None:
    for what, number in done:
        if what == "add":
            written(shard, batch([NAMES[number]], [f"again {number}"]))
        elif what == "delete":
            written(shard, Delete([NAMES[number]]))
        else:
            shard.compact()
