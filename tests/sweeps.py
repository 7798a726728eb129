"""Sweeps whose cells are many times alike: `make test` runs some of them, `make chaos` all."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import product
from typing import Any

import pytest


def chosen(rows: Iterable[Any], names: Container[str]) -> list[Any]:
    """Parameters: a row, a tuple where there are several, is ``long`` unless its first is named."""
    cells = [row if isinstance(row, tuple) else (row,) for row in rows]
    return [pytest.param(*cell, marks=_mark(cell[0] not in names)) for cell in cells]


def covering(*axes: Sequence[Any]) -> list[Any]:
    """Parameters: every cell of the product of ``axes``. Those that are not ``long`` are as many as
    the longest axis has values, and have each value of each axis.
    """
    kept = {tuple(n % len(axis) for axis in axes) for n in range(max(map(len, axes)))}
    places = product(*(range(len(axis)) for axis in axes))
    return [
        pytest.param(
            *(axis[at] for axis, at in zip(axes, place, strict=True)),
            marks=_mark(place not in kept),
        )
        for place in places
    ]


def _mark(is_long: bool) -> Any:
    return pytest.mark.long if is_long else []
