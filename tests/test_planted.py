"""The faults that are planted to see them noticed still fit the code (python -m tests.planted)."""

from __future__ import annotations

import ast

import pytest

from tests.planted.__main__ import ROOT, planted
from tests.planted.faults import FAULTS, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_fits_the_code_and_has_its_tests(fault: Fault) -> None:
    for edit in fault.edits:
        ast.parse(planted((ROOT / edit.path).read_text(), edit))
    assert [test for test in fault.tests if not (ROOT / test).is_file()] == []


def test_every_fault_of_the_review_is_there() -> None:
    numbers = {int(fault.name.split(",")[0][1:]) for fault in FAULTS}
    assert numbers == set(range(1, 20))
