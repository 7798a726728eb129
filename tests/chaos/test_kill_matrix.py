"""The short kill matrix: one server, hit again and again. ``python -m tests.chaos.kill_matrix`` is
the whole one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cells import Cell, run_cell, served, what_is_left
from tests.chaos.server import Server

STOP_S = 15.0
CELLS = (
    Cell("shard", "KILL", "reads"),
    Cell("shard", "STOP", "reads"),
    Cell("router", "KILL", "reads"),
    Cell("GCS", "KILL", "writes"),
    Cell("raylet", "KILL", "writes"),
    Cell("main", "KILL", "writes"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("matrix")
    with served(folder) as running:
        yield running
        assert what_is_left(running) == []


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(vars(cell).values()))
def test_what_is_ended_or_stopped_heals_and_loses_nothing(cell: Cell, server: Server) -> None:
    outcome = run_cell(cell, server, STOP_S)
    slow = [problem for problem in outcome.problems if problem.startswith("healed after")]
    assert outcome.problems == slow, outcome.said  # how long it takes, the whole matrix judges
    assert outcome.healed_s is not None
