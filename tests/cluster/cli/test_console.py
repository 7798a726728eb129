"""What commands print of documents is text to a terminal, whatever is in them."""

import io

import pytest
from rich.markup import escape
from rich.table import Table

from bitsift.cluster.cli.console import PlainConsole

EVIL = "a\x1b[2Jb\x1b]0;title\x07c\x9b31md\0e[bold]f[/bold] g é 日本\u200f"
SHOWN = "a\\x1b[2Jb\\x1b]0;titlec\\x9b31md\\x00e[bold]f[/bold]"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_obeys_no_document(is_terminal: bool) -> None:
    said = io.StringIO()
    console = PlainConsole(
        highlight=False, force_terminal=is_terminal, no_color=True, width=200, file=said
    )
    table = Table(show_header=False, box=None)
    table.add_row(escape(EVIL))
    console.print(escape(EVIL), soft_wrap=True)
    console.print(EVIL, markup=False, soft_wrap=True)
    console.print(table)
    lines = said.getvalue().splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.strip().startswith(SHOWN)
        assert line.strip().endswith("g é 日本\u200f")


def test_styles_of_our_own_are_kept() -> None:
    said = io.StringIO()
    PlainConsole(force_terminal=True, file=said).print("[bold]a[/bold]")
    assert "\x1b[1ma" in said.getvalue()
