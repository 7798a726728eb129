"""What every command of `bitsift` shares: where it prints, --json, and how it is stopped."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from bitsift.cluster.interrupts import Ending, terminable
from bitsift.errors import BitsiftError, InvalidRequest, Unavailable
from bitsift.problem_lines import problem_document
from bitsift.results import Facets, FacetValue

_CONTROLS = re.compile("[\0-\6\x0e-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys; those that rich leaves out itself are not among them."""


class PlainConsole(Console):
    """Prints documents of strangers: what would move the cursor or set a title is escaped."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(_CONTROLS.sub(_escaped, text), **options)


def _escaped(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"


out = PlainConsole(highlight=False)
err = PlainConsole(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
IndexFolder = Annotated[Path | None, typer.Option("--index", help="Index directory.")]
TEXT_CHARACTERS_MAX = 200
"""Of a document's text, where many are shown."""
USAGE_ERROR: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
"""What Typer raises for wrong usage; its module has no public name."""


def as_utf8(argument: str) -> str:
    """A text of the command line as it was typed, in UTF-8, where the locale is another.

    A parser for Typer. Bytes that are no UTF-8 stay what Python made of them.
    """
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def print_facets(facets: Facets | None) -> None:
    """A line for each field: its values, and how many documents have each."""
    for field, values in (facets or {}).items():
        out.print(escape(f"{field}: {', '.join(map(_facet_said, values))}"), soft_wrap=True)


def _facet_said(facet: FacetValue) -> str:
    value = facet.value["$date"] if isinstance(facet.value, dict) else facet.value
    least = "" if facet.relation == "eq" else "≥ "
    return f"{value} ({least}{facet.count:,})"


def one_line(text: str) -> str:
    """The beginning of a text, without line breaks."""
    line = " ".join(text[: 4 * TEXT_CHARACTERS_MAX].split())
    is_short = len(line) <= TEXT_CHARACTERS_MAX and len(text) <= 4 * TEXT_CHARACTERS_MAX
    return line if is_short else f"{line[: TEXT_CHARACTERS_MAX - 1]}…"


def say(step: str) -> None:
    """A line for the log."""
    err.print(step, soft_wrap=True, markup=False)


@contextlib.contextmanager
def until_stopped(said: str = "stopped", status: int = 0) -> Iterator[Ending]:
    """Ctrl-C and SIGTERM end what is within: a line, this exit status, and no traceback.

    All that was opened within is closed by then. The process ends without the destructors of native
    libraries: a thread of Ray or Arrow that was interrupted may abort the process in them.
    """
    try:
        with terminable() as ending:
            yield ending
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # of a terminal that is gone
            err.print(said)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def forget_output() -> None:
    """What could not be written to the standard output is not tried again as Python ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(data: Any) -> None:
    """One JSON object on standard output, in UTF-8 in every locale; dataclasses are objects."""
    sys.stdout.flush()
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
    sys.stdout.buffer.write(orjson.dumps(data, option=options) + b"\n")
    sys.stdout.buffer.flush()


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether --json is among the options: an error before they are read is JSON as well."""
    return "--json" in itertools.takewhile(lambda argument: argument != "--", arguments)


def print_error(error: BitsiftError, *, is_json: bool) -> None:
    """The last line on standard error: for people, or as the problem document that HTTP has."""
    if not is_json:
        title = "" if isinstance(error, InvalidRequest) else f"{error.title}: "
        err.print(f"[red]error:[/red] {title}{escape(error.message)}", soft_wrap=True)
        return
    sys.stderr.flush()
    sys.stderr.buffer.write(orjson.dumps(problem_document(error)) + b"\n")
    sys.stderr.buffer.flush()


def open_standard_files() -> None:
    """Where standard input, output or error is closed, the next file that anything opens would be
    taken for it: /dev/null is.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if opened == number:
                setattr(sys, name, os.fdopen(number, mode, closefd=False))


def require_current_folder() -> None:
    """Raises Unavailable where the folder that the command was started in is gone."""
    try:
        Path.cwd()
    except OSError as error:
        raise Unavailable(
            "the current folder is gone, or may not be read: change to another one"
        ) from error


def print_anything() -> None:
    """Characters that the locale's encoding lacks are escaped: they end no command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def standing_cells(replica: Mapping[str, Any]) -> tuple[str, str]:
    """How far a replica is behind the newest of its shard, and whether it holds the same."""
    lag_ms, digest = replica["lag_ms"], replica["digest"]
    lag = "?" if lag_ms is None else f"{lag_ms / 1e3:,.1f} s" if lag_ms else "0"
    return lag, digest or "-"
