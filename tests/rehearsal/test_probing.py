"""The rules of a kubelet, on a clock that the test turns."""

from __future__ import annotations

from dataclasses import replace

from tests.rehearsal.pods import Container, Probe
from tests.rehearsal.probing import BACK_OFF_FORGOTTEN_S, BackOff, Kind, Probes

NONE = Container(
    name="one", image="image", command=(), environment={}, mounts=(), memory_bytes=1, cpus=1.0,
    can_write_root=False, capabilities=(), can_gain_privileges=False, startup=None, liveness=None,
    readiness=None, pre_stop_s=0.0,
)  # fmt: skip
STARTUP = Probe(port=1, period_s=2, failures=3)
READINESS = Probe(port=2, period_s=5, failures=2)
LIVENESS = Probe(port=3, period_s=10, failures=2)
ALL = replace(NONE, startup=STARTUP, readiness=READINESS, liveness=LIVENESS)


def kinds(probes: Probes, now_s: float) -> list[Kind]:
    return [kind for kind, _ in probes.due(now_s)]


def test_nothing_else_is_asked_until_startup_has_passed() -> None:
    probes = Probes(ALL, 100.0)
    assert kinds(probes, 100) == [Kind.STARTUP]
    probes.record(Kind.STARTUP, False, 100)
    assert kinds(probes, 101.9) == []
    assert kinds(probes, 102) == [Kind.STARTUP]
    probes.record(Kind.STARTUP, True, 102)
    assert not probes.is_ready
    assert kinds(probes, 102) == [Kind.LIVENESS, Kind.READINESS]


def test_a_start_that_takes_longer_than_it_may_ends_the_container() -> None:
    probes = Probes(ALL, 0.0)
    for now_s, must_end in ((0, False), (2, False), (4, True)):
        probes.record(Kind.STARTUP, False, now_s)
        assert probes.must_end is must_end


def test_it_is_ready_at_once_and_unready_after_so_many_failures_in_a_row() -> None:
    probes = Probes(replace(ALL, startup=None), 0.0)
    found = [probes.is_ready]
    for answered in (True, False, True, False, False):
        probes.record(Kind.READINESS, answered, 5)
        found.append(probes.is_ready)
    assert found == [False, True, True, True, True, False]
    assert not probes.must_end  # only liveness ends it


def test_liveness_ends_it_after_so_many_failures_in_a_row() -> None:
    probes = Probes(replace(ALL, startup=None), 0.0)
    for answered, must_end in ((False, False), (True, False), (False, False), (False, True)):
        probes.record(Kind.LIVENESS, answered, 0)
        assert probes.must_end is must_end


def test_without_probes_it_is_ready() -> None:
    probes = Probes(NONE, 0.0)
    assert probes.is_ready
    assert not probes.must_end


def test_a_delay_is_counted_from_the_start_of_the_container() -> None:
    probes = Probes(replace(NONE, readiness=replace(READINESS, delay_s=30)), 100.0)
    assert kinds(probes, 129.9) == []
    assert kinds(probes, 130) == [Kind.READINESS]


def test_a_slow_answer_does_not_make_probes_pile_up() -> None:
    probes = Probes(replace(NONE, readiness=READINESS), 0.0)
    probes.record(Kind.READINESS, True, 23)
    assert kinds(probes, 23) == [Kind.READINESS]
    probes.record(Kind.READINESS, True, 23)
    assert kinds(probes, 23) == []


def test_restarts_wait_longer_each_time_up_to_five_minutes() -> None:
    back_off = BackOff()
    assert [back_off.after(1) for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]
    assert back_off.after(BACK_OFF_FORGOTTEN_S) == 0
