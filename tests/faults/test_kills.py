"""SIGKILL at named places, at system calls, and again and again at random."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bitsift.shard_worker.layout import read_shard_file
from tests.crash.loop import CrashLoop
from tests.crash.points import ALL
from tests.crash.upgrades import UpgradeLoop
from tests.faults.child import names_of
from tests.faults.support import check_batches, child, stored_by, strace, there

IN_A_TRANSACTION = [point for point in ALL if point.startswith("in the transaction")]
IN_MAINTENANCE = [
    point for point in ALL if point.startswith(("compaction", "file", "lists", "ids"))
]


def last_words(folder: Path) -> str:
    return (folder.parent / "last-words").read_text()


def test_1_killed_between_commit_and_ram_the_document_is_found_after_a_restart(
    folder: Path,
) -> None:
    done = child(folder, "write", "committed, not yet in RAM", 5)
    assert (done.returncode, last_words(folder)) == (-signal.SIGKILL, "committed, not yet in RAM")
    assert stored_by(done) == [0, 1, 2, 3]
    found = there(folder)
    assert set(names_of(4)) <= set(found), "committed, and not there"
    assert check_batches(found, stored_by(done)) == 5


@pytest.mark.parametrize("point", IN_A_TRANSACTION)
def test_2_killed_in_a_transaction_the_batch_is_absent(folder: Path, point: str) -> None:
    done = child(folder, "write", point, 5)
    assert (done.returncode, last_words(folder)) == (-signal.SIGKILL, point)
    assert check_batches(there(folder), stored_by(done)) == 4


@pytest.mark.needs("strace")
@pytest.mark.parametrize(
    "call",
    [
        "pwrite64:signal=KILL:when=5",
        "pwrite64:signal=KILL:when=12",
        "writev:signal=KILL:when=6",
        "fdatasync:signal=KILL:when=6",
    ],
)
def test_2_killed_within_a_commit_each_batch_is_whole_or_absent(folder: Path, call: str) -> None:
    done = child(folder, "write", under=strace(call))
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)
    assert stored_by(done), "killed before the first batch"
    check_batches(there(folder), stored_by(done))


@pytest.mark.parametrize("point", IN_MAINTENANCE)
def test_3_killed_in_its_upkeep_the_old_state_is_valid_and_leftovers_are_removed(
    folder: Path, point: str
) -> None:
    done = child(folder, "keep-up", point, 1)
    assert (done.returncode, last_words(folder)) == (-signal.SIGKILL, point)
    texts = {f"{number}": f"text of {number}" for number in range(400)}
    for _ in range(2):
        assert there(folder) == texts
        assert [folder / read_shard_file(folder).store] == list(folder.glob("store*"))
        assert not list(folder.glob("*.partial"))


def test_a_shard_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    loop = CrashLoop(tmp_path, seed=11)
    loop.run(10)
    loop.close()
    report = loop.report()
    assert report["kills"] == 11
    assert report["acknowledged_changes"] > 20
    assert len(report["kills_by_place"]) > 3


def test_an_upgrade_that_is_killed_again_and_again_loses_no_document(tmp_path: Path) -> None:
    report = UpgradeLoop(tmp_path, seed=5).run(6)
    assert report["kills"] == 6
    assert set(report["kills_by_work"]) <= {"by_command", "by_compaction"}
    assert report["documents_checked"] > 6 * 7_000
