"""Test collections: a corpus, queries, and which documents answer which query (a BEIR folder).

    DATASET/corpus.jsonl       _id, title, text: read by the rules of `bitsift index`
    DATASET/queries.jsonl      _id, text
    DATASET/qrels.tsv          query id, document id, grade; or BEIR's own qrels/test.tsv

The two .jsonl files may be compressed. Queries without a judgement are left out. One whose
judgements are all zero or less counts 0, as in BEIR and trec_eval.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Compression
from bitsift.cluster.sources.readers import read_documents
from bitsift.errors import InvalidRequest

QRELS = ("qrels.tsv", "qrels/test.tsv")


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """``texts[i]`` is what a model is given of the document ``ids[i]``, ``queries[j]`` the text of
    ``query_ids[j]``. ``qrels`` are grades by query id and document id; every query has one.
    ``rejects`` counts records of the corpus that `bitsift index` would reject, ``without_text``
    judged queries that queries.jsonl does not have.
    """

    name: str
    ids: list[str]
    texts: list[str]
    query_ids: list[str]
    queries: list[str]
    qrels: dict[str, dict[str, int]]
    rejects: int
    without_text: int = 0

    @property
    def unanswerable(self) -> int:
        """Queries without a positive judgement: whatever is found, they count 0."""
        return sum(max(grades.values()) <= 0 for grades in self.qrels.values())

    @property
    def own_ids(self) -> frozenset[str]:
        """Ids that a query and a document share."""
        return frozenset(self.query_ids).intersection(self.ids)


def read_judged(folder: Path) -> JudgedSet:
    """Read a BEIR folder. Raises InvalidRequest where it is none, or judges nothing."""
    corpus, rejects = _read_records(_file(folder, "corpus.jsonl"))
    questions, _ = _read_records(_file(folder, "queries.jsonl"))
    all_qrels = _read_qrels(folder)
    qrels = {query: grades for query, grades in all_qrels.items() if query in questions}
    answerable = any(grade > 0 for grades in qrels.values() for grade in grades.values())
    if not answerable or not corpus:
        raise InvalidRequest(
            f"{folder} has {len(corpus)} documents, {len(questions)} queries and no query with a "
            "positive judgement; the ids in the three files must be the same"
        )
    judged = [query for query in questions if query in qrels]
    return JudgedSet(
        name=folder.resolve().name,
        ids=list(corpus),
        texts=list(corpus.values()),
        query_ids=judged,
        queries=[questions[query] for query in judged],
        qrels=qrels,
        rejects=rejects,
        without_text=len(all_qrels) - len(qrels),
    )


def _file(folder: Path, name: str) -> Path:
    """``name`` in ``folder``, or a compressed one."""
    found = [folder / f"{name}{ending.value}" for ending in Compression]
    for path in found:
        if path.is_file():
            return path
    raise InvalidRequest(
        f"{folder} is not a BEIR folder: it has no {name}; expected corpus.jsonl, "
        "queries.jsonl and "
        f"{' or '.join(QRELS)}"
    )


def _read_records(path: Path) -> tuple[dict[str, str], int]:
    """Texts by id in file order, the last of each id; and how many records were rejected."""
    from bitsift.cluster.ingest.worker import document_texts

    texts: dict[str, str] = {}
    rejects = 0
    (file,) = plan_sources([path]).files
    for table in read_documents(file):
        good = table.filter(table["reject"].is_null())
        rejects += table.num_rows - good.num_rows
        texts |= zip(good["id"].to_pylist(), document_texts(good), strict=True)
    return texts, rejects


def _read_qrels(folder: Path) -> dict[str, dict[str, int]]:
    path = next((folder / name for name in QRELS if (folder / name).is_file()), None)
    if path is None:
        raise InvalidRequest(f"{folder} has no judgements: no {' and no '.join(QRELS)}")
    qrels: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) == 3 and _is_grade(cells[2]):
                qrels.setdefault(cells[0], {})[cells[1]] = int(cells[2])
            elif line.strip() and number > 1:  # the first line names the columns
                raise InvalidRequest(
                    f"{path}, line {number}: expected query id, document id and a whole number, "
                    f"separated by tabs, found {line.strip()[:80]!r}"
                )
    return qrels


def _is_grade(cell: str) -> bool:
    return cell.strip().removeprefix("-").isdecimal()
