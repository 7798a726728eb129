"""SQLite: tables and queries as records, without a way to write or to read another file."""

import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bitsift.cluster.sources import sqlite
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Fields
from bitsift.cluster.sources.sqlite import Database
from bitsift.cluster.sources.stored_vectors import Stored, VectorType
from bitsift.errors import InvalidRequest
from tests.source_files import read, rejects

KEY = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "a b.db")
    connection.execute("CREATE TABLE posts (id, title TEXT, body TEXT, n REAL, raw BLOB)")
    rows = [
        (7, "t", "words", 0.5, b"\0"),
        ("b", None, "more", None, None),
        (KEY.bytes, "t", b"bytes", 1, None),
        (2.0, "t", None, 1, None),
    ]
    connection.executemany("INSERT INTO posts VALUES (?, ?, ?, ?, ?)", rows)
    connection.commit()
    yield connection
    connection.close()


def test_a_table_is_read_by_rowid(tmp_path: Path, database: sqlite3.Connection) -> None:
    for source in (f"sqlite:///{tmp_path}/a%20b.db?table=posts", str(tmp_path / "a b.db")):
        rows = read(Path(source)) if "?" not in source else read_source(source)
        good = [row for row in rows if row["reject"] is None]
        assert [row["id"] for row in good][:3] == ["7", "b", str(KEY)]
        assert [row["text"] for row in good][:3] == ["words", "more", "bytes"]
        assert [row["metadata"] for row in good][:3] == ['{"n":0.5,"raw":"AA=="}', "", '{"n":1.0}']
        assert [row["line"] for row in rows] == [1, 2, 3, 4]


def read_source(source: str, **plan: object) -> list[dict[str, object]]:
    from bitsift.cluster.sources.readers import read_documents

    tables = [t for f in plan_sources([source], **plan).files for t in read_documents(f)]  # type: ignore[arg-type]
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("encoded", [False, True])
def test_a_query_gives_what_it_says(
    tmp_path: Path, database: sqlite3.Connection, encoded: bool
) -> None:
    query = "SELECT id, body AS text FROM posts WHERE body LIKE '%or%' ORDER BY id DESC"
    if encoded:
        query = query.replace("%", "%25").replace(" ", "%20")
    rows = read_source(f"sqlite:///{tmp_path}/a b.db?query={query}")
    assert [(row["id"], row["text"]) for row in rows] == [("b", "more"), ("7", "words")]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("?table=nothing", "no table 'nothing'; tables: posts"),
        ("?query=SELECT absent FROM posts", "no such column: absent"),
        ("?query=DELETE FROM posts", "not authorized"),
        ("?query=ATTACH '/tmp/x' AS y", "not authorized"),
        ("?query=SELECT 1 AS text, 2 AS text", "names a column twice: text, text"),
        ("?other=1", r"after \? comes table=NAME or query="),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, database: sqlite3.Connection, what: str, why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        plan_sources([f"sqlite:///{tmp_path}/a b.db{what}"])
    assert database.execute("SELECT count(*) FROM posts").fetchone() == (4,)


def test_of_several_tables_one_has_to_be_named(
    tmp_path: Path, database: sqlite3.Connection
) -> None:
    database.execute("CREATE TABLE other (text TEXT PRIMARY KEY) WITHOUT ROWID")
    database.execute("INSERT INTO other VALUES ('b'), ('a')")
    database.execute("CREATE VIEW seen AS SELECT text FROM other ORDER BY text")
    database.commit()
    (tmp_path / "c.jsonl").write_text('{"text": "c"}')
    (tmp_path / "thumbs.db").write_bytes(b"no database at all, but long enough for a header" * 9)
    with pytest.raises(InvalidRequest, match=r"3 tables \(other, posts, seen\): name one, as sqli"):
        plan_sources([tmp_path / "a b.db"])
    plan = plan_sources([tmp_path])
    assert [file.name for file in plan.files] == ["c.jsonl"]
    listed = {Path(item.path).name: item.reason for item in plan.passed_over}
    assert listed["a b.db"].startswith("has 3 tables (other, posts, seen)")
    assert "file is not a database" in listed["thumbs.db"]
    for name in ("other", "seen"):
        rows = read_source(f"sqlite:///{tmp_path}/a b.db?table={name}")
        assert [row["text"] for row in rows] == ["a", "b"]


def test_a_path_may_be_relative_or_absolute(
    tmp_path: Path, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = ["a b.db", f"{tmp_path}/a b.db", f"{str(tmp_path)[1:]}/a b.db"]
    found = {str(Database.parse(f"sqlite:///{path}")) for path in paths}
    assert found == {f"sqlite:///{tmp_path}/a%20b.db?table=posts".replace("///", "///", 1)}
    with pytest.raises(InvalidRequest, match="does not exist"):
        Database.parse("sqlite:///nowhere.db")
    with pytest.raises(InvalidRequest, match="is named as sqlite:///path.db"):
        Database.parse("sqlite://host/x.db")


def test_vectors_may_be_blobs_or_texts(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "v.db") as connection:
        connection.execute("CREATE TABLE t (id, v)")
        blob = np.array([0.5, 1], "<f4").tobytes()
        values = [(1, blob), (2, "[0.5, 1]"), (3, None), (4, b"\0\0\0")]
        connection.executemany("INSERT INTO t VALUES (?, ?)", values)
    connection.close()
    stored = Stored(VectorType.FLOAT)
    rows = read(tmp_path / "v.db", fields=Fields(vector="v"), stored=stored)
    assert [row["vector"] for row in rows] == [[0.5, 1], [0.5, 1], None, None]
    assert rejects(rows) == [
        (3, "no vector"),
        (4, "vector is 3 bytes, which are no float numbers"),
    ]


def test_texts_that_are_not_utf8_and_rows_that_are_too_long_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LINE_BYTES_MAX", 100)
    with sqlite3.connect(tmp_path / "v.db") as connection:
        connection.execute("CREATE TABLE t (text TEXT)")
        connection.execute("INSERT INTO t VALUES (?), (?)", ("x" * 100, "x" * 101))
        connection.execute("INSERT INTO t VALUES (CAST(x'ff' AS TEXT)), ('last')")
    connection.close()
    assert rejects(read(tmp_path / "v.db")) == [
        (2, "record is longer than 16 MiB"),
        (3, "invalid UTF-8 in field 'text'"),
    ]


def test_a_database_that_is_damaged_says_how_far_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "v.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (text TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [("words " * 50,)] * 1_000)
    connection.close()
    content = bytearray(path.read_bytes())
    content[40 * 4096 : 60 * 4096] = b"\xff" * (20 * 4096)
    path.write_bytes(content)
    rows = read(path)
    ((line, reason),) = rejects(rows)
    assert line == len(rows) > 100
    assert "malformed" in reason
    assert f"{len(rows) - 1} records were read before it" in reason
