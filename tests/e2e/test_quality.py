"""`bitsift eval` and `bitsift doctor`: real texts, the real model, a real index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsift.cluster.evaluation.judged import read_judged
from tests.commands import bitsift, in_process

XQUAD = Path(__file__).parents[1] / "data" / "xquad_en"
DOCUMENTS = 300


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 300 documents of XQuAD, and the questions that they answer."""
    folder = tmp_path_factory.mktemp("quality") / "xquad_300"
    folder.mkdir()
    lines = (XQUAD / "corpus.jsonl").read_text().splitlines()[:DOCUMENTS]
    kept = {json.loads(line)["_id"] for line in lines}
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text((XQUAD / "queries.jsonl").read_text())
    header, *judgements = (XQUAD / "qrels.tsv").read_text().splitlines()
    judgements = [line for line in judgements if line.split("\t")[1] in kept]
    (folder / "qrels.tsv").write_text("\n".join([header, *judgements]))
    return folder


def test_eval_builds_measures_draws_and_removes(dataset: Path, tmp_path: Path) -> None:
    plot, saved = tmp_path / "stages.svg", tmp_path / "stages.json"
    printed = in_process("eval", dataset, "--shards", 2, "--plot", plot, "--out", saved, "--json")
    result: dict[str, Any] = json.loads(printed)
    assert json.loads(saved.read_text()) == result
    assert plot.read_text().startswith("<?xml")
    assert result["dataset"] == "xquad_300"
    assert result["documents"] == DOCUMENTS
    assert result["queries"] == len(read_judged(dataset).queries)
    assert (result["model"], result["shards"]) == ("minilm", 2)
    stages = result["stages"]
    assert stages["final"]["recall@10"] >= 0.99
    assert stages["final"]["ndcg@10"] >= 0.995 * stages["fp32"]["ndcg@10"]


@pytest.mark.long  # in process: tests/cluster/evaluation/test_evaluate.py
def test_a_transform_is_kept_by_the_index_and_searched_through(
    dataset: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    arguments = ["index", dataset, "--out", index, "--shards", 2, "--transform"]
    bitsift(*arguments, "center+rotate")
    manifest = json.loads((index / "manifest.json").read_text())
    assert manifest["calibration"]["version"] == 2
    assert manifest["request"]["transform"] == "center+rotate"
    result = json.loads(in_process("eval", dataset, "--index", index, "--json"))
    assert result["transform"] == "center+rotate"
    assert result["stages"]["final"]["recall@10"] >= 0.98
    text = json.loads((dataset / "corpus.jsonl").read_text().splitlines()[7])["text"]
    answer = json.loads(in_process("search", text, "--index", index, "--json"))
    assert answer["hits"][0]["text"] == text
    assert bitsift(*arguments, "none", check=False).returncode == 2


def test_the_doctor_looks_at_texts_with_real_queries(dataset: Path, tmp_path: Path) -> None:
    asked = tmp_path / "queries.txt"
    asked.write_text("\n\n".join(read_judged(dataset).queries[:60]))
    printed = in_process("doctor", XQUAD, "--sample", 600, "--queries", asked, "--json")
    result = json.loads(printed)
    assert (result["documents"], result["queries"]) == (600, 60)
    assert result["model"] == "minilm"
    assert result["queries_are_documents"] is False
    assert result["recommended"]["transform"] == "none"
    assert result["recommended"]["candidates"] in (20, 40)
    assert set(result["transforms"]) == {"none", "center", "rotate", "center+rotate"}
    assert set(result["transforms"]["none"]["recall"]) == {"20", "40", "80", "160"}


def test_the_doctor_refuses_vectors_that_do_not_binarize(tmp_path: Path) -> None:
    """All directions lie in two dimensions of 64: the bits tell quadrants apart, nothing more."""
    random = np.random.default_rng(0)
    vectors = 1e-3 * random.standard_normal((3_000, 64))
    vectors[:, :2] += random.standard_normal((3_000, 2))
    np.save(tmp_path / "flat.npy", vectors.astype(np.float32))
    done = bitsift("doctor", "--vectors", tmp_path / "flat.npy", "--json", check=False)
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["recommended"] is None
    assert result["reason"].startswith("no setting reaches recall@10 0.98")
    assert (result["documents"], result["queries"]) == (2_700, 300)
    assert bitsift("doctor", check=False).returncode == 2


def test_the_doctor_reads_a_table_as_it_is_told(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((600, 64)).round(3).tolist()
    lines = [f"k{number};{vector};a" for number, vector in enumerate(vectors)]
    (tmp_path / "rows.txt.csv").write_text("\n".join(lines))
    said = ["--no-header", "--columns", "id,e,kind", "--delimiter", ";", "--vector-field", "e"]
    said += ["--target", "0.9"]
    result = json.loads(in_process("doctor", tmp_path / "rows.txt.csv", *said, "--json"))
    assert (result["documents"], result["queries"], result["model"]) == (540, 60, None)
