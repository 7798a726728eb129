"""Every call to the system that a shard's work makes fails once: what is lost, what is not found?

python -m tests.faults.sweep [--only TASK]…

The calls of each task (lives.py) are counted in a clean run. Then, for every one of them, the task
is done to a fresh copy of an index, that call fails, and the process lives on: it is asked for all
that was acknowledged, in every mode, takes another write, keeps its bits, compacts. Then it ends as
if killed, and the next process must find everything, whole or not at all.

All of it happens in processes forked from one that has loaded all modules, and has one thread.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.machine import write_result
from bitsift.errors import BitsiftError, WritesStopped
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.maintenance.verify import verify_shard
from bitsift.shard_worker.shard import Shard
from tests.faults.failing_calls import ERRORS, FailingCalls, build
from tests.faults.lives import (
    CALIBRATION,
    IDENTITY,
    OPENING,
    RESTORED,
    TASKS,
    Change,
    Task,
    Texts,
    after,
    build_index,
    documents,
    halved,
    missing,
    named,
    open_shard,
    restored,
)
from tests.writing import written

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "syscall_sweep.json"
_WORKER_WITHIN_S = 3_600
"""All failures of all calls, one after the other."""
WITHIN_S = 60
"""A life that takes longer is ended, and counts as one whose process was killed."""
_REPORT_WHAT_THE_DISK_SAYS = "backup", "restore", "opening"
"""Tasks whose callers (a command, ShardActor) report an OSError as it is."""
LATER, RESTARTED = named(["later"]), named(["restarted"])


@dataclass(frozen=True, slots=True)
class Failure:
    """The ``number``-th ``call`` of a task fails with ``error``."""

    task: str
    call: str
    number: int
    error: int


@dataclass
class Life:
    """What came of a task during which a call failed, in that process and in the next."""

    fired: bool = False
    raised: str | None = None
    typed: bool = True
    outcome: str = "done"
    later_refused: bool = False
    stopped: str | None = None
    not_found: list[str] = field(default_factory=list)
    """What the same process did not find afterwards."""
    lost: list[str] = field(default_factory=list)
    """What the next process did not find, or found in half."""
    broken: str | None = None
    """Where this test did not come to its end, or the process was killed."""


# --- one failure -----------------------------------------------------------------------------


def live(folder: Path, texts: Texts, task: Task, failure: Failure) -> Life:
    """Do ``task`` in ``folder`` while a call fails, then live on."""
    calls, life = FailingCalls(), Life()
    shard = None if task is OPENING else open_shard(folder / "index")
    calls.arm(failure.call, failure.number, failure.error)
    try:
        if shard is None:
            shard = open_shard(folder / "index")
        task.run(shard, folder)
    except Exception as error:
        life.raised, life.typed = type(error).__name__, isinstance(error, BitsiftError)
        life.outcome = str(getattr(error, "outcome", "unknown"))
    finally:
        calls.disarm()
    life.fired = calls.fired
    shard = shard or open_shard(folder / "index")
    doubtful = dict(task.change) if life.raised else {}
    texts = after(texts, {} if life.raised else task.change)
    life.not_found = missing(shard, texts, doubtful)
    life.later_refused = not _goes_on(shard)
    later: Change = dict(LATER)
    texts, doubtful = (texts, doubtful | later) if life.later_refused else (texts | LATER, doubtful)
    life.not_found += missing(shard, texts, doubtful)
    life.stopped = shard.status().writes_stopped
    return life


def _goes_on(shard: Shard) -> bool:
    """Write, and keep what there is to keep; whether the write was acknowledged."""
    acknowledged = False
    try:
        written(shard, documents(LATER))
        acknowledged = True
        shard.save_bits()
        shard.compact()
    except WritesStopped:
        pass
    return acknowledged


def live_again(folder: Path, texts: Texts, task: Task, life: Life) -> Life:
    """The next process: is everything there?"""
    index = folder / "index"
    shard = open_shard(index)
    doubtful: Change = dict(LATER) if life.later_refused else {}
    done, life.lost = halved(shard, texts, task.change) if life.raised else (True, [])
    if done and task.change and life.outcome == "not_done":
        life.lost.append("said to be not done, and done")
    texts = after(texts, task.change if done else {}) | ({} if life.later_refused else LATER)
    life.lost += missing(shard, texts, doubtful)
    written(shard, documents(RESTARTED))
    life.lost += missing(shard, texts | RESTARTED, doubtful)
    shard.close()
    findings = verify_shard(shard_folder(index, 0), IDENTITY, CALIBRATION, lambda _, __: None)
    life.lost += [f"verify: {finding.problem}" for finding in findings]
    if task.name in ("backup", "restore"):
        life.lost += _backup_is_whole(folder)
    return life


def _backup_is_whole(folder: Path) -> list[str]:
    """There is a whole backup, the earlier or the new one, and a whole restored index or none."""
    if not (folder / RESTORED).exists():
        restored(None, folder)
    folder = shard_folder(folder / RESTORED, 0)
    findings = verify_shard(folder, IDENTITY, CALIBRATION, lambda _, __: None)
    return [f"restored: {finding.problem}" for finding in findings]


# --- processes -------------------------------------------------------------------------------


def in_a_child(work: Callable[[], Any], answer: Path) -> Any:
    """What ``work`` returns in a forked process, as JSON in ``answer``."""
    child = os.fork()
    if child == 0:
        signal.alarm(WITHIN_S)
        status = 1
        try:
            answer.write_text(json.dumps(work()))
            status = 0
        except BaseException:
            answer.with_suffix(".error").write_text(traceback.format_exc())
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise RuntimeError(f"killed by signal {os.WTERMSIG(status)}")
    if status:
        raise RuntimeError(answer.with_suffix(".error").read_text())
    return json.loads(answer.read_text())


def judge(template: Path, folder: Path, texts: Texts, task: Task, failure: Failure) -> Life:
    """Both lives of one failure, in ``folder``, a copy of ``template`` that is removed."""
    shutil.copytree(template, folder)
    life = Life()
    try:
        answer = folder / "first.json"
        life = Life(**in_a_child(lambda: asdict(live(folder, texts, task, failure)), answer))
        answer = folder / "second.json"
        life = Life(**in_a_child(lambda: asdict(live_again(folder, texts, task, life)), answer))
    except RuntimeError as error:
        life.broken = str(error)
    finally:
        shutil.rmtree(folder)
    return life


def counted(folder: Path, task: Task) -> dict[str, int]:
    """How often ``task`` makes each call."""
    calls = FailingCalls()
    shard = None if task is OPENING else open_shard(folder / "index")
    calls.count()
    shard = shard or open_shard(folder / "index")
    task.run(shard, folder)
    calls.disarm()
    return calls.counted()


def failures_of(task: Task, counts: dict[str, int]) -> Iterator[Failure]:
    for call, count in counts.items():
        for error in ERRORS[call]:
            for number in range(1, count + 1):
                yield Failure(task.name, call, number, error)


# --- the sweep -------------------------------------------------------------------------------


def sweep(folder: Path, tasks: Sequence[Task]) -> dict[str, Any]:
    """Try every failure of ``tasks``; what came of them, in numbers, and what was wrong."""
    template = folder / "template"
    texts = build_index(template)
    plan = list[Failure]()
    for task in tasks:  # at first here, so that all modules are loaded that it needs
        shutil.copytree(template, folder / "warm")
        counted(folder / "warm", task)
        shutil.rmtree(folder / "warm")
        shutil.copytree(template, folder / "count")
        answer = folder / "count.json"
        counts = in_a_child(partial(counted, folder / "count", task), answer)
        shutil.rmtree(folder / "count")
        plan += failures_of(task, counts)
    assert threading.active_count() == 1, threading.enumerate()
    by_name = {task.name: task for task in tasks}
    lives = []
    for number, failure in enumerate(plan):
        place, task = folder / f"life-{number}", by_name[failure.task]
        lives.append((failure, judge(template, place, texts, task, failure)))
    return report(lives)


def report(lives: Sequence[tuple[Failure, Life]]) -> dict[str, Any]:
    fired = [(failure, life) for failure, life in lives if life.fired or life.broken]
    wrong = [
        {**asdict(failure), **asdict(life)}
        for failure, life in fired
        if life.lost
        or life.broken
        or (life.not_found and not life.stopped)
        or (not life.typed and failure.task not in _REPORT_WHAT_THE_DISK_SAYS)
    ]
    by_task = {task.name: Counter[str]() for task in TASKS}
    for failure, _ in fired:
        by_task[failure.task][failure.call] += 1
    return {
        "calls_failed": len(fired),
        "planned_and_not_reached": len(lives) - len(fired),
        "by_task_and_call": {name: dict(sorted(c.items())) for name, c in by_task.items() if c},
        "raised": dict(Counter(str(life.raised) for _, life in fired).most_common()),
        "writes_stopped": sum(life.stopped is not None for _, life in fired),
        "not_found_while_writes_went_on": sum(
            bool(life.not_found) and life.stopped is None for _, life in fired
        ),
        "not_found_while_writes_were_stopped": sum(
            bool(life.not_found) and life.stopped is not None for _, life in fired
        ),
        "lost_or_halved_after_a_restart": sum(bool(life.lost) for _, life in fired),
        "errors_of_the_system_as_they_are": dict(
            Counter(failure.task for failure, life in fired if not life.typed)
        ),
        "lives_cut_short": sum(life.broken is not None for _, life in fired),
        "wrong": wrong,
    }


def run(folder: Path, tasks: Sequence[Task]) -> dict[str, Any]:
    """``sweep`` in a process of its own, which has the library in C loaded."""
    environment = {
        **os.environ, "LD_PRELOAD": str(build(folder)), "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.faults.sweep", "--worker", str(folder)]
    command += [part for task in tasks for part in ("--only", task.name)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True,
                          check=False, timeout=_WORKER_WITHIN_S)  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.sweep", description=__doc__)
    named = {task.name: task for task in TASKS}
    parser.add_argument("--only", action="append", choices=named, help="not all of the tasks")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    tasks = [named[name] for name in options.only or named]
    if options.worker:
        logging.disable(logging.CRITICAL)
        print(json.dumps(sweep(Path(options.worker), tasks)))
        return
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), tasks)
    found["seconds"] = round(time.monotonic() - started, 1)
    if not options.only:
        found = write_result(RESULT, found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
