"""The sources through Ray Data: nothing lost, nothing twice, and a fair sample in one pass."""

import gzip
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray._private.log import PlainRayHandler

from bitsift.cluster.ingest import datasource
from bitsift.cluster.ingest.datasource import (
    DocumentDatasource,
    Piece,
    priorities,
    read_sources,
    sample_rows,
    share_out,
)
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.documents import SCHEMA
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Compression, Fields, Format, SourceFile, SourcePlan
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.vectors import vectors_of
from bitsift.errors import InvalidRequest, StorageFull


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_cluster(None):
        yield


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> SourcePlan:
    """Files of every format, with 3 bad records among 3,124."""
    folder = tmp_path_factory.mktemp("mixed")
    rows = [orjson.dumps({"id": f"j{row}", "text": f"text {row}"}) for row in range(1000)]
    (folder / "a.jsonl").write_bytes(b"\n".join([*rows, b"{broken"]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join([b"[]", *rows])))
    (folder / "c.csv").write_text("id,text\n" + "".join(f"c{n},text {n}\n" for n in range(500)))
    table = pa.table({"id": [f"p{n}" for n in range(500)], "text": [f"p {n}" for n in range(500)]})
    pq.write_table(table, folder / "d.parquet", row_group_size=100)
    for number in range(122):
        (folder / f"e{number:03d}.md").write_text(f"# title {number}\n" if number else " ")
    return plan_sources([folder, *folder.glob("*.md")])


def plain(plan: SourcePlan) -> list[dict[str, Any]]:
    """Every row of a plan, read without Ray."""
    return [
        row for file in plan.files for table in read_documents(file) for row in table.to_pylist()
    ]


def fake_file(kind: Format, index: int, records: int, memory_bytes: int) -> SourceFile:
    """A file that is planned and does not exist."""
    starts = range(0, records, 7) if kind is Format.PARQUET else ()
    groups = tuple(min(7, records - first) for first in starts)
    return SourceFile(
        index, f"/f{index}", f"f{index}", kind, Compression.NONE, 1, Fields(), records,
        groups, memory_bytes=memory_bytes,
    )  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Format.VECTORS, Format.PARQUET, Format.JSON_LINES]),
            st.integers(0, 100),
            st.integers(0, 10_000),
        ),
        max_size=6,
    ),
    st.integers(1, 50),
)
def test_shares_hold_every_record_exactly_once_in_order(
    shapes: list[tuple[Format, int, int]], parallelism: int
) -> None:
    files = tuple(fake_file(kind, n, r, b) for n, (kind, r, b) in enumerate(shapes))
    before = datasource.TASK_BYTES_MIN
    datasource.TASK_BYTES_MIN = 1
    try:
        shares = share_out(SourcePlan(files, Fields()), parallelism)
    finally:
        datasource.TASK_BYTES_MIN = before
    pieces = list(itertools.chain.from_iterable(shares))
    assert all(shares)
    assert [f for f, _ in itertools.groupby(pieces, lambda piece: piece.file)] == list(files)
    for file in files:
        of_file = [piece.rows for piece in pieces if piece.file is file]
        if of_file == [None]:
            continue
        ranges = [rows for rows in of_file if rows is not None]
        assert len(ranges) == len(of_file)
        borders = [0, *itertools.accumulate(file.row_groups)]
        assert ranges[0][0] == 0
        assert ranges[-1][1] == file.records
        assert all(left[1] == right[0] for left, right in itertools.pairwise(ranges))
        if file.format is Format.PARQUET:
            assert {place for pair in ranges for place in pair} <= set(borders)


def test_a_large_npy_file_is_split_and_small_files_are_packed() -> None:
    large = fake_file(Format.VECTORS, 0, 100_000_000, 400 << 30)
    small = [fake_file(Format.JSON_LINES, n, 10, 1000) for n in range(1, 100)]
    shares = share_out(SourcePlan((large, *small), Fields()), 200)
    assert 200 <= len(shares) <= 202
    assert max(sum(piece.memory_bytes for piece in share) for share in shares) < (2.1 * (1 << 30))
    assert len(shares[-1]) >= 99


def test_read_tasks_are_small_and_survive_pickling(mixed: SourcePlan) -> None:
    tasks = DocumentDatasource(mixed).get_read_tasks(4)
    assert 2 <= len(tasks) <= 6
    copies = cloudpickle.loads(cloudpickle.dumps(tasks))
    assert len(cloudpickle.dumps(tasks)) < 200_000
    rows = sum(table.num_rows for task in copies for table in task())
    assert rows == 3_124


def test_ray_data_reads_exactly_what_the_readers_read(cluster: None, mixed: SourcePlan) -> None:
    tables = read_sources(mixed).iter_batches(batch_size=None, batch_format="pyarrow")
    rows = [
        row
        for table in tables
        if isinstance(table, pa.Table)
        for row in table.select(SCHEMA.names).to_pylist()
    ]
    assert sorted(rows, key=lambda row: row["position"]) == plain(mixed)


def test_vectors_reach_a_batch_function_as_arrow_lists(cluster: None, tmp_path: Path) -> None:
    matrix = np.random.default_rng(1).standard_normal((10_000, 64), dtype="f4")
    matrix[77] = 0
    np.save(tmp_path / "v.npy", matrix)

    def norms(table: pa.Table) -> pa.Table:
        good = table.filter(table.column("reject").is_null())
        found = np.linalg.norm(vectors_of(good, 64), axis=1)
        return pa.table({"position": good.column("position"), "norm": found})

    plan = plan_sources([tmp_path / "v.npy"])
    found = read_sources(plan).map_batches(norms, batch_format="pyarrow", batch_size=999)
    rows = sorted(found.take_all(), key=lambda row: row["position"])
    assert [row["position"] for row in rows] == [n for n in range(10_000) if n != 77]
    expected = np.delete(np.linalg.norm(matrix, axis=1), 77)
    assert np.allclose([row["norm"] for row in rows], expected)


def test_an_error_of_a_task_is_raised_and_prints_nothing(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = logging.getLogger("ray.data").handlers
    (console,) = (handler for handler in handlers if type(handler) is PlainRayHandler)
    printed = list[logging.LogRecord]()
    monkeypatch.setattr(console, "emit", printed.append)
    console.setLevel(logging.INFO)
    np.save(tmp_path / "v.npy", np.ones((100, 64), dtype="f4"))

    def fail(table: pa.Table) -> pa.Table:
        raise StorageFull("the disk is full")

    planned = read_sources(plan_sources([tmp_path / "v.npy"]))
    with pytest.raises(Exception, match="the disk is full"):
        planned.map_batches(fail, batch_format="pyarrow").take_all()
    assert printed == []


def test_an_empty_source_is_an_empty_dataset(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    plan = plan_sources([tmp_path])
    assert read_sources(plan).count() == 0
    survey = sample_rows(plan, k=5, seed=1)
    assert (survey.documents, survey.rejects, survey.sample.num_rows) == (0, 0, 0)
    assert survey.sample.schema.equals(SCHEMA)


def test_an_error_of_the_user_reaches_the_driver_with_its_words(
    cluster: None, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}')
    plan = plan_sources([tmp_path])
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "changed"}')
    with pytest.raises(InvalidRequest, match="do not change the sources"):
        read_sources(plan).take_all()


def test_a_survey_counts_and_samples_what_the_readers_read(
    cluster: None, mixed: SourcePlan
) -> None:
    rows = plain(mixed)
    good = [row for row in rows if row["reject"] is None]
    survey = sample_rows(mixed, k=50, seed=3)
    assert (survey.documents, survey.rejects) == (len(good), 3)
    positions = np.array([row["position"] for row in good])
    smallest = np.sort(positions[np.argsort(priorities(positions, 3))[:50]])
    assert survey.sample.schema.equals(SCHEMA)
    by_position = {row["position"]: row for row in good}
    assert survey.sample.to_pylist() == [by_position[place] for place in smallest]


def test_a_sample_depends_on_the_seed_and_on_nothing_else(cluster: None, mixed: SourcePlan) -> None:
    once, again, other = (sample_rows(mixed, k=20, seed=seed).sample for seed in (1, 1, 2))
    assert once.equals(again)
    assert once.column("id").to_pylist() != other.column("id").to_pylist()


def test_a_sample_of_more_rows_than_there_are_is_all_good_rows(
    cluster: None, mixed: SourcePlan
) -> None:
    survey = sample_rows(mixed, k=100_000, seed=1)
    assert survey.sample.num_rows == survey.documents
    assert survey.sample.column("reject").null_count == survey.documents


def test_a_survey_of_vectors_keeps_them(cluster: None, tmp_path: Path) -> None:
    matrix = np.random.default_rng(1).standard_normal((50_000, 32), dtype="f4")
    np.save(tmp_path / "v.npy", matrix)
    survey = sample_rows(plan_sources([tmp_path / "v.npy"]), k=100, seed=1)
    positions = survey.sample.column("position").to_numpy()
    assert np.array_equal(vectors_of(survey.sample, 32), matrix[positions])
    assert survey.documents == 50_000


def test_each_position_has_the_same_chance_to_be_sampled() -> None:
    positions = np.concatenate([np.arange(500), (1 << 40) + np.arange(500)])
    drawn = np.zeros(1000)
    for seed in range(2000):
        drawn[np.argsort(priorities(positions, seed))[:100]] += 1
    # each count is about binomial(2000, 0.1): 200, standard deviation 13.4
    assert abs(drawn.mean() - 200) < 1e-9
    assert 11 < drawn.std() < 16
    assert np.abs(drawn - 200).max() < 5.5 * 13.4


def test_the_driver_keeps_at_most_twice_the_sample() -> None:
    best = datasource._Smallest(10)
    rng = np.random.default_rng(0)
    for first in range(0, 1000, 50):
        rows = [{"position": first + n, "priority": int(rng.integers(2**63))} for n in range(5)]
        best.offer(pa.Table.from_pylist(rows, schema=datasource._SURVEY_SCHEMA))
        assert best._rows <= 20
    assert best.table().num_rows == 10


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "npy", "parquet"])
def test_the_size_in_memory_is_estimated_within_a_third(tmp_path: Path, kind: str) -> None:
    rows = [{"id": str(n), "text": f"word {n * n} " * (n % 40 + 1)} for n in range(5000)]
    path = tmp_path / f"a.{kind}"
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    if kind == "npy":
        np.save(path, np.ones((1000, 128), dtype="f2"))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        path.write_text("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows))
    else:
        path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)
    plan = plan_sources([path])
    size_bytes = sum(table.nbytes for table in read_documents(plan.files[0]))
    estimate = DocumentDatasource(plan).estimate_inmemory_data_size()
    assert 0.67 < estimate / size_bytes < 1.5


def test_a_piece_of_a_text_file_is_the_whole_file(mixed: SourcePlan) -> None:
    texts = [file for file in mixed.files if file.format is Format.MARKDOWN]
    pieces = [Piece(file, None, 1) for file in texts]
    tables = list(datasource._read_pieces(pieces, 50))
    assert [table.num_rows for table in tables] == [50, 50, 22]
