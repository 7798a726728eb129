"""The folder of a local Ray cluster's session: logs, sockets, what did not fit into RAM.

Ray never removes one, and each takes megabytes of the temporary folder. A session that this
process started is removed when it ends normally, or by the next server of its index if this process
is killed (leftovers.py); others are left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import ray

from bitsift.cluster.interrupts import shielded
from bitsift.cluster.serving.claim import current_mark
from bitsift.cluster.serving.leftovers import keep_folder, mark_folder, remove_folder


class RaySession:
    """As a context: a session that begins and ends within. ``say`` is told where one is kept."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._folder: Path | None = None

    def begun(self) -> None:
        """This process has started the cluster that it is connected to."""
        node = ray._private.worker.global_worker.node
        assert node is not None
        self._folder = Path(node.get_session_dir_path())
        mark_folder(self._folder, current_mark())

    def __enter__(self) -> RaySession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Ctrl-C and SIGTERM are clean ends."""
        if self._folder is None:
            return
        if kind is not None and issubclass(kind, Exception):
            keep_folder(self._folder)
            self._say(f"the logs of Ray are kept in {self._folder / 'logs'}")
            return
        with shielded():
            _close_logs()
            remove_folder(self._folder)


def _close_logs() -> None:
    """Ray Data keeps its file's path for the life of the process, and raises where it is gone."""
    for handler in logging.getLogger("ray.data").handlers:
        handler.close()  # the next message opens the file of the session that runs then
