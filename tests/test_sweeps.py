"""A thinned sweep loses no value of an axis, and nothing of it is lost to `make chaos`."""

from __future__ import annotations

from itertools import product
from typing import Any

from tests.sweeps import chosen, covering

AXES: tuple[list[Any], ...] = ["a", "b", "c"], [1, 2], [True, False, None, 0.5]


def kept(cells: list[Any]) -> list[tuple[Any, ...]]:
    return [cell.values for cell in cells if not {"long"} & {mark.name for mark in cell.marks}]


def test_each_value_of_each_axis_is_kept_in_as_few_cells_as_can_be() -> None:
    cells = covering(*AXES)
    assert [cell.values for cell in cells] == list(product(*AXES))
    assert len(kept(cells)) == 4
    assert [set(values) for values in zip(*kept(cells), strict=True)] == [set(it) for it in AXES]


def test_rows_are_kept_by_their_first_value() -> None:
    assert kept(chosen(["a", "b", "c"], {"b"})) == [("b",)]
    cells = chosen({"a": 1, "b": 2}.items(), {"a"})
    assert kept(cells) == [("a", 1)]
    assert [cell.values for cell in cells] == [("a", 1), ("b", 2)]
