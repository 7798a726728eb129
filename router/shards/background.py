"""Calls that go on though nobody waits for them: what their replica says is still worth knowing."""

from __future__ import annotations

import asyncio
from typing import Any

_running: set[asyncio.Future[Any]] = set()
"""An event loop refers to its tasks only weakly. Each of these ends at a deadline of its own."""


def let_end(task: asyncio.Future[Any]) -> None:
    """Keep ``task`` until it ends, however it ends."""
    _running.add(task)
    task.add_done_callback(_ended)


def _ended(task: asyncio.Future[Any]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # asyncio logs an error that nobody looked at
