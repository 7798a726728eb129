from __future__ import annotations

from bitsift.cluster.bench.timing import interleaved, percentiles


def test_sides_take_turns_and_the_warm_up_is_not_measured() -> None:
    calls: list[tuple[str, int]] = []
    sides = {name: lambda turn, name=name: calls.append((name, turn)) for name in "ab"}
    seconds = interleaved(sides, rounds=2, warm_up=1)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert {name: len(spent) for name, spent in seconds.items()} == {"a": 2, "b": 2}


def test_percentiles_are_milliseconds() -> None:
    found = percentiles([second / 1_000 for second in range(1, 102)])
    assert found == {"p50_ms": 51.0, "p90_ms": 91.0, "p99_ms": 100.0, "calls": 101}


def test_no_call_has_no_percentile() -> None:
    assert percentiles([]) == {"calls": 0}
