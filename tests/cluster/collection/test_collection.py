"""The indexes of a server besides its default one, on real folders; only their actors are named."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitsift.cluster.collection import aliases, collection, creating
from bitsift.cluster.collection.aliases import ALIASES_FILE, read_aliases
from bitsift.cluster.collection.collection import Collection
from bitsift.cluster.collection.folders import index_folders
from bitsift.cluster.ingest.create import create_index
from bitsift.cluster.serving.claim import Marked, marked
from bitsift.cluster.serving.others import StartedIndex
from bitsift.errors import (
    BitsiftError,
    Corrupt,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from bitsift.shard_worker.types import ShardSettings

Started = list[str]


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> Started:
    """The names of the indexes whose actors run: they are not started."""
    running: Started = []

    def start(stack: contextlib.ExitStack, folder: Path, *_: Any) -> StartedIndex:
        running.append(folder.name)
        stack.callback(running.remove, folder.name)
        return StartedIndex([], None)

    def create(folder: Path, model: str | None, dimensions: int, shards: int, _: str) -> Any:
        made = create_index(folder, model=model, dimensions=dimensions, shards=shards)
        return {"model": made.model, "dimension": made.dimension, "shards": made.shards}

    monkeypatch.setattr(collection, "start_index", start)
    monkeypatch.setattr(collection, "create", create)
    return running


@pytest.fixture
def processes() -> Iterator[Marked]:
    with marked() as found:
        yield found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With the indexes `a` and `main`."""
    for name in ("a", "main"):
        create_index(tmp_path / name, dimensions=64, shards=1)
    return tmp_path


def opened(root: Path, processes: Marked, *, has_root: bool = True) -> Collection:
    _, folders = index_folders([], root, "main")
    place = root if has_root else None
    made = Collection("main", folders, place, processes, ShardSettings(), "auto", lambda _: None)
    made.start()
    return made


def make(found: Collection, name: str) -> dict[str, Any]:
    return found.create(name, None, 64, 1)


def test_an_index_is_created_filed_under_an_alias_and_deleted(
    root: Path, processes: Marked, actors: Started
) -> None:
    found = opened(root, processes)
    assert actors == ["a"]
    expected = {"name": "b", "model": None, "dimension": 64, "shards": 1}
    assert found.do("create", {"name": "b", "model": None, "dimensions": 64, "shards": 1}) == (
        expected
    )
    assert sorted(found.told().sources) == ["a", "b"]
    found.put_alias("live", "a")
    found.put_alias("live", "b")
    found.put_alias("home", "main")
    assert read_aliases(root) == found.told().aliases == {"live": "b", "home": "main"}
    with pytest.raises(InvalidRequest, match=r"has aliases \(live\)"):
        found.delete("b", with_aliases=False)
    (root / "b" / "shard-00000" / "mine.txt").write_text("a note")
    assert found.delete("b", with_aliases=True)["aliases"] == ["live"]
    assert actors == ["a"]
    left = [path.name for path in (root / "b").rglob("*") if path.is_file()]
    assert left == ["mine.txt"]
    assert read_aliases(root) == {"home": "main"}
    found.drop_alias("home")
    found.stop()
    assert actors == []
    assert (opened(root, processes).told().aliases, actors) == ({}, ["a"])


@pytest.mark.parametrize(
    ("what", "arguments", "kind", "said"),
    [("create", {"name": "main"}, InvalidRequest, "already"),
     ("create", {"name": "a"}, InvalidRequest, "already"),
     ("create", {"name": "live"}, InvalidRequest, "alias"),
     ("delete", {"name": "main"}, InvalidRequest, "default"),
     ("delete", {"name": "none"}, NotFound, "no index 'none'"),
     ("put_alias", {"alias": "a", "index": "main"}, InvalidRequest, "name of an index"),
     ("put_alias", {"alias": "x", "index": "none"}, NotFound, "no index 'none'"),
     ("put_alias", {"alias": "x", "index": "live"}, NotFound, "no index 'live'"),
     ("drop_alias", {"alias": "x"}, NotFound, "no alias")],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_changes_nothing(
    root: Path, processes: Marked, actors: Started,
    what: str, arguments: dict[str, Any], kind: type[BitsiftError], said: str,
) -> None:  # fmt: skip
    found = opened(root, processes)
    found.put_alias("live", "a")
    given = {"model": None, "dimensions": 64, "shards": 1} if what == "create" else {}
    given |= {"with_aliases": True} if what == "delete" else {}
    before = sorted(root.rglob("*"))
    with pytest.raises(kind, match=said):
        found.do(what, arguments | given)
    assert sorted(root.rglob("*")) == before
    assert (found.told().aliases, actors) == ({"live": "a"}, ["a"])
    found.stop()


def test_a_server_without_a_root_has_the_indexes_that_it_has(
    root: Path, processes: Marked, actors: Started
) -> None:
    found = opened(root, processes, has_root=False)
    for what, arguments in (
        ("create", {"name": "b", "model": None, "dimensions": 64, "shards": 1}),
        ("put_alias", {"alias": "x", "index": "a"}),
        ("delete", {"name": "a", "with_aliases": False}),
    ):
        with pytest.raises(InvalidRequest, match="--indexes-root"):
            found.do(what, arguments)
    found.stop()


def test_an_index_that_cannot_be_served_says_why_and_can_be_deleted(
    root: Path, processes: Marked, actors: Started
) -> None:
    (root / "a" / "complete.json").unlink()
    create_index(root / "damaged", dimensions=64, shards=1)
    (root / "damaged" / "manifest.json").write_text("{")
    found = opened(root, processes)
    assert actors == []
    broken = found.told().broken
    assert "has not finished" in broken["a"]
    assert "manifest.json" in broken["damaged"]
    found.delete("a", with_aliases=False)
    assert not (root / "a").exists()
    with pytest.raises(BitsiftError, match=r"manifest\.json"):
        found.delete("damaged", with_aliases=False)  # whose shards are they?
    assert list(found.told().broken) == ["damaged"]
    found.stop()


def test_an_index_that_another_process_serves_is_left_alone(
    root: Path, processes: Marked, actors: Started
) -> None:
    with processes.serving(root / "a"):
        found = opened(root, processes)
        assert "open in another process" in found.told().broken["a"]
        with pytest.raises(Unavailable, match="open in another process"):
            found.delete("a", with_aliases=False)
    assert (root / "a" / "complete.json").exists()
    found.delete("a", with_aliases=False)


def test_a_deletion_that_was_interrupted_is_finished_by_another(
    root: Path, processes: Marked, actors: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(5, "the disk")

    found = opened(root, processes)
    with monkeypatch.context() as patched:
        patched.setattr(collection, "remove_index", full)
        with pytest.raises(Unavailable, match="the disk"):
            found.delete("a", with_aliases=False)
    assert found.told().broken == {"a": "it was not deleted whole; delete it again"}
    found.stop()
    found = opened(root, processes)  # also after a restart
    assert "has not finished" in found.told().broken["a"]
    found.delete("a", with_aliases=False)
    assert not (root / "a").exists()


def test_there_are_so_many_indexes_and_aliases_at_most(
    root: Path, processes: Marked, actors: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "INDEXES_MAX", 3)
    monkeypatch.setattr(collection, "ALIASES_MAX", 1)
    found = opened(root, processes)
    make(found, "b")
    with pytest.raises(InvalidRequest, match="at most 3 indexes"):
        make(found, "c")
    found.put_alias("x", "a")
    found.put_alias("x", "b")
    with pytest.raises(InvalidRequest, match="at most 1 aliases"):
        found.put_alias("y", "a")
    found.stop()


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"bitsift_aliases": 2, "aliases": {}}', b'{"aliases": {"a": "b"}}',
             b" " * (aliases.FILE_BYTES_MAX + 1)],
    ids=["nothing", "half", "of a later version", "of none", "too long"],
)  # fmt: skip
def test_a_file_that_has_no_aliases_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / ALIASES_FILE).write_bytes(data)
    with pytest.raises(Corrupt, match=r"bitsift-aliases\.json"):
        read_aliases(tmp_path)


def test_the_default_index_is_the_first_the_one_that_is_named_or_the_only_one(root: Path) -> None:
    a, main = root / "a", root / "main"
    assert index_folders([main, a], None, None) == ("main", {"main": main, "a": a})
    assert index_folders([a], root, None)[0] == "a"
    assert index_folders([], root, "main") == ("main", {"a": a, "main": main})
    with pytest.raises(InvalidRequest, match="--default NAME, of a, main"):
        index_folders([], root, None)
    with pytest.raises(InvalidRequest, match="'b' is none of the indexes: a, main"):
        index_folders([], root, "b")
    create_index(root / "deeper" / "a", dimensions=64, shards=1)
    with pytest.raises(InvalidRequest, match="have the same name"):
        index_folders([root / "deeper" / "a"], root, None)
    assert index_folders([], root / "deeper", None)[0] == "a"
    with pytest.raises(InvalidRequest, match="has no index"):
        index_folders([], root / "a", None)
    with pytest.raises(NotFound, match="is not a folder"):
        index_folders([], root / "nothing", None)


def test_an_index_is_made_by_the_command_and_its_error_is_that_of_the_command(
    tmp_path: Path, processes: Marked, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert creating.create(tmp_path / "a", None, 64, 1, "auto")["dimension"] == 64
    with pytest.raises(InvalidRequest, match="is an index already"):
        creating.create(tmp_path / "a", None, 64, 1, "auto")

    def late(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(DeadlineExceeded, match="540 s"):
        creating.create(tmp_path / "b", None, 64, 1, "auto")
    assert os.listdir(tmp_path) == ["a"]
