"""A shard of wide rows that compares the first bits of all and the rest of a few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.bits.tuning import FIRST_FILE, LISTED_SHARE, TUNING_FILE
from bitsift.shard_worker.layout import read_json, write_json
from bitsift.shard_worker.native import kernels
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.search import first_bits
from bitsift.shard_worker.search.first_bits import SHARES, FirstBits
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Query, ShardSettings
from tests.shard_worker.clustered import Clustered
from tests.shard_worker.kernel_ways import going
from tests.writing import written

pytestmark = pytest.mark.skipif(not kernels.is_there(), reason="no kernel was compiled here")

CLUSTERED = Clustered(768)
vectors, documents = CLUSTERED.vectors, CLUSTERED.documents
CALIBRATION, IDENTITY = CLUSTERED.calibration, CLUSTERED.identity
ROWS = 4_000


def opened(folder: Path, settings: ShardSettings | None = None) -> Shard:
    return Shard(folder, CALIBRATION, IDENTITY, settings or ShardSettings())


def rows_found(shard: Shard, query: np.ndarray, **options) -> list[int]:  # type: ignore[no-untyped-def]
    (found,) = shard.search([Query(SearchOptions(vector=query, candidates=40, **options))])
    return sorted(found.rows.tolist())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shard of ROWS rows that was closed before anything of it was measured."""
    Shard.create(tmp_path / "shard", IDENTITY)
    shard = opened(tmp_path / "shard")
    written(shard, documents(vectors(ROWS)))
    shard.close()
    monkeypatch.setattr(first_bits, "ROWS_MIN", 1_000)
    return tmp_path / "shard"


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The share of the rows that every pass over all rows compares by all of their bits."""
    seen: list[float | None] = []
    plain: Any = BinaryIndex.search

    def watched(self, *arguments, first_share=None):  # type: ignore[no-untyped-def]
        seen.append(first_share)
        return plain(self, *arguments, first_share=first_share)

    monkeypatch.setattr(BinaryIndex, "search", watched)
    return seen


def test_each_mode_compares_as_many_bits_as_it_says(
    folder: Path, shares: list[float | None]
) -> None:
    first_bits._write(folder, ROWS, {0.001: 0.9, 0.004: 0.9991, 0.016: 0.9996, 0.032: 1.0})
    shard, query = opened(folder), vectors(1, 5)[0]
    assert shard.status().first_share == 0.016
    expected: list[tuple[dict[str, Any], float | None]] = [
        ({"mode": Mode.EXACT}, None),
        ({"mode": Mode.AUTO}, 0.016),
        ({"mode": Mode.APPROXIMATE}, 0.016),
        ({"mode": Mode.APPROXIMATE, "recall": 0.9}, 0.001),
        ({"mode": Mode.AUTO, "recall": 0.95}, 0.004),
        ({"mode": Mode.AUTO, "recall": 0.95, "top_k": 40}, 0.008),
        ({"mode": Mode.AUTO, "top_k": 80}, 0.064),
        ({"mode": Mode.AUTO, "top_k": 81}, None),
    ]
    for options, share in expected:
        shares.clear()
        rows_found(shard, query, **options)
        assert shares == [share], options
    shard.close()


def test_where_lists_are_a_scan_that_is_affordable_goes_by_first_bits(
    folder: Path, shares: list[float | None]
) -> None:
    first_bits._write(folder, ROWS, {0.016: 0.9996})
    for budget_ms, share in ((1_000.0, 0.016), (0.0, LISTED_SHARE)):
        shard, query = opened(folder, ShardSettings(exact_budget_ms=budget_ms)), vectors(1, 5)[0]
        if shard.status().lists == 0:
            shard.train()
        shares.clear()
        rows_found(shard, query)
        assert shares == [share]
        shard.close()


@pytest.mark.parametrize("says_enough", [True, False])
def test_lists_go_by_first_bits_where_scans_may_and_as_they_were_measured(
    folder: Path, shares: list[float | None], says_enough: bool
) -> None:
    first_bits._write(folder, ROWS, dict.fromkeys(SHARES, 0.9996 if says_enough else 0.99))
    shard, query = opened(folder), vectors(1, 5)[0]
    shard.train()
    share = LISTED_SHARE if says_enough else None
    assert set(shares) == {None, share}, "the exact scan, and lists"
    for options, expected in (
        ({}, share),
        ({"nprobe": 2}, share),
        ({"recall": 0.6}, share),
        ({"top_k": 30}, share and 1.5 * share),
    ):
        shares.clear()
        rows_found(shard, query, mode=Mode.APPROXIMATE, **options)
        assert shares == [expected], options
    shard.close()
    kept = read_json(folder / TUNING_FILE)
    assert kept.pop("first_share") == share
    write_json(folder / TUNING_FILE, kept)  # as an earlier release left it
    shard = opened(folder)
    shares.clear()
    rows_found(shard, query, mode=Mode.APPROXIMATE)
    assert shares == [None]
    shard.close()


def test_what_is_measured_finds_what_an_exact_scan_finds(folder: Path) -> None:
    shard = opened(folder)
    rows, curve = first_bits._read(folder)
    assert rows == ROWS
    assert list(curve) == list(SHARES[: len(curve)])
    share = shard.status().first_share
    assert curve[share] >= first_bits.TARGET
    queries = vectors(100, 5)
    shared = [
        len(set(rows_found(shard, q, mode=Mode.EXACT)) & set(rows_found(shard, q))) / 40
        for q in queries
    ]
    assert np.mean(shared) >= 0.999
    shard.close()


def test_what_an_earlier_release_gave_up_is_measured_again(folder: Path) -> None:
    for last, found in ((SHARES[-2], 1.0), (SHARES[-2], 0.99), (SHARES[-1], 0.99)):
        first_bits._write(folder, ROWS, {last: found})
        opened(folder).close()
        is_kept = first_bits._read(folder)[1] == {last: found}
        assert is_kept == (found == 1.0 or last == SHARES[-1])


def test_where_first_bits_say_too_little_all_are_compared(
    folder: Path, shares: list[float | None]
) -> None:
    first_bits._write(folder, ROWS, dict.fromkeys(SHARES, 0.99))
    shard = opened(folder)
    assert shard.status().first_share == 0
    shares.clear()
    rows_found(shard, vectors(1, 5)[0])
    rows_found(shard, vectors(1, 5)[0], mode=Mode.APPROXIMATE, recall=0.995)
    assert shares == [None, None]
    shard.close()


def test_it_is_measured_once_and_again_when_the_shard_has_twice_the_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folder).close()
    with monkeypatch.context() as patched:
        patched.setattr(FirstBits, "measure", None)
        shard = opened(folder)
        written(shard, documents(vectors(ROWS, 1), ROWS))
        shard.maintain()
    assert first_bits._read(folder)[0] == ROWS
    written(shard, documents(vectors(1, 2), 2 * ROWS))
    shard.maintain()
    assert first_bits._read(folder)[0] == 2 * ROWS + 1
    written(shard, Delete([str(place) for place in range(2 * ROWS)]))
    shard.compact()
    shard.maintain()
    assert shard.status().first_share > 0  # of one row nothing is measured
    shard.close()
    shard = opened(folder)
    assert shard.status().first_share == 0
    shard.close()


@pytest.mark.parametrize("content", ["", "{}", '{"rows": 4000}', '{"rows": 4000, "recall": [1]}'])
def test_a_damaged_measurement_is_made_again(folder: Path, content: str) -> None:
    (folder / FIRST_FILE).write_text(content)
    shard = opened(folder)
    assert first_bits._read(folder)[0] == ROWS
    assert shard.status().first_share > 0
    shard.close()


def test_a_measurement_that_cannot_be_kept_costs_no_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(first_bits, "_write", full)
    shard = opened(folder)
    assert "the measured share of rows was not saved" in caplog.text
    assert shard.status().first_share > 0
    shard.close()


def test_without_a_kernel_or_with_few_rows_nothing_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with going("faiss"):
        shard = opened(folder)
        assert shard.status().first_share == 0
        assert len(rows_found(shard, vectors(1, 5)[0])) == 40
        shard.close()
    monkeypatch.setattr(first_bits, "ROWS_MIN", ROWS + 1)
    shard = opened(folder)
    assert shard.status().first_share == 0
    assert not (folder / FIRST_FILE).exists()
    shard.close()


def test_rows_added_and_removed_are_seen_at_once(folder: Path) -> None:
    shard, new = opened(folder), vectors(3, 8)
    for place, vector in enumerate(new):
        written(shard, documents(new[place : place + 1], first=place))
        assert place not in rows_found(shard, vectors(ROWS)[place])
        assert ROWS + place in rows_found(shard, vector)
    shard.close()
