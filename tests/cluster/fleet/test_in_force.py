"""Which index a controller serves that begins: also where only some of the nodes are there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from bitsift.cluster.fleet.in_force import Known, in_force, is_outrun, newest_epoch
from bitsift.cluster.fleet.node_store import Held
from bitsift.cluster.fleet.observed import Orders, Reshard, Table
from bitsift.cluster.fleet.state import State
from bitsift.errors import Unavailable

OLD, NEW, NEXT = "old", "new", "next"
ORDER = Reshard(NEW, (("a", "b"), ("b", "c")), is_made=True)


def state(epoch: int, *retired: str, reshard: Reshard | None = None) -> State:
    return State(epoch, Table(epoch, ((),)), {}, Orders(reshard=reshard), retired)


def kept(**states: tuple[str, State]) -> list[Known]:
    return [Known(state, uuid, node) for node, (uuid, state) in states.items()]


def chosen(known: Sequence[Known], here: str, *, is_forgone: bool = False) -> tuple[str, int]:
    """The uuid and the epoch, in whatever order the nodes report."""
    found = {
        (it.uuid, it.state.epoch)
        for order in itertools.permutations(known)
        for it in [in_force(order, here, is_forgone=is_forgone)]
    }
    assert len(found) == 1
    return found.pop()


def test_the_greatest_epoch_is_the_newest() -> None:
    known = kept(a=(OLD, state(3)), b=(OLD, state(7)), c=(OLD, state(5)))
    assert chosen(known, "abc") == (OLD, 7)


def test_a_node_that_was_away_during_a_reshard_does_not_bring_the_old_index_back() -> None:
    """Though a controller that saw it alone has given out many epochs."""
    known = kept(a=(NEW, state(9, OLD)), b=(NEW, state(8, OLD)), c=(OLD, state(50)))
    assert chosen(known, "abc") == (NEW, 9)
    known = kept(a=(NEXT, state(9, OLD, NEW)), b=(NEW, state(60, OLD)), c=(OLD, state(50)))
    assert chosen(known, "abc") == (NEXT, 9)


def test_a_reshard_that_was_dropped_at_its_very_end_stays_dropped() -> None:
    """Some node knows of the switch; the controller that dropped it knows of both."""
    known = kept(a=(OLD, state(12, NEW)), b=(NEW, state(11, OLD)), c=(OLD, state(4)))
    assert chosen(known, "abc") == (OLD, 12)


def test_a_reshard_may_have_ended_where_nobody_looks() -> None:
    """Each of its new shards has a copy on a node that is away, which would know."""
    known = kept(b=(OLD, state(6, reshard=ORDER)))
    with pytest.raises(Unavailable, match=r"reshard to 2 shards.*start a; .*--undo"):
        in_force(known, "b")
    assert chosen(known, "b", is_forgone=True) == (OLD, 6)


def test_a_reshard_goes_on_where_all_copies_of_a_new_shard_would_know_of_its_end() -> None:
    known = kept(a=(OLD, state(5, reshard=ORDER)), b=(OLD, state(6, reshard=ORDER)))
    assert chosen(known, "ab") == (OLD, 6)


@pytest.mark.parametrize("left", ["ab", "bc", "abc", "b"])
def test_whichever_copies_were_left_out_a_switch_is_never_overlooked(left: str) -> None:
    """All that are left of the new shards know it; whoever else answers is not believed alone."""
    everyone = "abcd"
    final = [[node for node in nodes if node in left] for nodes in ORDER.targets]
    assert all(final), "the reshard would have been dropped"
    knows = {node for nodes in final for node in nodes}
    for count in range(1, 5):
        for here in itertools.combinations(everyone, count):
            known = [
                Known(state(9, OLD), NEW, node)
                if node in knows
                else Known(state(20, reshard=ORDER), OLD, node)
                for node in here
            ]
            if knows.isdisjoint(here):
                with pytest.raises(Unavailable):
                    in_force(known, here)
            else:
                assert in_force(known, here).uuid == NEW


def test_a_controller_is_outrun_by_what_it_does_not_know_and_not_by_what_it_has_retired() -> None:
    mine = state(10)
    assert is_outrun(kept(a=(NEW, state(4, OLD))), OLD, mine)
    assert is_outrun(kept(a=(OLD, state(11))), OLD, mine)
    assert not is_outrun(kept(a=(OLD, state(10)), b=(OLD, state(3))), OLD, mine)
    assert not is_outrun(kept(a=(OLD, state(99))), NEW, state(10, OLD))
    assert not is_outrun(kept(a=(NEW, state(11, OLD))), OLD, state(12, NEW))
    assert not is_outrun(kept(a=("another cluster's", state(99))), OLD, mine)


def test_the_next_epoch_is_new_also_to_what_a_controller_sealed_before_it_ended() -> None:
    """Else its successor seals with the same one, is refused, and reads the same state for ever."""
    known = kept(a=(OLD, state(3)), b=(OLD, state(7)))
    assert newest_epoch(known, [Held(0, True, 4, 7)]) == 7
    assert newest_epoch(known, [Held(0, True, 9, 2), Held(1, False, 0)]) == 9
    assert newest_epoch(known, [Held(0, True, 4, 7), Held(0, True, 6, 8)]) == 8
    assert newest_epoch([], []) == 0
