"""A look at sources, without a model where they carry vectors, and without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner, Result

from bitsift.cluster.cli.main import app
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.ingest.preview import SAMPLE_DOCUMENTS, preview
from bitsift.errors import InvalidRequest
from tests.tiny_model import build_tiny_model


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def index(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["index", *map(str, arguments), "--dry-run"])


def test_vectors_of_your_own_need_no_model_and_nothing_is_written(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"t {n}", "v": [1.0 + n] * 40, "n": n} for n in range(50)]
    write(tmp_path / "a.jsonl", [*rows, {"text": "x", "v": [0.0] * 40, "n": 2.5}])
    before = sorted(tmp_path.rglob("*"))
    out = ("--vector-field", "v", "--out", tmp_path / "i")
    found = orjson.loads(index(tmp_path / "a.jsonl", *out, "--json").stdout)
    assert (found["records"], found["records_estimated"], found["sample"]) == (51, False, 51)
    assert (found["dimension"], found["model"], found["tokens"]) == (40, None, None)
    assert [reject["line"] for reject in found["rejects"]] == [51]
    assert found["fields"] == [{"name": "n", "types": ["integer"], "share": 1.0}]
    assert [document["id"] for document in found["documents"]] == ["0", "1", "2"]
    assert found["listed"][0]["fields"] == {"id": "id", "text": "text", "vector": "v"}
    assert found["bits_bytes"] == 50 * 40 // 8
    said = index(tmp_path / "a.jsonl", *out).stdout
    assert "nothing is made or written" in said
    assert "vectors of 40 dimensions come with the records" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_records_beyond_the_sample_are_estimated_within_a_third(tmp_path: Path) -> None:
    rows = [{"text": f"t {n}" * 5, "v": [1.0] * 32} for n in range(3 * SAMPLE_DOCUMENTS)]
    found = preview([write(tmp_path / "a.jsonl", rows)], BuildOptions(vector_field="v"))
    assert found.records_estimated
    assert found.sample == SAMPLE_DOCUMENTS
    assert found.records == pytest.approx(len(rows), rel=0.34)


def test_small_files_are_counted_among_many(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.jsonl", [{"text": "x", "v": [1.0] * 32}] * 7)
    found = preview([tmp_path], BuildOptions(vector_field="v"))
    assert (found.records, found.records_estimated, found.sample) == (21, False, 21)


def test_a_matrix_is_counted_and_only_its_beginning_read(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((5_000, 48), dtype=np.float32))
    found = preview([tmp_path / "v.npy"])
    assert (found.records, found.records_estimated, found.dimension) == (5_000, False, 48)
    assert found.sample == SAMPLE_DOCUMENTS


def test_what_is_passed_over_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "x", "v": [1.0] * 32}])
    (tmp_path / "b.zip").write_bytes(b"x")
    (listed,) = preview([tmp_path], BuildOptions(vector_field="v")).passed_over
    assert listed["path"].endswith("b.zip")
    assert "b.zip" in index(tmp_path, "--vector-field", "v").stdout


def test_sources_of_bad_records_alone_are_refused_with_their_reasons(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{"text": 5, "v": [1.0] * 32}])
    with pytest.raises(InvalidRequest, match="no usable document.*not a string"):
        preview([source], BuildOptions(vector_field="v"))
    with pytest.raises(InvalidRequest, match="is no folder"):
        preview([source], BuildOptions(model="/no/such/model"))


@pytest.mark.parametrize("content", ["", "id,text\n"])
def test_sources_without_a_record_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InvalidRequest, match="no record in 1 files: there is nothing to index"):
        preview([tmp_path / "a.csv"])


def test_texts_are_counted_in_the_models_tokens_and_passages(tmp_path: Path) -> None:
    model = str(build_tiny_model(tmp_path / "tiny", 32))  # it reads 64 tokens
    rows = [{"text": "a b c." * size} for size in (1, 2, 3, 60)]
    source = write(tmp_path / "a.jsonl", rows)
    options = BuildOptions(model=model, shards=3)
    found = preview([source], options)
    assert found.tokens is not None
    assert (found.tokens.limit, found.tokens.cut, found.tokens.of) == (64, 1, 4)
    assert found.documents_s > 0
    assert (found.model, found.dimension, found.shards) == (model, 32, 3)
    assert "passage: " in found.prompts
    chunks = ("--model", model, "--chunk", "tokens=40")
    found_json = orjson.loads(index(source, *chunks, "--json").stdout)
    assert found_json["tokens"]["cut"] == 0
    assert found_json["passages"] > 2
    assert "passages a document" in index(source, *chunks).stdout
    write(source, [*rows, {"text": "a", "chunk": 1}])
    (refused,) = orjson.loads(index(source, *chunks, "--json").stdout)["rejects"]
    assert (refused["line"], "--chunk needs" in refused["reason"]) == (5, True)
    write(source, [{"text": "a", "chunk": 1}])
    with pytest.raises(InvalidRequest, match="no usable document .* --chunk needs"):
        preview([source], BuildOptions(model=model, chunk="tokens=40"))
