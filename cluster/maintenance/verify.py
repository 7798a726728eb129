"""Checking a whole index: its own files here, every shard in a process of its own.

LMDB follows page numbers that it finds in the file. In a damaged one they may lead anywhere, and
the system kills the process that follows them: then that shard is reported, and this process goes
on. Several shards are checked at once, one a core.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from bitsift.cluster.manifest import Manifest, read_complete, read_manifest
from bitsift.errors import BitsiftError, Corrupt, NotFound, Unavailable
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.layout import COMPLETE_FILE, MANIFEST_FILE, shard_folder, store_folder
from bitsift.shard_worker.maintenance.findings import Finding, Remedy
from bitsift.shard_worker.maintenance.repair import repair_shard
from bitsift.shard_worker.maintenance.verify import verify_shard
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.types import ShardIdentity

_READ_BYTES = 8 << 20
_KILLED_S = 10.0
SILENCE_MAX_S = 6 * 3_600.0
"""Of all shards that are checked: to mend one, its bits are made anew without a word."""

OnRows = Callable[[int, int], None]
"""Called with the rows that were read so far in all shards, and those that will be."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked and found. ``repaired`` lists what was rebuilt; ``findings`` are then those
    that remained.
    """

    index: str
    shards: int
    rows: int
    findings: tuple[Finding, ...]
    repaired: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class Task:
    """One shard to check, and to repair."""

    folder: Path
    identity: ShardIdentity
    calibration: Calibration
    repair: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """How far a check has come."""

    read: int
    total: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a task."""

    findings: tuple[Finding, ...]
    repaired: tuple[str, ...]


def verify(
    index: Path, *, repair: bool = False, on_rows: OnRows = lambda _, __: None
) -> VerifyReport:
    """Check an index that is not being served; with ``repair``, rebuild derived data.

    Raises NotFound where there is no index, Unavailable while it is being served or its build has
    not ended.
    """
    manifest, findings = _own_files(index)
    if manifest is None:
        return VerifyReport(str(index), 0, 0, findings)
    tasks = [
        Task(shard_folder(index, number), manifest.identity(number), manifest.calibration, repair)
        for number in range(manifest.shards)
    ]
    progress = {number: Rows(0, 0) for number in range(manifest.shards)}
    checked = {}
    for number, message in _in_processes(tasks):
        if isinstance(message, BitsiftError):
            raise message
        if isinstance(message, Rows):
            progress[number] = message
            on_rows(*_sum(progress.values()))
        else:
            checked[number] = message
    parts = [checked[number] for number in sorted(checked)]
    return VerifyReport(
        index=str(index),
        shards=manifest.shards,
        rows=_sum(progress.values())[1] // 2,
        findings=(*findings, *(finding for part in parts for finding in part.findings)),
        repaired=tuple(line for part in parts for line in part.repaired),
    )


def _own_files(index: Path) -> tuple[Manifest | None, tuple[Finding, ...]]:
    """The manifest, and what is wrong with the files next to the shards."""
    if not (index / MANIFEST_FILE).exists():
        raise NotFound(f"{index} is not an index: it has no {MANIFEST_FILE}")
    findings, manifest = [], None
    try:
        manifest = read_manifest(index)
    except Corrupt as error:
        findings.append(Finding(None, MANIFEST_FILE, error.message, Remedy.RESTORE))
    try:
        if read_complete(index) is None:
            raise Unavailable(f"the build of {index} has not finished; verify the index after that")
    except Corrupt as error:
        findings.append(Finding(None, COMPLETE_FILE, error.message, Remedy.RESTORE))
    return manifest, tuple(findings)


def _sum(progress: Collection[Rows]) -> tuple[int, int]:
    return sum(one.read for one in progress), sum(one.total for one in progress)


Message = Rows | Checked | BitsiftError


def _in_processes(tasks: Sequence[Task]) -> Iterator[tuple[int, Message]]:
    """Messages of all tasks with the task's number, as they come; the last of each is its end."""
    waiting = list(enumerate(tasks))[::-1]
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                number, task = waiting.pop()
                connection, process = _start(task)
                running[connection] = number, process
            ready_ones = wait(list(running), SILENCE_MAX_S)
            if not ready_ones:
                raise Unavailable(
                    f"nothing was heard of {tasks[next(iter(running.values()))[0]].folder} for "
                    f"{SILENCE_MAX_S / 3_600:.0f} hours: does its disk answer?"
                )
            for ready in ready_ones:
                assert isinstance(ready, Connection)
                number, process = running[ready]
                message = _next_message(ready, process, tasks[number])
                if not isinstance(message, Rows):
                    process.join()
                    ready.close()
                    del running[ready]
                yield number, message
    finally:
        for connection, (_, process) in running.items():
            process.kill()
            process.join(_KILLED_S)  # one that waits for its disk does not end
            connection.close()


def _start(task: Task) -> tuple[Connection, BaseProcess]:
    spawning = multiprocessing.get_context("spawn")  # LMDB and faiss do not survive a fork
    ours, theirs = spawning.Pipe(duplex=False)
    process = spawning.Process(target=run_task, args=(theirs, task), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def run_task(connection: Connection, task: Task) -> None:
    """In the child: check, repair, check again."""

    def rows(read: int, total: int) -> None:
        connection.send(Rows(read, total))

    where = task.folder, task.identity, task.calibration
    reading = threading.Thread(target=_read_ahead, args=(task.folder,), daemon=True)
    reading.start()
    try:
        findings = verify_shard(*where, rows)
        repaired = repair_shard(*where, findings) if task.repair else []
        if repaired:
            findings = verify_shard(*where, rows)
        connection.send(Checked(findings, tuple(repaired)))
    except BitsiftError as error:
        connection.send(error)


def _read_ahead(folder: Path) -> None:
    """Read the data file sequentially, if it fits in RAM next to the other shards' files.

    LMDB asks the disk for its pages one by one, and waits for each.
    """
    hindrances = OSError, BitsiftError
    with contextlib.suppress(*hindrances), (store_folder(folder) / DATA_FILE).open("rb") as file:
        if os.fstat(file.fileno()).st_size < psutil.virtual_memory().available / 4:
            buffer = bytearray(_READ_BYTES)
            while file.readinto(buffer):
                pass


def _next_message(connection: Connection, process: BaseProcess, task: Task) -> Message:
    """What the child reported, or a finding that it died without a report."""
    try:
        message: Message = connection.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        if code >= 0:  # an error of this program, which has said so itself
            shard = task.identity.shard
            return BitsiftError(f"the check of shard {shard} ended with exit status {code}")
        how = signal.Signals(-code).name
        problem = (
            f"reading it killed the process ({how}): the structure that leads to "
            "its pages is damaged"
        )
        file = f"{task.folder.name}/{store_folder(task.folder).name}"
        finding = Finding(task.identity.shard, file, problem, Remedy.RESTORE)
        return Checked((finding,), ())
    return message
