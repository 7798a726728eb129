"""Standard input: copied under the name of its content, its format said or found."""

import gzip
import io
import os
import sqlite3
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from bitsift.cluster.ingest.options import BuildOptions, checked_build
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.stdin import copied
from bitsift.errors import InvalidRequest, StorageFull
from tests.source_files import read

TABLE = pa.table({"id": ["a"], "text": ["words"]})


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"bitsift-stdin-{os.getuid()}"


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    return sink.getvalue()


def arrow(*, stream: bool) -> bytes:
    sink = io.BytesIO()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


def npy() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.ones((1, 4), "f4"))
    return sink.getvalue()


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (id, text)")
    connection.execute("INSERT INTO t VALUES ('a', 'words')")
    connection.commit()
    return connection.serialize()


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        (b'{"id": "a", "text": "words"}\n', ".json"),
        (b'\xef\xbb\xbf [{"id": "a", "text": "words"}]', ".json"),
        ('{"id": "a", "text": "words"}\n'.encode("utf-16"), ".json"),
        (b"id,text\na,words\n", ".csv"),
        (b"id\ttext\na\twords\n", ".tsv"),
        (gzip.compress(b"id,text\na,words\n"), ".csv.gz"),
        (parquet(), ".parquet"),
        (arrow(stream=True), ".arrow"),
        (arrow(stream=False), ".arrow"),
        (npy(), ".npy"),
        (save({"v": np.ones((1, 4), "f4")}), ".safetensors"),
        (database(), ".db"),
    ],
    ids=range(12),
)
def test_the_format_is_found_by_the_first_bytes(content: bytes, ending: str) -> None:
    path = copied(None, io.BytesIO(content))
    assert path.name.partition(".")[2] == ending[1:]
    (row,) = read(path)
    assert row["reject"] is None
    assert row["text"] == ("" if ending in (".npy", ".safetensors") else "words")


def test_the_same_input_is_the_same_source(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = []
    for content in (b'{"text": "a"}', b'{"text": "a"}', b'{"text": "b"}'):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        plan = plan_sources(["-"])
        prints.append(plan.fingerprint)
    assert prints[0] == prints[1] != prints[2]
    assert len(list(own_folder.iterdir())) == 2
    assert own_folder.stat().st_mode & 0o777 == 0o700


def test_a_format_that_is_said_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a,b\nc,d\n")))
    (file,) = plan_sources(["-"], stdin="txt").files
    assert file.name == "stdin.txt"
    with pytest.raises(InvalidRequest, match="format"):
        checked_build(BuildOptions(format="exe"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"words", "say --format, one of jsonl"),
        (b"\x1f\x8bx", "damaged gzip|trunc"),
    ],
)
def test_what_is_not_known_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        copied(None, io.BytesIO(content))


def test_a_terminal_is_refused() -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(InvalidRequest, match="is a terminal"):
        copied(None, Terminal())


def test_a_folder_of_others_is_not_used(own_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    own_folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match="not a folder of yours alone"):
        copied(None, io.BytesIO(b"{}"))


def test_a_full_disk_is_said_and_nothing_left(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageFull, match="no space in .* for a copy of standard input"):
        copied(None, Full())
    assert list(own_folder.iterdir()) == []
