"""Shard and store on real LMDB files and real FAISS."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
import tempfile
import textwrap
import uuid
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsift.errors import (
    ChecksumMismatch,
    Corrupt,
    FormatMismatch,
    NotFound,
    Unavailable,
)
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.operations import Insert, Resume
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.packing import rows_per_block
from bitsift.shard_worker.types import Document, Query, ShardIdentity
from bitsift.write_status import WriteStatus
from tests.shard_worker.small_shard import flip_a_bit_where
from tests.writing import as_upsert, written

DIMENSION = 64
IDENTITY = ShardIdentity(str(uuid.UUID(int=1)), 0, 1, DIMENSION, DIMENSION)


def unit_vectors(rows: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    random = np.random.default_rng(seed)
    return normalize(random.standard_normal((rows, dimension)).astype(np.float32), dimension)


CALIBRATION = Calibration.from_sample(unit_vectors(2_000, 99), DIMENSION)


def batch(units: np.ndarray, ids: list[str], first_position: int = 0, **columns) -> Insert:  # type: ignore[no-untyped-def]
    n = len(ids)
    given = {
        "titles": [f"title {name}" for name in ids],
        "texts": [f"text {name}" for name in ids],
        "metadata": [""] * n,
        "positions": list(range(first_position, first_position + n)),
        **columns,
    }
    return Insert(ids=ids, codes=CALIBRATION.quantize(units)[0], **given)


def opened(folder: Path) -> Shard:
    return Shard(folder, CALIBRATION, IDENTITY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Shard.create(tmp_path / "shard", IDENTITY)
    return tmp_path / "shard"


@pytest.fixture
def shard(folder: Path) -> Iterator[Shard]:
    shard = opened(folder)
    yield shard
    shard.close()


def ids_of(shard: Shard, query: np.ndarray, **options) -> list[str]:  # type: ignore[no-untyped-def]
    (found,) = shard.search([Query(SearchOptions(vector=query, **options))])
    documents = shard.documents(found.origin, found.rows.tolist())
    return [document.id for document in documents if isinstance(document, Document)]


@pytest.mark.parametrize("rows", [0, 1, 2, 39, 40, 41, 399, 401])
@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.EXHAUSTIVE])
def test_a_shard_of_any_size_answers_with_what_it_has(shard: Shard, rows: int, mode: Mode) -> None:
    units = unit_vectors(rows) if rows else np.empty((0, DIMENSION), np.float32)
    written(shard, batch(units, [str(i) for i in range(rows)]))
    (found,) = shard.search(
        [Query(SearchOptions(vector=unit_vectors(1, 5)[0], candidates=40, mode=mode))]
    )
    assert len(found) == min(rows, 40)
    assert len(set(found.rows.tolist())) == len(found)


def test_every_vector_finds_itself_first(shard: Shard) -> None:
    units = unit_vectors(1_000)
    written(shard, batch(units, [str(i) for i in range(1_000)]))
    for place in range(0, 1_000, 50):
        (found,) = shard.search([Query(SearchOptions(vector=units[place]))])
        scores = CALIBRATION.scores(units[place], found.codes)
        assert found.rows[np.argmax(scores)] == place


def test_exhaustive_mode_equals_brute_force_over_the_decoded_codes(shard: Shard) -> None:
    units = unit_vectors(700)
    written(shard, batch(units, [str(i) for i in range(700)]))
    query = unit_vectors(1, 5)[0]
    (found,) = shard.search(
        [Query(SearchOptions(vector=query, candidates=30, mode=Mode.EXHAUSTIVE))]
    )
    scores = CALIBRATION.scores(query, CALIBRATION.quantize(units)[0])
    assert found.rows.tolist() == np.argsort(-scores, kind="stable")[:30].tolist()


def test_queries_in_one_batch_get_the_answers_they_get_alone(shard: Shard) -> None:
    written(shard, batch(unit_vectors(500), [str(i) for i in range(500)]))
    queries = [
        Query(SearchOptions(vector=vector, candidates=candidates, mode=mode))
        for vector in unit_vectors(3, 8)
        for candidates in (5, 40)
        for mode in (Mode.EXACT, Mode.EXHAUSTIVE)
    ]
    together = shard.search(queries)
    for query, answer in zip(queries, together, strict=True):
        (alone,) = shard.search([query])
        np.testing.assert_array_equal(answer.rows, alone.rows)
        np.testing.assert_array_equal(answer.codes, alone.codes)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(texts.filter(bool), texts, texts), unique_by=lambda t: t[0], max_size=20))
def test_any_id_and_text_round_trips(tmp_path_factory, documents) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("round") / "shard"
    Shard.create(folder, IDENTITY)
    shard = opened(folder)
    columns = [list(column) for column in zip(*documents, strict=True)] or [[], [], []]
    ids, titles, bodies = columns
    metadata = [orjson.dumps({"n": i, "title": titles[i]}).decode() for i in range(len(ids))]
    units = unit_vectors(len(ids)) if ids else np.empty((0, DIMENSION), np.float32)
    written(shard, batch(units, ids, titles=titles, texts=bodies, metadata=metadata))
    shard.close()
    shard = opened(folder)
    for place, (name, title, text) in enumerate(documents):
        expected = Document(name, title, text, {"n": place, "title": title}, place)
        assert shard.document(name) == expected
    shard.close()


@pytest.mark.parametrize(
    "name", ["x" * 5_000, "../../etc/passwd", "é", "e\u0301", "a/b?c#d", "\x00", "蜘蛛"]
)
def test_ids_of_any_length_and_script_are_kept_apart(shard: Shard, name: str) -> None:
    written(shard, batch(unit_vectors(2), [name, name + "'"]))
    assert shard.document(name).text == f"text {name}"
    assert shard.document(name + "'").id == name + "'"


def test_a_text_of_a_megabyte_and_an_empty_title_round_trip(shard: Shard) -> None:
    text = "arachnophobia ∀ " * 65_536
    written(shard, batch(unit_vectors(1), ["big"], texts=[text], titles=[""]))
    assert shard.document("big").text == text
    assert shard.document("big").title == ""


def test_the_same_record_twice_changes_nothing_and_a_later_one_with_its_id_replaces_it(
    shard: Shard,
) -> None:
    units = unit_vectors(3)
    stored = written(shard, batch(units, ["a", "b", "a"], texts=["first", "b", "third"]))
    assert stored == [WriteStatus.REJECTED, WriteStatus.CREATED, WriteStatus.CREATED]
    assert shard.document("a").text == "third"
    again = written(shard, batch(units, ["a", "b", "a"]))
    assert again == [WriteStatus.REJECTED, WriteStatus.UNCHANGED, WriteStatus.UNCHANGED]
    later = written(shard, batch(units[:1], ["a"], first_position=9, texts=["tenth"]))
    assert later == [WriteStatus.UPDATED]
    assert shard.document("a").text == "tenth"
    assert shard.status().documents == 2
    found = written(shard, Resume(["a", "b", "c", "a", "a"], [0, 1, 2, 9, 10]))
    assert found == ["rejected", "unchanged", "missing", "unchanged", "missing"]
    assert shard.status().rows == 3


@given(st.permutations(range(6)), st.data())
def test_of_records_with_one_id_the_last_wins_in_whatever_order_they_come(
    order: list[int], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as place:
        Shard.create(Path(place) / "s", IDENTITY)
        shard = opened(Path(place) / "s")
        cuts = sorted(data.draw(st.sets(st.integers(1, 5))))
        counts = Counter[WriteStatus]()
        for positions in (order[a:b] for a, b in zip([0, *cuts], [*cuts, 6], strict=True)):
            texts = [f"text {position}" for position in positions]
            loaded = batch(unit_vectors(len(texts)), ["a"] * len(texts), texts=texts)
            counts.update(written(shard, dataclasses.replace(loaded, positions=positions)))
        assert shard.document("a").text == "text 5"
        assert shard.status().documents == counts[WriteStatus.CREATED] == 1
        assert counts[WriteStatus.UPDATED] + counts[WriteStatus.REJECTED] == 5
        shard.close()


def test_a_replaced_document_is_never_found_again_also_after_a_restart(folder: Path) -> None:
    shard = opened(folder)
    units = unit_vectors(50)
    written(shard, batch(units, [str(i) for i in range(50)]))
    written(shard, as_upsert(batch(-units[:1], ["0"], texts=["new"])))
    for _ in range(2):
        assert shard.document("0").text == "new"
        assert ids_of(shard, units[0], candidates=49).count("0") <= 1
        assert "0" not in ids_of(shard, units[0], candidates=20)
        assert ids_of(shard, -units[0], candidates=1, top_k=1) == ["0"]
        assert shard.status().documents == 50
        shard.close()
        shard = opened(folder)
    shard.close()


def test_a_restart_gives_the_same_answers_with_and_without_a_snapshot(folder: Path) -> None:
    shard = opened(folder)
    written(shard, batch(unit_vectors(400), [str(i) for i in range(400)]))
    shard.save_bits()
    written(shard, batch(unit_vectors(100, 1), [f"late {i}" for i in range(100)]))
    query = unit_vectors(1, 4)[0]
    before = ids_of(shard, query)
    shard.close()
    for _ in range(2):
        shard = opened(folder)
        assert ids_of(shard, query) == before
        shard.close()
        for path in folder.glob("bits-*"):
            path.unlink()


def test_a_flipped_bit_in_a_code_is_reported_and_never_returned(folder: Path) -> None:
    shard = opened(folder)
    units = unit_vectors(100)
    written(shard, batch(units, [str(i) for i in range(100)]))
    shard.save_bits()
    shard.close()
    flip_a_bit_where(
        folder / "store-00000" / "data.mdb", CALIBRATION.quantize(units[7:8])[0].tobytes()
    )
    shard = opened(folder)
    (found,) = shard.search([Query(SearchOptions(vector=units[7]))])
    assert found.corrupt == 1
    assert 7 not in found.rows.tolist()
    assert shard.status().corrupt_rows_seen == 1
    (found,) = shard.search([Query(SearchOptions(vector=units[7], mode=Mode.EXHAUSTIVE))])
    assert 7 not in found.rows.tolist()
    shard.close()


def test_a_flipped_bit_in_a_text_is_an_error_not_a_text(folder: Path) -> None:
    shard = opened(folder)
    marker = uuid.UUID(int=0xABCDEF0123456789).hex
    written(shard, batch(unit_vectors(3), ["a", "b", "c"], texts=["x", marker, "z"]))
    shard.close()
    flip_a_bit_where(folder / "store-00000" / "data.mdb", marker.encode()[-16:])
    shard = opened(folder)
    one, other, third = shard.documents(shard.origin, [0, 1, 2])
    assert isinstance(other, ChecksumMismatch)
    assert isinstance(one, Document)
    assert isinstance(third, Document)
    shard.close()


@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_a_missing_or_empty_store_is_refused_not_served_as_empty(folder: Path, fault: str) -> None:
    path = folder / "store-00000" / "data.mdb"
    path.unlink() if fault == "missing" else path.write_bytes(b"")
    with pytest.raises(Corrupt, match=fault):
        opened(folder)


def test_a_shard_mounted_in_the_wrong_place_is_refused_with_both_names(folder: Path) -> None:
    wrong = ShardIdentity(IDENTITY.index_uuid, 5, 8, DIMENSION, DIMENSION)
    with pytest.raises(FormatMismatch, match=r"holds shard 0 of 1 .* expected shard 5 of 8"):
        Shard(folder, CALIBRATION, wrong)


def test_a_newer_format_is_refused_and_left_alone(folder: Path) -> None:
    path = folder / "shard.json"
    data = orjson.loads(path.read_bytes()) | {"format_version": "3.0"}
    path.write_bytes(orjson.dumps(data))
    with pytest.raises(
        FormatMismatch,
        match=r"format version 3\.0, this program reads 1 to 2 .* operator must install",
    ):
        opened(folder)
    assert orjson.loads(path.read_bytes()) == data


def test_no_shard_at_all_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        opened(tmp_path)


def test_a_second_process_is_refused_and_the_first_goes_on(shard: Shard) -> None:
    written(shard, batch(unit_vectors(1), ["a"]))
    script = """
        import sys
        from pathlib import Path
        from bitsift.shard_worker.layout import FolderLock
        FolderLock(Path(sys.argv[1]))
    """
    second = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(shard.folder)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert second.returncode == 1
    assert "is open in another process" in second.stderr
    with pytest.raises(Unavailable):
        opened(shard.folder)
    assert shard.document("a").id == "a"


@pytest.mark.parametrize("width", [32, 384, 768, 1024, 4096])
def test_packed_blocks_waste_little_of_a_page(width: int) -> None:
    rows = rows_per_block(width)
    used = rows * (width + 4)
    pages = -(-(used + 16) // 4096)
    assert pages <= 32
    assert used / (pages * 4096) > 0.96


def test_the_disk_holds_little_more_than_codes_and_bits(folder: Path) -> None:
    shard = opened(folder)
    rows = 60_000
    units = unit_vectors(rows)
    for start in range(0, rows, 10_000):
        part = [f"{i}" for i in range(start, start + 10_000)]
        empty = [""] * len(part)
        written(shard, batch(units[start : start + 10_000], part, texts=empty, titles=empty))
    shard.save_bits()
    store = shard._current.store
    with store._env.begin() as txn:
        pages = sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            for stat in [txn.stat(store._databases["codes"])]
        )
    bits = sum(path.stat().st_size for path in folder.glob("bits-*"))
    shard.close()
    assert (pages * 4096 + bits) / rows <= 1.10 * (DIMENSION + DIMENSION / 8)


def test_a_shard_process_loads_no_torch_and_no_web_server() -> None:
    heavy = ("torch", "fastapi", "httpx", "sentence_transformers")
    script = "import sys, bitsift.shard_worker.actor\n"
    script += f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_a_closed_shard_gives_its_ram_back_at_once(folder: Path) -> None:
    shard = opened(folder)
    written(shard, batch(unit_vectors(50), [str(i) for i in range(50)]))
    index, store = weakref.ref(shard._current.index), weakref.ref(shard._current.store)
    gc.disable()  # a reference cycle would keep gigabytes until Python looks for it
    try:
        shard.close()
        del shard
        assert (index(), store()) == (None, None)
    finally:
        gc.enable()
