"""Generated files are read as other readers read them; tests/sources_differential.py has more."""

import random
from pathlib import Path

import pytest

from tests.sources_differential import WRITERS, check, made, run


def test_no_row_of_generated_files_is_lost_and_counts_agree() -> None:
    kinds, by_writer, unexplained = run(range(100_000, 100_150))
    assert unexplained == []
    assert kinds["agrees"] > 120
    assert len(by_writer) == len(WRITERS)


@pytest.mark.parametrize("seed", [6581, 7077, 4498, 5910, 1635, 1810, 726, 326, 104, 88, 9])
def test_files_that_were_once_read_wrongly(tmp_path: Path, seed: int) -> None:
    assert check(seed, tmp_path).kind != "unexplained"


def test_a_seed_makes_the_same_file_again() -> None:
    assert made(7) == made(7)
    assert len({made(seed)[0].writer for seed in random.Random(0).sample(range(999), 60)}) > 6
