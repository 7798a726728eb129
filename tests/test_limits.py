"""CONTRIBUTING's table of limits is what the code does: constants, values and tests exist, and no
constant is left out.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable, Iterator
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


# --- every constant of that kind is in the table, or no limit that anyone meets -------------------

_LIMIT = re.compile(
    r"[A-Z].*(_S|_MS|_BYTES|_MAX|_ROWS|_ENTRIES|_CHARACTERS)|[A-Z].*_MAX_[A-Z]+"
    r"|_([A-Z].*_)?(MAX|TIMEOUT_S|WAIT_S)|_[A-Z].*_MAX_[A-Z]+"
)
"""What begins with an underscore is met inside of one module only: that is said of those whose
names promise an end.
"""
_PACKAGES = ("bitsift", "cluster", "router", "shard_worker")
_TOOLS = {"bench", "evaluation"}
NO_LIMITS = Path(__file__).with_name("no_limits.txt")


def constants(root: Path) -> Iterator[str]:
    """``module:NAME`` of each constant below ``root`` that is named as a limit is."""
    for path in sorted(path for name in _PACKAGES for path in (root / name).rglob("*.py")):
        module = path.relative_to(root).with_suffix("").parts
        if not _TOOLS.intersection(module):
            parts = module if module[0] == "bitsift" else ("bitsift", *module)
            name = ".".join(parts).removesuffix(".__init__")
            yield from (f"{name}:{it}" for it in assigned(path.read_text()) if _LIMIT.fullmatch(it))


def assigned(source: str) -> Iterator[str]:
    """The names that a module gives values to."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            names = [it for it in ast.walk(node) if isinstance(it, ast.Name)]
            yield from (it.id for it in names if isinstance(it.ctx, ast.Store))


def no_limits() -> list[str]:
    lines = NO_LIMITS.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def unsorted(found: Iterable[str], limits: Iterable[str], others: Iterable[str]) -> list[str]:
    """What is in neither list or in both, or in ``others`` and not there."""
    found, limits, others = set(found), set(limits), set(others)
    return sorted((found - limits - others) | (limits & others) | (others - found))


def test_every_constant_that_is_named_as_a_limit_is_one_or_is_said_to_be_none() -> None:
    limits = {row.constant.strip("`") for row in rows()}
    said = "give it a row in CONTRIBUTING, or a line in tests/no_limits.txt that says why none"
    assert unsorted(constants(ROOT), limits, no_limits()) == [], said
    assert no_limits() == list(dict.fromkeys(no_limits())), "each once"


def test_a_new_constant_is_found(tmp_path: Path) -> None:
    (tmp_path / "bitsift").mkdir()
    (tmp_path / "router" / "http").mkdir(parents=True)
    (tmp_path / "bitsift" / "words.py").write_text("WORDS_MAX = 5\n_PART_BYTES = 7\n_MAX = 9\n")
    (tmp_path / "router" / "http" / "new.py").write_text("A_S, B = 1.0, 2\nC_MS: float = A_S\n")
    found = list(constants(tmp_path))
    assert found == ["bitsift.words:WORDS_MAX", "bitsift.words:_MAX",
                     "bitsift.router.http.new:A_S", "bitsift.router.http.new:C_MS"]  # fmt: skip
    assert unsorted(found, found[:1], found[1:2]) == found[2:]
    assert unsorted(found, found, found[:1]) == found[:1]
    assert unsorted(found[1:], found[1:], found[:1]) == found[:1], "it was removed"
