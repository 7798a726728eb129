"""What is said of a replica: in step, behind, catching up."""

from __future__ import annotations

import time
from dataclasses import replace

from bitsift.cluster.fleet.catching_up import CatchUpReport
from bitsift.cluster.fleet.observed import CatchingUp, Node, Observed, Phase, Replica, Table
from bitsift.cluster.fleet.sync import sync_of
from bitsift.router.shards.missed import Missed

NODES = Node("a"), Node("b"), Node("c", lost_at=90.0)
READY = Replica(0, "b", Phase.READY)
IN_STEP = {"state": "in step", "since": None, "missed": 0, "sent": None, "reason": None}


def said(replica: Replica, *, placed: str = "a", missed: Missed | None = None,
         catch_up: CatchUpReport | None = None) -> list[object]:  # fmt: skip
    seen = Observed(Table(1, (tuple(placed),)), NODES, (replica,))
    return list(sync_of(seen, replica, missed, catch_up, 100.0).values())


def test_one_of_the_table_that_answers_and_is_not_behind_is_in_step() -> None:
    assert said(READY, placed="ab") == list(IN_STEP.values())
    late = Missed(50.0, 7, "it is 5 s later")
    assert said(replace(READY, is_behind=True), placed="ab", missed=late) == [
        "behind", 50.0, 7, None, "it is 5 s later",
    ]  # fmt: skip


def test_one_that_is_away_is_behind_since_it_was_lost() -> None:
    away = Replica(0, "c", Phase.READY)
    state, since, missed, *_ = said(away, placed="ac")
    assert (state, missed) == ("behind", None)
    assert isinstance(since, float)
    assert abs(since - (time.time() - 10.0)) < 5.0
    assert said(away, placed="a", missed=Missed(50.0, 3))[:3] == ["behind", 50.0, 3]


def test_a_comparison_knows_better_what_was_missed() -> None:
    under_way = CatchUpReport("", 0, 0, 0, None, None, None, False)
    open_ = replace(READY, catching_up=CatchingUp())
    assert said(open_, missed=Missed(50.0, 3), catch_up=under_way) == [
        "catching up", 50.0, 3, 0, None,
    ]  # fmt: skip
    found = replace(under_way, missed=9, sent=4)
    assert said(open_, missed=Missed(50.0, 3), catch_up=found)[1:4] == [50.0, 9, 4]
    failed = replace(found, error="no room", ended_s=1.0)
    assert said(open_, catch_up=failed)[0::4] == ["catching up", "no room"]


def test_one_that_is_copied_whole_is_catching_up_and_one_that_waits_for_it_is_behind() -> None:
    outdated = CatchUpReport("", 0, 9, 0, None, 1.0, "copy it", True)
    waits = replace(READY, catching_up=CatchingUp(99.0, None, True))
    assert said(waits, catch_up=outdated)[0::4] == ["behind", "copy it"]
    assert said(Replica(0, "b", Phase.INCOMING, is_copying=True))[0] == "catching up"
