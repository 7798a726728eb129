"""A process with one open shard, to be killed, starved or lied to by its disk.

python -m tests.faults.child FOLDER TASK [POINT AFTER]

It says what it did, a line each: what it does not say was not acknowledged.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bitsift.errors import BitsiftError
from bitsift.shard_worker.shard import Shard
from tests.crash import points
from tests.crash.documents import CALIBRATION, IDENTITY, upserts
from tests.crash.server import contents
from tests.writing import written

BATCH = 5


def names_of(batch: int) -> list[str]:
    """The ids of the documents that ``write`` brings with a batch."""
    return [f"{batch}-{place}" for place in range(BATCH)]


def write(shard: Shard) -> None:
    """Batches until one is refused; then: are reads still answered, and is the next refused?"""
    batch = 0
    try:
        while True:
            written(shard, upserts({name: f"text of {name}" for name in names_of(batch)}))
            _say(f"stored {batch}")
            batch += 1
    except BitsiftError as error:
        _say(f"refused {type(error).__name__}: {error}")
    _say(f"stopped {shard.status().writes_stopped}")
    _say(f"read {len(contents(shard))}")
    try:
        written(shard, upserts({"more": "more"}))
        _say("took the next one")
    except BitsiftError as error:
        _say(f"refused {type(error).__name__}: {error}")
    shard.close()


def keep_up(shard: Shard) -> None:
    """All upkeep there is, again and again."""
    names = [str(number) for number in range(450)]
    for round_ in range(100):
        written(shard, upserts({name: f"{round_} of {name}" for name in names[:400]}))
        written(shard, upserts({name: f"text of {name}" for name in names[:400]}))
        _say(f"round {round_}")
        shard.save_bits()
        if round_ == 0:
            shard.train()
        shard.compact()


def hold(shard: Shard) -> None:
    """Have it open, and write when asked to."""
    _say("open")
    for line in sys.stdin:
        written(shard, upserts({line.strip(): f"text of {line.strip()}"}))
        _say(f"stored {line.strip()}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    folder, task, *point = sys.argv[1:]
    opened = Shard(Path(folder), CALIBRATION, IDENTITY)
    if point:
        points.arm(point[0], int(point[1]), Path(folder).parent / "last-words")
    {"write": write, "keep-up": keep_up, "hold": hold}[task](opened)
