"""What the tests of faults share: children with a shard, small disks, a look at what is there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import ShardSettings
from tests.crash.documents import CALIBRATION, IDENTITY
from tests.crash.server import contents
from tests.faults.child import names_of

ROOT = Path(__file__).parents[2]
_WITHIN_S = 60


def child(
    folder: Path, task: str, *point: object, under: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """A shard process that works in ``folder`` to its end, run ``under`` another program."""
    command = [*under, sys.executable, "-m", "tests.faults.child", folder, task, *point]
    return subprocess.run(
        [*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=_WITHIN_S,
        check=False,
    )  # fmt: skip


def strace(injection: str) -> list[str]:
    """Have the kernel give other answers, strace's ``-e inject=`` (man strace)."""
    calls = injection.split(":", 1)[0]
    return ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}",
            "-e", f"inject={injection}"]  # fmt: skip


def stored_by(done: subprocess.CompletedProcess[str]) -> list[int]:
    """The batches that ``write`` acknowledged."""
    return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("stored")]


def new_shard(folder: Path, settings: ShardSettings | None = None) -> Shard:
    Shard.create(folder, IDENTITY)
    return open_shard(folder, settings)


def open_shard(folder: Path, settings: ShardSettings | None = None) -> Shard:
    return Shard(folder, CALIBRATION, IDENTITY, settings or ShardSettings())


def there(folder: Path) -> dict[str, str]:
    """All that a new process finds, codes, texts, ids and bits held against each other."""
    with contextlib.closing(open_shard(folder)) as shard:
        return contents(shard)


def check_batches(found: dict[str, str], acknowledged: Sequence[int]) -> int:
    """Each batch is whole or absent, and those acknowledged are there; how many there are."""
    batches = {int(name.split("-")[0]) for name in found}
    for batch in batches:
        for name in names_of(batch):
            assert found.pop(name) == f"text of {name}"
    assert not found
    assert set(acknowledged) <= batches, "an acknowledged batch is lost"
    assert len(batches) <= len(acknowledged) + 1, "more than the one that was under way"
    return len(batches)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in ``folder``. Raises PermissionError where one may not mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise PermissionError(done.stderr)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=120)
