"""Twenty seconds of each fuzzer; ``python -m tests.fuzz`` runs them for longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.child_gateway import Child, child_gateway
from tests.fuzz.by_schema import fuzz_by_schema
from tests.fuzz.cases import cases
from tests.fuzz.raw import Fuzzer

SECONDS = 20
SEED = 11


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_gateway(tmp_path_factory.mktemp("fuzz")) as child:
        yield child


def test_whatever_is_sent_nothing_breaks_hangs_or_leaks(gateway: Child) -> None:
    fuzzer = Fuzzer(gateway, SEED)
    fuzzer.run(SECONDS)
    report = fuzzer.report()
    assert report["failures"] == []
    assert (report["server_errors"], report["hangs"], report["leaks"]) == (0, 0, [])
    assert report["cases"] > 100
    assert {"200", "400", "404", "405", "415", "422"} <= set(report["answers"])


def test_whatever_the_description_allows_has_an_answer(gateway: Child) -> None:
    report = fuzz_by_schema(gateway, SECONDS, SEED)
    assert report["failures"] == []
    assert (report["exit_status"], report["leaks"]) == (0, [])
    assert report["cases"] is not None


def test_the_same_seed_sends_the_same() -> None:
    first, second = (cases(3) for _ in range(2))
    assert [first.next() for _ in range(200)] == [second.next() for _ in range(200)]
