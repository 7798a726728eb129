"""Ten seconds of each fuzzer; ``python -m tests.fuzz`` runs them for longer."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bitsift.cluster.bench import threads
from tests.child_gateway import Child, child_gateway
from tests.fuzz.by_schema import fuzz_by_schema
from tests.fuzz.cases import PATHS, cases
from tests.fuzz.raw import Fuzzer

SECONDS = 10
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


class Nothing:
    """A target that nothing reaches."""

    url = "http://127.0.0.1:9"

    def state(self) -> dict[str, Any]:
        return {"files": 0}


def test_a_round_may_take_longer_than_what_is_waited_for_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exchange(*_: object) -> bytes:
        time.sleep(0.01)
        return b"HTTP/1.1 200 "

    monkeypatch.setattr(threads, "ENDS_WITHIN_S", 0.5)
    monkeypatch.setattr(Fuzzer, "_exchange", exchange)
    fuzzer = Fuzzer(Nothing(), SEED)
    fuzzer._round(0, 1.0)
    assert fuzzer._cases > 10


def test_every_route_that_is_described_is_sent_to(gateway: Child) -> None:
    described = httpx.get(f"{gateway.url}/openapi.json", timeout=60).json()["paths"]
    sent = {path.split("?")[0] for path in PATHS}
    wanted = {re.sub(r"\{[^}]+\}", "a1", path) for path in described}
    assert wanted <= sent


def test_the_same_seed_sends_the_same() -> None:
    first, second = (cases(3) for _ in range(2))
    assert [first.next() for _ in range(200)] == [second.next() for _ in range(200)]
