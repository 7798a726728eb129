"""BEIR folders: what is read, what is left out, what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from bitsift.cluster.evaluation.judged import read_judged
from bitsift.errors import InvalidRequest

CORPUS = [
    {"_id": "d1", "title": "A title", "text": "and a text"},
    {"_id": "d2", "title": "", "text": "only a text"},
    {"_id": "blank", "title": "", "text": " "},
    {"_id": "d1", "title": "", "text": "the same id again"},
]
QUERIES = [
    {"_id": "q1", "text": "answered", "metadata": {}},
    {"_id": "q2", "text": "judged, and nothing answers it", "metadata": {}},
    {"_id": "q3", "text": "not judged", "metadata": {}},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t0\nq9\td1\t1\n"


def write(folder: Path, qrels: str = QRELS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, CORPUS)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, QUERIES)))
    (folder / "qrels.tsv").write_text(qrels)
    return folder


def test_documents_are_those_that_bitsift_index_would_keep(tmp_path: Path) -> None:
    judged = read_judged(write(tmp_path / "set"))
    assert judged.name == "set"
    assert judged.ids == ["d1", "d2"]
    assert judged.texts == ["the same id again", "only a text"]
    assert judged.rejects == 1


def test_queries_with_a_text_and_a_judgement_are_asked(tmp_path: Path) -> None:
    judged = read_judged(write(tmp_path))
    assert judged.query_ids == ["q1", "q2"]
    assert judged.queries == ["answered", "judged, and nothing answers it"]
    assert judged.qrels == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 0}}
    assert (judged.unanswerable, judged.without_text, judged.own_ids) == (1, 1, frozenset())


def test_packed_files_and_beirs_own_place_of_the_judgements_are_read(tmp_path: Path) -> None:
    plain = read_judged(write(tmp_path))
    for name in ("corpus.jsonl", "queries.jsonl"):
        packed = gzip.compress((tmp_path / name).read_bytes())
        (tmp_path / f"{name}.gz").write_bytes(packed)
        (tmp_path / name).unlink()
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels.tsv").rename(tmp_path / "qrels" / "test.tsv")
    assert read_judged(tmp_path) == plain


def test_a_line_of_the_judgements_that_is_none_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, QRELS + "q1 0 d2 1\n")
    with pytest.raises(InvalidRequest, match=r"qrels.tsv, line 6: expected query id"):
        read_judged(folder)


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_folder_that_is_no_beir_folder_is_refused(tmp_path: Path, missing: str) -> None:
    (write(tmp_path) / missing).unlink()
    with pytest.raises(InvalidRequest, match=missing):
        read_judged(tmp_path)


def test_judgements_of_other_queries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no query with a positive judgement"):
        read_judged(write(tmp_path, "query-id\tcorpus-id\tscore\nother\td1\t1\n"))
