"""Tables that follow each other, in a simulated cluster to which nothing happens by itself."""

from __future__ import annotations

from tests.simulation.loop import VirtualLoop
from tests.simulation.plan import Plan
from tests.simulation.rows import upsert
from tests.simulation.world import World


def test_the_next_table_has_what_a_member_had_that_leaves() -> None:
    """Seed 1568, before: the one that stayed lacked what the others had acknowledged."""

    async def main() -> None:
        world = World(Plan(0, (), ()))
        late, leaving, lost = (world.nodes[name] for name in world.controller.decided.members)
        for node in leaving, lost:
            await node.write([upsert({"a": "new"}, version=7)], epoch=1)
        lost.crash()
        await world.controller._change([late.node], [late.node, leaving.node])
        assert world.table[1] == (late.node,)
        assert late.rows["a"].text == "new"

    VirtualLoop().run(main())


def test_a_table_of_one_is_followed_by_none_without_it() -> None:
    async def main() -> None:
        world = World(Plan(0, (), ()))
        alone, other, away = world.controller.decided.members
        await world.controller._change([alone], [alone, other, away])
        table = world.table
        world.nodes[alone].crash()
        await world.controller._change([other], [other, away])
        assert world.table == table == (table[0], (alone,))

    VirtualLoop().run(main())
