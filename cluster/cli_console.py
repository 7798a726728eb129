"""What every command of `bitsift` shares: where it prints, --json, and how it is ended."""

from __future__ import annotations

import contextlib
import signal
import sys
import types
from collections.abc import Iterator
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def print_json(data: Any) -> None:
    """One JSON object on standard output; dataclasses are objects."""
    sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() + "\n")


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGINT and SIGTERM end a command alike, so that nothing is left behind.

    SIGINT is set too: a shell starts background jobs with SIGINT ignored.
    """

    def interrupt(_: int, __: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
