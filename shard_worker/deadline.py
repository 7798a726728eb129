"""When an answer is due, and whether anyone still waits for it: what every long loop checks.

What crosses processes is the time that is left, never a point in time: the wall clock jumps, and
two machines' monotonic clocks have nothing in common. A message also says when it was sent, on the
clock of its machine's boot; a receiver of the same boot takes off what it spent in queues. Between
machines that part is not known and not counted: the router's cancellation ends late work there.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import DeadlineExceeded
from bitsift.shard_worker.logs import REQUEST_ID

_BOOT = uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
WAITED_MAX_S = 120.0
"""No request lives half as long. A longer wait means that the two clocks are not the same after
all (containers may shift theirs: time_namespaces(7)), so it says nothing."""

Check = Callable[[], None]
"""Called between the steps of long work. Raises DeadlineExceeded when it is for nobody."""


class Deadline:
    """``at_s`` on this process's monotonic clock; infinite by default. Any thread may look at it.

    ``cancel`` says that nobody waits any more, however much time is left.
    """

    __slots__ = ("_cancelled", "_listeners", "at_s", "request")

    def __init__(self, at_s: float = math.inf) -> None:
        self.at_s = at_s
        self.request = REQUEST_ID.get()
        """Whom it is for, in logs."""
        self._cancelled = False
        self._listeners: dict[Callable[[], None], None] = {}  # in their order

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def remaining_s(self) -> float:
        """Seconds that are left; negative when it has passed, infinite where there is none."""
        return self.at_s - time.monotonic()

    def late_s(self) -> float:
        """How long ago it was; negative while it lies ahead."""
        return -self.remaining_s()

    def is_open(self) -> bool:
        """Whether somebody waits and there is time."""
        return not self._cancelled and time.monotonic() < self.at_s

    def check(self) -> None:
        """Raises DeadlineExceeded when nobody waits any more, or the time is over."""
        if self._cancelled:
            raise DeadlineExceeded("cancelled: nobody is waiting for this any more")
        if time.monotonic() > self.at_s:
            raise DeadlineExceeded(f"stopped {self.late_s():.3f} s after the deadline")

    def cancel(self) -> None:
        """Nobody waits any more. Listeners are told, in this thread, once."""
        self._cancelled = True
        listeners, self._listeners = self._listeners, {}
        for tell in listeners:
            tell()

    def on_cancel(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` when it is given up; at once if it was."""
        if self._cancelled:
            tell()
        else:
            self._listeners[tell] = None

    def branch(self) -> Deadline:
        """The same moment for one of several attempts: given up with this one, or before it."""
        branch = Deadline(self.at_s)
        branch.request = self.request
        self.on_cancel(branch.cancel)
        return branch

    def forget(self, tell: Callable[[], None]) -> None:
        """Do not call ``tell`` any more."""
        self._listeners.pop(tell, None)


def still_open(deadlines: Sequence[Deadline]) -> NDArray[np.intp]:
    """The places of those of ``deadlines`` that are open."""
    return np.flatnonzero([deadline.is_open() for deadline in deadlines])


Sent = tuple[bytes, float]
"""The boot of a sender's machine, and seconds on the monotonic clock of that boot."""


def sent_now() -> Sent:
    """What a message that leaves now says of the moment."""
    return _BOOT, time.monotonic()


def arrived(remaining_s: float, sent: Sent) -> Deadline:
    """The deadline, here, of a message that had ``remaining_s`` left when it was ``sent``."""
    boot, at_s = sent
    waited_s = time.monotonic() - at_s if boot == _BOOT else 0.0
    return Deadline.after(remaining_s - (waited_s if 0 < waited_s < WAITED_MAX_S else 0.0))
