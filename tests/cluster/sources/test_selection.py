"""Which files of a folder are read, by their names and neighbours."""

from pathlib import Path

import orjson
import pytest

from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.listing import Found
from bitsift.cluster.sources.plan import Fields
from bitsift.cluster.sources.selection import STATE_BYTES_MAX, select


def chosen(*names: str) -> list[str]:
    kept, passed = select([Found(f"/source/{name}", name, 1) for name in names], Fields())
    assert len(kept) + len(passed) == len(names)
    assert all(item.reason for item in passed)
    return [item.name for item in kept]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        # BEIR's own layout, and that of its repositories: the corpus of each set
        (
            ["a/corpus.jsonl", "a/queries.jsonl", "a/qrels/test.tsv", "b/corpus.jsonl.gz", "c.csv"],
            ["a/corpus.jsonl", "b/corpus.jsonl.gz", "c.csv"],
        ),
        (["corpus.jsonl", "corpus.jsonl.gz", "README.md"], ["corpus.jsonl"]),
        # MTEB's: a folder for each part, the judgements in data/ or qrels/
        (
            [
                "README.md",
                "corpus/test-00000-of-00002.parquet",
                "corpus/test-00001-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
                "qrels/test.tsv",
                "queries/test-00000-of-00001.parquet",
            ],
            ["corpus/test-00000-of-00002.parquet", "corpus/test-00001-of-00002.parquet"],
        ),
        (["corpus.parquet", "queries.parquet", "qrels.parquet"], ["corpus.parquet"]),
        (["corpus.csv", "qrels.tsv"], ["corpus.csv"]),
        # one of several languages
        (
            ["de-corpus/0.parquet", "de-queries/0.parquet", "de-qrels/0.parquet", "fr-corpus/0.pq"],
            ["de-corpus/0.parquet", "fr-corpus/0.pq"],
        ),
        (["corpus-de/0.parquet", "queries-de/0.parquet"], ["corpus-de/0.parquet"]),
        # the outermost decides
        (
            ["corpus/queries.jsonl", "corpus/a.jsonl", "queries/a.jsonl"],
            ["corpus/queries.jsonl", "corpus/a.jsonl"],
        ),
        # neither alone is a test collection
        (["corpus/a.parquet", "b.parquet"], ["corpus/a.parquet", "b.parquet"]),
        (["queries.parquet", "b.parquet"], ["queries.parquet", "b.parquet"]),
        (["subqueries.csv", "mycorpus.csv"], ["subqueries.csv", "mycorpus.csv"]),
        # embeddings of Wikipedia: shards below a folder of a language
        (["README.md", "simple/0000.parquet", "simple/0001.parquet"],
         ["simple/0000.parquet", "simple/0001.parquet"]),
        # a model's or a program's files beside a table
        (["a.csv", "setup.py", "model.bin", "notes.TXT"], ["a.csv"]),
        (["a.txt", "b/c.md"], ["a.txt", "b/c.md"]),
    ],
)  # fmt: skip
def test_what_a_folder_stands_for(names: list[str], kept: list[str]) -> None:
    assert chosen(*names) == kept


def test_a_state_that_is_not_of_a_saved_dataset_is_a_file_like_any_other(tmp_path: Path) -> None:
    for content in ('[{"text": "words"}]', '{"text": "words"}'):
        (tmp_path / "state.json").write_text(content)
        assert [file.name for file in plan_sources([tmp_path]).files] == ["state.json"]


def test_the_state_of_a_saved_dataset_has_so_many_bytes_at_most(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    content = orjson.dumps({"_data_files": [{"filename": "new.arrow"}]})
    for more, passed in ((0, True), (1, False)):
        state.write_bytes(content.ljust(STATE_BYTES_MAX + more))
        found = [(state, STATE_BYTES_MAX + more), (tmp_path / "old.arrow", 1)]
        _, left = select([Found(str(path), path.name, size) for path, size in found], Fields())
        assert ("old.arrow" in [Path(item.path).name for item in left]) == passed
