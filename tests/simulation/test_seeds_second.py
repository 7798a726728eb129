"""The second half of the histories that `make test` simulates."""

from __future__ import annotations

import pytest

from tests.simulation.seeds import HALVES, check_block


@pytest.mark.slow
@pytest.mark.parametrize("start", HALVES[1])
def test_no_seed_breaks_a_promise(start: int) -> None:
    check_block(start)
