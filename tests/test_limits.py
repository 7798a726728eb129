"""CONTRIBUTING's table of limits is what the code does: constants, values and tests exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
_UNITS = {
    "": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
    "ms": 1e-3, "s": 1, "min": 60, "h": 3600,
}  # fmt: skip
_VALUE = re.compile(r"(?P<number>[\d,.]+)(?: (?P<unit>[A-Za-z]+))?")


class Row(NamedTuple):
    what: str
    default: str
    setting: str
    constant: str
    beyond: str
    test: str


def rows() -> list[Row]:
    """The rows of the table under "Everything has a limit"."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Everything has a limit")[1]
    section = section.split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [Row(*(cell.strip() for cell in line.strip("|").split(" | "))) for line in lines]


def value(text: str) -> float:
    """The number that a cell says, in bytes, seconds or things."""
    found = _VALUE.match(text)
    assert found is not None, text
    unit = found["unit"] or ""
    return float(found["number"].replace(",", "")) * _UNITS.get(unit, 1)


def constant(name: str) -> float:
    """The value of ``module:NAME``, or of a field's default in ``module:Class.field``."""
    module, _, path = name.strip("`").partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, "__dataclass_fields__", {}).get(part) or getattr(found, part)
        found = getattr(found, "default", found)
    return float(found)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.what)
def test_a_row_of_the_table_of_limits_says_what_the_code_does(row: Row) -> None:
    assert constant(row.constant) == pytest.approx(value(row.default))
    path, _, name = row.test.strip("`").partition("::")
    assert f"def {name}(" in (ROOT / "tests" / path).read_text()


def test_the_table_of_limits_is_read() -> None:
    assert len(rows()) > 60
