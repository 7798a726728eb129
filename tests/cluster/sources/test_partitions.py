"""Folders that name fields: what they mean for a document, and how values are typed."""

from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.partitions import partitions_of
from bitsift.cluster.sources.readers import read_documents


def metadata(source: Path) -> list[object]:
    tables = [table for file in plan_sources([source]).files for table in read_documents(file)]
    texts = [text for table in tables for text in table["metadata"].to_pylist()]
    return [orjson.loads(text or "{}") for text in texts]


def put(folder: Path, name: str, **more: object) -> None:
    (folder / name).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{"text": name, **more}]), folder / name / "p.parquet")


def test_the_folders_of_a_partitioned_table_become_metadata(tmp_path: Path) -> None:
    """inputs.md B5."""
    put(tmp_path, "lang=de/year=__HIVE_DEFAULT_PARTITION__")
    put(tmp_path, "lang=en/year=2020", more=[1])
    put(tmp_path, "lang=z%2Fh %C3%A9/year=2021")
    assert metadata(tmp_path) == [
        {"lang": "de", "year": None},
        {"lang": "en", "year": 2020, "more": [1]},
        {"lang": "z/h é", "year": 2021},
    ]


def test_values_are_numbers_where_all_are_and_none_has_leading_zeros(tmp_path: Path) -> None:
    for day in ("01", "10"):
        put(tmp_path, f"month={day}/day=-{day.lstrip('0')}")
    assert metadata(tmp_path) == [{"month": "01", "day": -1}, {"month": "10", "day": -10}]


def test_the_field_of_a_record_comes_before_that_of_its_folder(tmp_path: Path) -> None:
    put(tmp_path, "lang=en", lang="de")
    assert metadata(tmp_path) == [{"lang": "de"}]


def test_json_lines_texts_and_matrices_have_the_fields_of_their_folders_too(tmp_path: Path) -> None:
    for kind, content in (("a.jsonl", '{"text": "a"}'), ("b.txt", "words")):
        folder = tmp_path / kind / "lang=en"
        folder.mkdir(parents=True)
        (folder / kind).write_text(content)
        assert metadata(tmp_path / kind) == [{"lang": "en"}]
    folder = tmp_path / "npy" / "lang=en"
    folder.mkdir(parents=True)
    np.save(folder / "v.npy", np.ones((2, 4), "f4"))
    assert metadata(tmp_path / "npy") == [{"lang": "en"}] * 2


def test_what_a_path_names() -> None:
    assert partitions_of("/a/b=1/c=2/d=3.jsonl") == {"b": "1", "c": "2"}
    assert partitions_of("s3://bucket/x=/=y/x%20y=a=b/p.jsonl") == {"x": "", "x y": "a=b"}


def test_another_value_is_another_plan(tmp_path: Path) -> None:
    put(tmp_path, "lang=en")
    before = plan_sources([tmp_path]).fingerprint
    (tmp_path / "lang=en").rename(tmp_path / "lang=de")
    assert plan_sources([tmp_path]).fingerprint != before
