"""No command removes, truncates or replaces a file that Bitsift did not make."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.cli import main as cli
from bitsift.cluster.ingest.build import plan_build
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.maintenance.backup import back_up
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.maintenance.removal import remove_index
from bitsift.cluster.maintenance.restore import restore
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.errors import InvalidRequest, StorageFull, Unavailable
from bitsift.shard_worker.maintenance.repository import OWNER_FILE
from bitsift.shard_worker.operations import Delete
from tests.commands import COMMAND, answering, bitsift
from tests.faults.support import ROOT
from tests.foreign import (
    IN_THE_WAY,
    NEARLY_OURS_IN_A_REPOSITORY,
    NEARLY_OURS_IN_AN_INDEX,
    gone_or_changed,
    put,
    state,
)
from tests.writing import written

SPEC = SyntheticSpec(600, 64)
SOURCE = "synthetic:99,dim=64"
DATASET = Path(__file__).parents[1] / "data" / "xquad_en"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "index"
    manifest = write_index(folder, SPEC, 2, texts=[f"some words {i}" for i in range(100)])
    for number in range(2):
        with open_shard(folder, manifest, number) as shard:
            shard.train()
            written(shard, Delete([str(i) for i in range(200)]))
            shard.save_bits()
    return folder


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "ours" / "index"))


@pytest.fixture(scope="module")
def backup(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("backups") / "good"
    back_up(built, str(dest))
    return dest


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command line's own main, in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["bitsift", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


# --- in the way of what a command is to make ---------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A command that makes a file or a folder called ``name``; its arguments, given the name."""

    name: str
    arguments: Callable[[Path, Path, Path], list[object]]


def bench(index: Path, backup: Path, made: Path) -> list[object]:
    return ["bench", "--only", "shard", "--only", "cluster", "--out", made.parent]


RESHARD = ["reshard", "--shards", "3"]
MAKES = {
    "backup": Made("dest", lambda index, backup, made: ["backup", index, made]),
    "restore": Made("restored", lambda index, backup, made: ["restore", backup, made]),
    "export to a file": Made("all.parquet", lambda index, backup, made: ["export", index, made]),
    "export to a folder": Made("all", lambda index, backup, made: ["export", index, made]),
    "index": Made("new", lambda index, backup, made: ["index", SOURCE, "--out", made]),
    "create": Made("empty", lambda index, backup, made: ["create", made, "--dimensions", "64"]),
    "demo": Made("demo", lambda index, backup, made: ["demo", "--index", made, "--port", "0"]),
    "reshard": Made("more", lambda index, backup, made: [*RESHARD, index, "--out", made]),
    "eval --plot": Made("a.svg", lambda index, backup, made: ["eval", DATASET, "--plot", made]),
    "eval --out": Made("a.json", lambda index, backup, made: ["eval", DATASET, "--out", made]),
    "bench": Made("bench_shard_cluster.json", bench),
    "bench, its plot": Made("bench_shard_cluster.svg", bench),
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
@pytest.mark.parametrize("command", MAKES)
def test_what_is_in_the_way_of_a_command_is_left_as_it_is(
    command: str,
    kind: str,
    index: Path,
    backup: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, outside = tmp_path / "place" / MAKES[command].name, tmp_path / "outside"
    made.parent.mkdir()
    IN_THE_WAY[kind](made, outside)
    for name in ("", ".partial", ".partial.lock", ".bitsift-abcdefgh"):  # beside it
        put(made.with_name(f"mine{name}"))
        if name:
            put(made.with_name(f"{made.name}{name}"))
    before = state(made.parent, outside)
    status = run(monkeypatch, *MAKES[command].arguments(index, backup, made))
    assert status in (1, 2), f"{command} took {kind} for nothing"
    assert state(made.parent, outside) == before


@pytest.mark.parametrize(
    "command", ["backup", "restore", "export to a file", "export to a folder", "reshard"]
)
def test_what_lies_beside_what_a_command_makes_is_left_as_it_is(
    command: str, index: Path, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "place" / MAKES[command].name
    made.parent.mkdir()
    for name in (".partial", ".partial.lock", ".lock", ".bitsift-abcdefgh", ".bitsift"):
        put(made.with_name(f"{made.name}{name}"))
    put(made.with_name(f"{made.name}.bitsift-zzzzzzzz") / "lock", "made by me")
    before = state(made.parent)
    assert run(monkeypatch, *MAKES[command].arguments(index, backup, made)) == 0
    assert gone_or_changed(before, made.parent) == []
    assert {str(path) for path in made.parent.iterdir()} - before.keys() == {str(made)}


@pytest.mark.parametrize("command", ["backup", "restore", "export to a file"])
def test_a_place_that_cannot_be_written_is_said_in_one_line(
    command: str,
    index: Path,
    backup: Path,
    disk: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    place = disk("1m")
    put(place / "photo.jpg")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True, timeout=120)
    before = state(place)
    arguments = MAKES[command].arguments(index, backup, place / MAKES[command].name)
    assert run(monkeypatch, *arguments) == 1
    said = capfd.readouterr().err
    assert "Read-only file system" in said.replace("\n", " ")
    assert "Traceback" not in said
    with pytest.raises(Unavailable, match="Read-only file system"):
        plan_build([SOURCE], place / "new").prepare()
    assert state(place) == before


# --- within an index and a repository ----------------------------------------------------------


def add_foreign(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        put(folder / name)


def test_upkeep_and_service_leave_foreign_files_in_an_index(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_foreign(index, NEARLY_OURS_IN_AN_INDEX)
    foreign = [index / name for name in NEARLY_OURS_IN_AN_INDEX]
    before = state(*foreign)
    (index / "shard-00000" / "bits-00000.bits").write_bytes(b"damaged")
    (index / "shard-00001" / "bits-lists.bits").write_bytes(b"damaged")
    for arguments in (
        ["verify", index, "--repair"],
        ["compact", index],
        ["backup", index, tmp_path / "dest"],
        ["export", index, tmp_path / "all.parquet"],
        ["upgrade", index],
        [*RESHARD, index, "--out", tmp_path / "more"],
        ["status", "--index", index],
    ):
        assert run(monkeypatch, *arguments) == 0, arguments
        assert gone_or_changed(before, *foreign) == [], arguments
    assert verify(index).is_sound
    command = [*COMMAND, "serve", index, "--port", "0", "--json", "--backup-root", tmp_path]
    with answering(command) as (url, _):
        into = tmp_path / "mine"
        put(into / "blocks" / "photo.jpg")
        refused = bitsift("backup", "--url", url, into, check=False)
        assert refused.returncode == 2
        assert "is not empty" in refused.stderr.replace("\n", " ")
        assert state(into) == state(into / "blocks") | {str(into): ("folder", None)}
        bitsift("backup", "--url", url, tmp_path / "dest")
        bitsift("compact", "--url", url)
    assert gone_or_changed(before, *foreign) == []
    remove_index(index)
    assert gone_or_changed(before, *foreign) == []
    left = {path for path in index.rglob("*") if path.is_file()}
    assert left == set(foreign), "ours is removed, all of it"


@pytest.mark.parametrize("kind", ["a folder", "a link to a folder", "a file", "a link to nothing"])
def test_what_is_in_the_way_of_a_compaction_stays_and_the_shard_serves(
    kind: str, index: Path, tmp_path: Path
) -> None:
    outside, place = tmp_path / "outside", index / "shard-00000" / "store-00001"
    IN_THE_WAY[kind](place, outside)
    if place.is_dir():
        put(place / "bits-lists.bits.partial.mine")
    before = state(place, outside)
    with open_shard(index, read_manifest(index), 0) as shard:
        held = shard.status().documents
        with pytest.raises(Unavailable, match="blocks the compaction"):
            shard.compact()
        assert shard.status().documents == held > 0
        assert state(place, outside) == before
    assert state(place, outside) == before


def test_links_in_place_of_our_files_are_not_followed(index: Path, tmp_path: Path) -> None:
    target = put(tmp_path / "outside" / "ledger.txt")
    before = state(target)
    lock = index / "shard-00000" / "shard.lock"
    lock.unlink()
    lock.symlink_to(target)
    with pytest.raises(Unavailable, match="link"), open_shard(index, read_manifest(index), 0):
        raise AssertionError
    assert state(target) == before
    lock.unlink()
    for name in ("manifest.json.partial", "shard-00000/bits-00000.bits.partial"):
        (index / name).symlink_to(target)
    (index / "shard-00000" / "bits-lists.bits").unlink()
    with open_shard(index, read_manifest(index), 0) as shard:
        shard.save_bits()
    assert (index / "shard-00000" / "bits-00000.bits").exists()
    assert state(target) == before


def test_an_index_that_lost_its_manifest_is_not_built_over(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (index / "manifest.json").unlink()
    (index / "complete.json").unlink()
    before = state(index)
    assert run(monkeypatch, "index", "synthetic:99,dim=64", "--out", index) == 2
    assert state(index) == before


def test_a_resumed_build_leaves_foreign_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["index", SOURCE, "--out", tmp_path / "new", "--shards", 1]
    one_shard = BuildOptions(shards=1)
    plan_build([SOURCE], tmp_path / "new", one_shard).prepare()  # as if it had been killed then
    rejects, target = tmp_path / "new" / "rejects.jsonl", put(tmp_path / "outside.txt")
    add_foreign(tmp_path / "new", NEARLY_OURS_IN_AN_INDEX)
    foreign = [tmp_path / "new" / name for name in NEARLY_OURS_IN_AN_INDEX]
    rejects.symlink_to(target)
    before = state(target, *foreign)
    assert run(monkeypatch, *command) == 2
    assert gone_or_changed(before, target, *foreign) == []
    rejects.unlink()
    bitsift(*command)
    assert gone_or_changed(before, target, *foreign) == []


def change(index: Path, seed: int) -> None:
    """Give every shard other blocks."""
    manifest = read_manifest(index)
    for number in range(manifest.shards):
        with open_shard(index, manifest, number) as shard:
            written(shard, Delete([str(i) for i in range(200 + 100 * seed, 300 + 100 * seed)]))
            shard.compact()


def test_a_later_backup_removes_its_own_blocks_and_nothing_else(
    index: Path, tmp_path: Path
) -> None:
    dest, outside = tmp_path / "dest", put(tmp_path / "outside" / "file.txt")
    back_up(index, str(dest))
    add_foreign(dest, NEARLY_OURS_IN_A_REPOSITORY)
    linked = dest / "blocks" / "ef" / ("ef" * 32)
    linked.parent.mkdir(exist_ok=True)
    linked.symlink_to(outside)
    (dest / "blocks" / "loop").symlink_to(dest / "blocks")
    foreign = [dest / name for name in NEARLY_OURS_IN_A_REPOSITORY] + [linked, outside]
    before = state(*foreign)
    for seed in range(2):
        change(index, seed)
        assert back_up(index, str(dest)).blocks_removed > 0, "nothing was swept"
        assert gone_or_changed(before, *foreign) == []
    restore(str(dest), tmp_path / "restored")
    assert gone_or_changed(before, *foreign) == []
    assert verify(tmp_path / "restored").is_sound


def test_the_same_in_object_storage(index: Path) -> None:
    files = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}"
    foreign = [f"{root}/{name}" for name in NEARLY_OURS_IN_A_REPOSITORY if "inner" not in name]
    for name in foreign:
        files.pipe_file(name, b"dear")
    before = {name: files.info(name) for name in files.find(root)}
    with pytest.raises(InvalidRequest, match="not empty"):
        back_up(index, f"memory:/{root}")
    assert {name: files.info(name) for name in files.find(root)} == before
    back_up(index, f"memory:/{root}/below")
    for name in foreign:
        files.pipe_file(name.replace(root, f"{root}/below"), b"dear")
    change(index, 0)
    assert back_up(index, f"memory:/{root}/below").blocks_removed > 0
    for name in foreign:
        assert files.cat_file(name.replace(root, f"{root}/below")) == b"dear"


def test_a_repository_of_version_0_1_0_goes_on_working(index: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    back_up(index, str(dest))
    (dest / OWNER_FILE).unlink()  # which that version did not write
    change(index, 0)
    assert back_up(index, str(dest)).blocks_removed > 0
    restore(str(dest), tmp_path / "restored")


KILLED = """
import itertools, os, sys
from pathlib import Path
from bitsift.cluster.maintenance.backup import back_up
from bitsift.shard_worker.maintenance.repository import Repository
steps, put = itertools.count(1), Repository._put
def killing(*arguments):
    if next(steps) == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
    return put(*arguments)
Repository._put = killing
back_up(Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_first_backup_that_was_killed_goes_on(index: Path, tmp_path: Path, step: int) -> None:
    dest = tmp_path / "dest"
    command = [sys.executable, "-c", KILLED, str(index), str(dest), str(step)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    write_index(tmp_path / "other", SyntheticSpec(10, 64))
    if step > 1:
        with pytest.raises(InvalidRequest, match="of index"):
            back_up(tmp_path / "other", str(dest))
    report = back_up(index, str(dest))
    assert report.blocks_new <= report.blocks
    restore(str(dest), tmp_path / "restored")


def test_a_disk_that_is_full_leaves_foreign_files(
    index: Path, backup: Path, disk: Callable[[str], Path]
) -> None:
    place = disk("40k")
    put(place / "photo.jpg")
    before = state(place)
    for make in (
        lambda: back_up(index, str(place / "dest")),
        lambda: restore(str(backup), place / "restored"),
    ):
        with pytest.raises(StorageFull):
            make()
        assert gone_or_changed(before, place) == []


# --- make clean --------------------------------------------------------------------------------

OURS = (
    ".mypy_cache/CACHEDIR.TAG", ".ruff_cache/CACHEDIR.TAG", ".pytest_cache/CACHEDIR.TAG",
    ".hypothesis/.gitignore", "bitsift.egg-info/PKG-INFO", ".venv/bin/python",
    ".venv/.made-by-make", ".bitsift/wordnet_en/manifest.json",
    ".bitsift/wordnet_en/shard-00000/store-00000/data.mdb",
    ".bitsift/wordnet_en/shard-00000/bits-lists.json",
    ".bitsift/bench/index/shard-00001/shard.lock",
    "router/__pycache__/service.cpython-311.pyc", "__pycache__/bitsift.cpython-311.pyc",
)  # fmt: skip
FOREIGN = (
    "build/release.tar", "dist/mine.whl", "mine.egg-info/PKG-INFO", "bitsift.egg-info/notes.txt",
    ".bitsift/my-index/manifest.json", ".bitsift/wordnet_en/notes.txt",
    ".bitsift/wordnet_en/shard-00000/diary.json", ".bitsift/bench/results.txt",
    "router/__pycache__/notes.txt", "project/__pycache__/a.cpython-311.pyc", "notes.partial",
)  # fmt: skip


def a_checkout(folder: Path) -> Path:
    folder.mkdir()
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    shutil.copy(ROOT / "Makefile", folder)
    for name in (*OURS, *FOREIGN, *(f"{part}/kept.py" for part in PACKAGES)):
        put(folder / name)
    return folder


PACKAGES = ("shard_worker", "router", "cluster", "tests", "benchmarks")


def clean(folder: Path) -> str:
    done = subprocess.run(
        ["make", "-C", str(folder), "clean"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.needs("make")
def test_make_clean_removes_what_make_made_and_nothing_else(tmp_path: Path) -> None:
    checkout = a_checkout(tmp_path / "a checkout")
    foreign = [checkout / name for name in FOREIGN]
    before = state(*foreign)
    clean(checkout)
    assert gone_or_changed(before, *foreign) == []
    assert [name for name in OURS if (checkout / name).exists()] == []


@pytest.mark.needs("make")
def test_make_clean_follows_no_link_and_leaves_another_ones_environment(tmp_path: Path) -> None:
    checkout, outside = a_checkout(tmp_path / "checkout"), tmp_path / "outside"
    (checkout / ".venv" / ".made-by-make").unlink()
    shutil.rmtree(checkout / ".bitsift")
    for name in (".mypy_cache", ".bitsift"):
        shutil.rmtree(checkout / name, ignore_errors=True)
        put(outside / name / "CACHEDIR.TAG")
        put(outside / name / "wordnet_en" / "manifest.json")
        (checkout / name).symlink_to(outside / name)
    before = state(outside, checkout / ".venv")
    assert ".venv is left" in clean(checkout)
    assert gone_or_changed(before, outside, checkout / ".venv") == []
    assert (checkout / ".mypy_cache").is_symlink() and (checkout / ".bitsift").is_symlink()
