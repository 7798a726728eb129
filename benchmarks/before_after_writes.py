"""What a change costs those who write: the same writes to two checkouts, in turns, in one run.

    python benchmarks/before_after_writes.py OTHER-CHECKOUT [--rounds 30] [--folder FOLDER]

Each checkout has a shard of its own in one process (writing_side.py), on one disk and in one Python
environment. They write in turns of ten calls (A B B A …), so a busy neighbour slows both alike.
Results go to benchmarks/results/before_after_writes.json: wall clock and CPU of each kind of write
on both sides, ratios of the medians, over everything and for each of six blocks, and what a write
asks of LMDB and of the kernel (a pass of its own, under a profiler, then under strace).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.timing import percentiles

RESULT = Path(__file__).with_name("results") / "before_after_writes.json"
HERE = Path(__file__).parents[1]
SIDE = Path(__file__).with_name("writing_side.py")
KINDS = {"create": 10, "replace": 10, "delete": 10, "replace_100": 3, "delete_100": 3, "load": 3}
"""Calls of a turn: one document a call, 100, or 1,000 as a bulk load brings them."""
ROWS, BLOCKS, COUNTED, ATTACHED_WITHIN_S = 60_000, 6, 20, 10.0


class Side:
    """The process that writes to one checkout's shard."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SIDE), str(folder), str(ROWS)],
            env={**os.environ, "PYTHONPATH": str(checkout)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        file = self._answer()["file"]
        assert Path(file).is_relative_to(checkout), f"{file} is not of {checkout}"

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with {self._process.wait()}")
        return json.loads(line)

    def ask(self, kind: str, calls: int, how: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind} {calls} {how}\n")
        self._process.stdin.flush()
        return self._answer()

    def syscalls(self, kind: str) -> dict[str, float]:
        """System calls of one write, by name."""
        with tempfile.NamedTemporaryFile() as counts:
            command = ["strace", "-f", "-c", "-o", counts.name, "-p", str(self._process.pid)]
            strace = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            self._wait_until_traced()
            self.ask(kind, COUNTED, "plain")
            strace.send_signal(signal.SIGINT)
            strace.wait(ATTACHED_WITHIN_S)
            table = Path(counts.name).read_text()
        rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+)(?: +\d+)? +(\w+)$", table, re.MULTILINE)
        asked = {name: int(count) for count, name in rows if name != "total"}
        asked["read"] = max(0, asked.get("read", 0) - 1)  # of what it was told, and its answer
        asked["write"] = max(0, asked.get("write", 0) - 1)
        every = {"all": sum(asked.values()), **asked}
        return {name: round(count / COUNTED, 2) for name, count in every.items() if count}

    def _wait_until_traced(self) -> None:
        deadline = time.monotonic() + ATTACHED_WITHIN_S
        status = Path(f"/proc/{self._process.pid}/status")
        while "TracerPid:\t0\n" in status.read_text():
            if time.monotonic() > deadline:
                raise SystemExit("strace did not attach")
            time.sleep(0.01)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def both(before: Path, folder: Path) -> Iterator[dict[str, Side]]:
    with contextlib.ExitStack() as stack:
        sides = {}
        for name, checkout in (("before", before), ("after", HERE)):
            sides[name] = Side(checkout, folder / name)
            stack.callback(sides[name].close)
        yield sides


def measured(sides: dict[str, Side], kind: str, rounds: int) -> dict[str, Any]:
    """The times of one kind of write on both sides, and their ratios."""
    seconds: dict[str, dict[str, list[float]]] = {
        name: {"wall": [], "cpu": []} for name in sides
    }  # fmt: skip
    for turn in range(-2, rounds * BLOCKS):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            found = sides[name].ask(kind, KINDS[kind], "timed")
            if turn >= 0:
                for what, values in found.items():
                    seconds[name][what] += values
    result: dict[str, Any] = {
        name: {what: percentiles(values) for what, values in seconds[name].items()}
        for name in sides
    }
    for what in ("wall", "cpu"):
        parts = {n: np.array_split(seconds[n][what], BLOCKS) for n in sides}
        ratios = [
            float(np.median(after) / np.median(before))
            for before, after in zip(parts["before"], parts["after"], strict=True)
        ]
        whole = np.median(seconds["after"][what]) / np.median(seconds["before"][what])
        result[f"{what}_p50_ratio"] = round(float(whole), 3)
        result[f"{what}_p50_ratio_of_blocks"] = [round(ratio, 3) for ratio in ratios]
    return result


def counted(sides: dict[str, Side], kind: str) -> dict[str, Any]:
    return {
        name: {
            "calls": side.ask(kind, COUNTED, "profiled"),
            "system_calls": side.syscalls(kind),
        }
        for name, side in sides.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=30, help="turns of a kind and block")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--folder", type=Path, help="where the shards lie: on the disk to measure")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        both(options.before.absolute(), Path(folder)) as sides,
    ):
        for kind in options.kinds:
            found[kind] = measured(sides, kind, options.rounds)
            print(kind, found[kind]["wall_p50_ratio"], found[kind]["cpu_p50_ratio"], flush=True)
        for kind in options.kinds:
            found[kind]["asked"] = counted(sides, kind)
    if "load" in found:
        found["load"]["rows_s_ratio"] = round(1 / found["load"]["wall_p50_ratio"], 3)
    print(json.dumps(write_result(options.out, found), indent=2))


if __name__ == "__main__":
    main()
