"""What is restarted when, and what is said: decided from what was seen, without a process."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.serving.supervisor import (
    GCS,
    GCS_SILENT_MAX_S,
    GCS_STARTS_MAX,
    RAYLET,
    REPLACED_MAX,
    SETTLE_S,
    STOPPED_MAX_S,
    WITHIN_S,
    Actor,
    Seen,
    Step,
    Supervisor,
)

WELL = Seen()
LOST = Seen(ended={RAYLET: 11})
NO_GCS = Seen(ended={GCS: 12})


def test_what_is_well_is_left_alone() -> None:
    supervisor = Supervisor()
    steps = {supervisor.decide(WELL, now_s).step for now_s in range(1000)}
    assert steps == {Step.NOTHING}


def test_a_raylet_that_ended_alone_has_the_cluster_replaced_after_a_moment() -> None:
    supervisor = Supervisor()
    assert supervisor.decide(LOST, 100.0).step is Step.NOTHING
    decision = supervisor.decide(LOST, 100.0 + SETTLE_S)
    assert (decision.step, decision.why) == (Step.REPLACE, "the raylet (pid 11) ended")


def test_ray_that_was_stopped_as_a_whole_ends_the_command() -> None:
    supervisor = Supervisor()
    supervisor.decide(LOST, 100.0)
    decision = supervisor.decide(Seen(ended={RAYLET: 11, "dashboard": 13}), 100.5)
    assert decision.step is Step.END
    said = "the dashboard and the raylet ended together: Ray was stopped as a whole"
    assert decision.why == said


def test_a_dashboard_that_ended_long_before_means_nothing() -> None:
    supervisor = Supervisor()
    alone = Seen(ended={"dashboard": 13})
    assert supervisor.decide(alone, 100.0).step is Step.NOTHING
    both = Seen(ended={RAYLET: 11, "dashboard": 13})
    supervisor.decide(both, 100.0 + WITHIN_S)
    assert supervisor.decide(both, 100.0 + WITHIN_S + SETTLE_S).step is Step.REPLACE


def test_a_gcs_that_was_started_again_ended_with_nothing_that_ends_later() -> None:
    supervisor = Supervisor()
    assert supervisor.decide(NO_GCS, 100.0).step is Step.START_GCS
    supervisor.decide(WELL, 101.0)
    supervisor.decide(LOST, 102.0)
    assert supervisor.decide(LOST, 102.0 + SETTLE_S).step is Step.REPLACE


@pytest.mark.parametrize("seen", [Seen(node_is_alive=False), Seen(router_is_gone=True)])
def test_what_ray_has_given_up_is_replaced(seen: Seen) -> None:
    supervisor = Supervisor()
    supervisor.decide(seen, 0.0)
    assert supervisor.decide(seen, SETTLE_S).step is Step.REPLACE


def test_a_gcs_that_ended_is_started_again_at_once_and_alone() -> None:
    decision = Supervisor().decide(NO_GCS, 0.0)
    assert decision.step is Step.START_GCS
    assert decision.why == "Ray's control store (GCS, pid 12) ended"


def test_a_silent_gcs_is_given_longer_while_it_is_stopped() -> None:
    silent = Seen(gcs_silent_s=GCS_SILENT_MAX_S + 1)
    assert Supervisor().decide(silent, 0.0).step is Step.START_GCS
    stopped = replace(silent, gcs_is_stopped=True)
    assert Supervisor().decide(stopped, 0.0).step is Step.NOTHING
    for_ever = replace(stopped, gcs_silent_s=STOPPED_MAX_S + 1)
    assert Supervisor().decide(for_ever, 0.0).step is Step.START_GCS


def test_a_gcs_that_does_not_stay_has_the_cluster_replaced() -> None:
    supervisor = Supervisor()
    steps = [supervisor.decide(NO_GCS, now_s).step for now_s in range(GCS_STARTS_MAX + 1)]
    assert steps == [Step.START_GCS] * GCS_STARTS_MAX + [Step.REPLACE]


def replaced(supervisor: Supervisor, now_s: float) -> Step:
    supervisor.decide(LOST, now_s)
    step = supervisor.decide(LOST, now_s + SETTLE_S).step
    supervisor.begun()
    return step


def test_a_cluster_that_does_not_stay_ends_the_command_and_one_a_week_does_not() -> None:
    supervisor = Supervisor()
    steps = [replaced(supervisor, 10.0 * turn) for turn in range(REPLACED_MAX + 1)]
    assert steps == [Step.REPLACE] * REPLACED_MAX + [Step.END]
    patient = Supervisor()
    weekly = {replaced(patient, 604_800.0 * turn) for turn in range(50)}
    assert weekly == {Step.REPLACE}


def test_starts_that_fail_are_tried_again_as_often_as_clusters_are_replaced() -> None:
    supervisor = Supervisor()
    assert replaced(supervisor, 0.0) is Step.REPLACE
    decisions = [supervisor.start_failed("a port is taken", 10.0) for _ in range(REPLACED_MAX)]
    steps = [decision.step for decision in decisions]
    assert steps == [Step.REPLACE] * (REPLACED_MAX - 1) + [Step.END]
    assert "the index could not be restarted (a port is taken)" in decisions[-1].why


looks = st.builds(
    Seen,
    ended=st.dictionaries(st.sampled_from([RAYLET, GCS, "dashboard"]), st.just(1)),
    node_is_alive=st.booleans(),
    router_is_gone=st.booleans(),
    gcs_silent_s=st.sampled_from([0.0, 20.0, 50.0]),
    gcs_is_stopped=st.booleans(),
)


@given(st.lists(looks, max_size=60))
def test_whatever_is_seen_restarts_are_bounded_and_each_step_says_why(seen: list[Seen]) -> None:
    supervisor, taken = Supervisor(), []
    for now_s, look in enumerate(seen):
        decision = supervisor.decide(look, float(now_s))
        taken.append(decision.step)
        assert bool(decision.why) == (decision.step is not Step.NOTHING)
        if decision.step is Step.REPLACE:
            supervisor.begun()
        if decision.step is Step.END:
            break
    assert taken.count(Step.REPLACE) <= REPLACED_MAX
    assert taken.count(Step.START_GCS) <= GCS_STARTS_MAX * (1 + taken.count(Step.REPLACE))


def narrated(*looks: Actor) -> list[str]:
    supervisor = Supervisor()
    return [line for look in looks for line in supervisor.narrate({"shard 1": look})]


def test_what_happens_to_an_actor_is_said_once() -> None:
    well, gone, again = Actor(7, True), Actor(7, False), Actor(8, True)
    assert narrated(well, well, gone, gone, again, again) == [
        "shard 1 (pid 7) ended; Ray restarts it",
        "shard 1 was restarted as pid 8",
    ]
    assert narrated(well, again) == ["shard 1 (pid 7) ended; restarted as pid 8"]
    assert narrated(well, replace(well, is_stopped=True), well) == [
        "shard 1 (pid 7) is stopped, perhaps by SIGSTOP",
        "shard 1 (pid 7) runs again",
    ]


def test_the_first_process_of_an_actor_is_no_news() -> None:
    assert narrated(Actor(0, False), Actor(7, True)) == []


def test_another_cluster_has_other_processes_and_nothing_is_said_of_it() -> None:
    supervisor = Supervisor()
    supervisor.narrate({"shard 1": Actor(7, True)})
    supervisor.begun()
    assert supervisor.narrate({"shard 1": Actor(9, True)}) == []
