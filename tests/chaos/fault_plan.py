"""Which faults befall a cluster, by a seed. Plain data.

Two kinds of trouble go on at once. *Control* faults befall the writer, a router, the controller or
an agent, wherever they run. *Data* faults come in bouts: one to four that overlap, all on one
node, so that a minority of the replicas of any shard is hit; the next bout begins when the cluster
is well again. Now and then a bout goes *beyond* that, and hits several nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

CONTROL = tuple(
    f"{how} {what}"
    for what in ("writer", "router", "controller", "agent")
    for how in ("kill", "stop", "terminate")
)
DATA = (
    "kill replica", "stop replica", "terminate replica", "kill raylet", "stop raylet", "kill node",
    "stop node", "cut off", "mute", "deaf", "fill disk", "jump clock",
)  # fmt: skip
BEYOND = (
    "kill replicas", "stop replicas", "kill nodes", "stop nodes", "cut off nodes", "fill disks",
)  # fmt: skip
"""Several nodes at once."""
BEYOND_SHARE = 0.08
CONTROL_SHARE = 0.45
JUMP_MAX_S = 120.0
PAUSE_MAX_S = 4.0


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` befalls ``nodes`` for ``for_s``, ``after_s`` after the fault before it began. Of
    control faults, ``number`` chooses one of the actors; a clock jumps by so many seconds.
    """

    kind: str
    nodes: tuple[str, ...]
    after_s: float
    for_s: float
    number: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Control faults, the one after the other, and bouts of data faults."""

    seed: int
    control: tuple[Fault, ...]
    bouts: tuple[tuple[Fault, ...], ...]


def plan_of(seed: int, faults: int, nodes: tuple[str, ...]) -> Plan:
    """The plan of a seed, always the same, with so many ``faults`` in all."""
    random = Random(seed)
    count = round(CONTROL_SHARE * faults)
    control = tuple(_control(random) for _ in range(count))
    bouts, left = list[tuple[Fault, ...]](), faults - count
    while left:
        bouts.append(_bout(random, nodes, min(left, random.choice([1, 2, 3, 4]))))
        left -= len(bouts[-1])
    return Plan(seed, control, tuple(bouts))


def _control(random: Random) -> Fault:
    return Fault(
        random.choice(CONTROL), (), random.uniform(1.0, 9.0), _length_s(random), random.random()
    )


def _bout(random: Random, nodes: tuple[str, ...], count: int) -> tuple[Fault, ...]:
    if random.random() < BEYOND_SHARE:
        some = tuple(sorted(random.sample(nodes, random.randint(2, len(nodes)))))
        kind = random.choice(BEYOND)
        return (Fault(kind, some, random.uniform(0.0, PAUSE_MAX_S), min(20.0, _length_s(random))),)
    node = random.choice(nodes)
    kinds = random.sample(DATA, count)
    return tuple(
        Fault(
            kind,
            (node,),
            random.uniform(0.0, PAUSE_MAX_S),
            _length_s(random),
            random.uniform(-JUMP_MAX_S, JUMP_MAX_S),
        )
        for kind in kinds
    )


def _length_s(random: Random) -> float:
    """A hiccup as a rule; sometimes so long that the cluster does without, rarely that Ray does."""
    ranges = ((0.3, 4.0), (4.0, 20.0), (65.0, 80.0))
    return random.uniform(*random.choices(ranges, (0.66, 0.31, 0.03))[0])
