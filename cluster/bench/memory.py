"""How much memory a family of processes takes, by what it is for (Linux, /proc/PID/smaps*).

Every page counts once: ``Pss`` divides a page by the number of processes that map it.

    anonymous      heaps, stacks, arrays; also the private copies of pages of files
    shared         shared memory: /dev/shm (Ray's object store), memfd
    bits           files of the index that are mapped, other than the store: the bits in RAM
    store_pages    LMDB's map of data.mdb: the kernel takes these pages back whenever it likes
    program_files  programs and shared libraries, likewise reclaimable
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from bitsift.shard_worker.layout import STORE_FOLDER

INTERVAL_S = 1.0
_OF_INDEX = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ .*/shard-\d+/(.*)$", re.MULTILINE)
_PAUSE = 10
"""A sample of 40 GB of mapped pages takes a second or more. Pauses of ten times as long keep it to
a tenth of a core; a build without them gave a fifth of one to its measurement."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, see the module. ``processes`` says how many processes were added up."""

    anonymous: int = 0
    shared: int = 0
    bits: int = 0
    store_pages: int = 0
    program_files: int = 0
    processes: int = 0

    @property
    def total(self) -> int:
        """What the promise of 8 GB speaks of: nothing here can be taken back by the kernel at will,
        but for the bits, without which no query is fast.
        """
        return self.anonymous + self.shared + self.bits

    def __add__(self, other: Memory) -> Memory:
        mine, theirs = asdict(self), asdict(other)
        return Memory(**{name: mine[name] + theirs[name] for name in mine})

    def to_json(self) -> dict[str, int]:
        return {"total": self.total, **asdict(self)}


def memory_of(pid: int) -> Memory:
    """Memory of one process. Raises OSError when it has ended or belongs to another user.

    The sums come from smaps_rollup. All mappings are read only where some are of an index: parsing
    those of every process would take the time that is being measured.
    """
    folder = Path(f"/proc/{pid}")
    rollup = (folder / "smaps_rollup").read_bytes()
    of_index = _OF_INDEX.search((folder / "maps").read_bytes())
    return parse_memory(rollup, (folder / "smaps").read_bytes() if of_index else b"")


def parse_memory(rollup: bytes, smaps: bytes) -> Memory:
    """The memory that one process's smaps_rollup and smaps speak of."""
    store_pages = bits = 0
    for mapping in _OF_INDEX.finditer(smaps):
        pss = _field(smaps, b"Pss", mapping.end())
        if STORE_FOLDER.fullmatch(mapping[1].partition(b"/")[0].decode()):
            store_pages += pss
        else:
            bits += pss
    return Memory(
        anonymous=_field(rollup, b"Pss_Anon") + _field(rollup, b"SwapPss"),
        shared=_field(rollup, b"Pss_Shmem"),
        bits=bits,
        store_pages=store_pages,
        program_files=max(0, _field(rollup, b"Pss_File") - store_pages - bits),
        processes=1,
    )


def _field(text: bytes, name: bytes, start: int = 0) -> int:
    """Bytes of the first line ``name: … kB`` behind ``start``."""
    found = text.find(b"\n" + name + b":", start)
    return int(text[found : found + 64].split()[1]) * 1024 if found >= 0 else 0


def family_memory(root: int) -> Memory:
    """Memory of process ``root`` and all that descend from it."""
    total = Memory()
    try:
        family = [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.NoSuchProcess:
        return total
    for pid in family:
        with contextlib.suppress(OSError):  # it has ended
            total += memory_of(pid)
    return total


class MemorySampler:
    """Sample this process's family in a thread, phase by phase; use it as a context.

    ``peaks`` holds for each phase the sample with the largest total; ``series`` the seconds since
    the start, the phase and the memory of every sample.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self.phase = "start"
        self.peaks: dict[str, Memory] = {}
        self.series: list[tuple[float, str, Memory]] = []
        self.sampling_s = 0.0
        self._interval_s = interval_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            began_s = time.monotonic()
            self.sample()
            self._ending.wait(max(self._interval_s, _PAUSE * (time.monotonic() - began_s)))

    def sample(self) -> Memory:
        """Take one sample now."""
        phase, before = self.phase, time.monotonic()
        found = family_memory(os.getpid())
        self.sampling_s = max(self.sampling_s, time.monotonic() - before)
        self.series.append((round(before - self._started, 1), phase, found))
        held = self.peaks.get(phase)
        if held is None or found.total > held.total:
            self.peaks[phase] = found
        return found
