"""An export, read again, is the same documents with the same vectors."""

from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from bitsift.cluster.maintenance.export import SCHEMA, symmetric
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Fields
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.vectors import vectors_of


def export(path: Path, metadata: list[str]) -> np.ndarray:
    """A file as `bitsift export` writes it."""
    count = len(metadata)
    vectors = np.random.default_rng(0).standard_normal((count, 64)).astype(np.float32)
    int8, scale = symmetric(vectors)
    names = [str(row) for row in range(count)]
    columns = [names, ["t"] * count, ["words"] * count, metadata, list(int8), scale]
    table = pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA.with_metadata({"bitsift": b"{}"}),
    )
    pq.write_table(table, path)
    return vectors


def test_an_export_is_read_as_what_it_was(tmp_path: Path) -> None:
    """inputs.md B8: metadata were nested, and codes and scales became metadata."""
    path = tmp_path / "x.parquet"
    metadata = ['{"k":"v"}', "", '{"metadata":{"scale":1},"int8":[1]}', '{"id":"other"}']
    vectors = export(path, metadata)
    plan = plan_sources([path])
    assert plan.expected_width == 64
    assert plan.notes == ()
    (table,) = read_documents(plan.files[0])
    assert table["reject"].null_count == len(table)
    assert table["id"].to_pylist() == ["0", "1", "2", "3"]
    assert table["title"].to_pylist() == ["t"] * 4
    assert [orjson.loads(text or "{}") for text in table["metadata"].to_pylist()] == [
        orjson.loads(text or "{}") for text in metadata
    ]
    found = vectors_of(table, 64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(vectors, axis=1)
    assert ((found * vectors).sum(axis=1) / norms).min() > 0.9998


def test_a_field_that_is_named_is_believed(tmp_path: Path) -> None:
    export(tmp_path / "x.parquet", ["", ""])
    plan = plan_sources([tmp_path / "x.parquet"], Fields(text="title", title="text"))
    (table,) = read_documents(plan.files[0])
    assert table["text"].to_pylist() == ["t", "t"]
    assert plan.expected_width == 64
