"""The journal of what was healed."""

from __future__ import annotations

from bitsift.cluster.serving.watch import EVENTS_MAX, Journal


def test_the_newest_events_are_kept_and_each_is_said() -> None:
    said: list[str] = []
    journal = Journal(said.append)
    lines = [f"event {number}" for number in range(EVENTS_MAX + 1)]
    for line in lines:
        journal.add(line)
    assert said == lines
    assert [event["what"] for event in journal.events] == lines[1:]
    assert all(event["at"].endswith("+00:00") for event in journal.events)
