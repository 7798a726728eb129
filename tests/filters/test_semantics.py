"""The table of docs/searching.md that says what passes: each row is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bitsift.filters.matching import matches
from bitsift.filters.parse import parse_json
from tests.filters.brute_force import passes

PAGE = Path(__file__).parents[2] / "docs" / "searching.md"
HEAD = "| filter | passes | does not pass |\n|---|---|---|\n"


def rows() -> list[list[str]]:
    table = PAGE.read_text().split(HEAD)[1].split("\n\n")[0]
    return [line.removeprefix("|").removesuffix("|").split("|") for line in table.splitlines()]


def documents(cell: str) -> list[dict[str, Any]]:
    return [json.loads(code) for code in re.findall(r"`([^`]*)`", cell)]


def test_there_is_a_table() -> None:
    assert len(rows()) >= 25
    assert sum(len(documents(row[1]) + documents(row[2])) for row in rows()) >= 90


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0].strip())
def test_a_row_says_what_passes(row: list[str]) -> None:
    ((written,), through, refused) = map(documents, row)
    tree = parse_json(written)
    for expected, cells in ((True, through), (False, refused)):
        for metadata in cells:
            assert matches(tree, "an id", metadata) is expected, metadata
            assert passes(written, "an id", metadata) is expected, metadata
