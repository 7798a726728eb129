"""What a seed makes happen: operations of clients and faults, at their times. Plain data, so that a
run that fails can be repeated with less.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

NODES = ("n0", "n1", "n2", "n3", "n4")
GATEWAYS = ("g0", "g1")
KEYS = ("a", "b", "c", "d", "e", "f")
LENGTH_S = 40.0
"""How long clients and faults go on; then everything is healed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks a gateway for: ``kind`` is write, delete or read."""

    at_s: float
    gateway: str
    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` befalls ``what`` for ``for_s``, with a number whose meaning depends on the kind."""

    at_s: float
    kind: str
    what: str = ""
    for_s: float = 0.0
    number: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    asked: tuple[Asked, ...]
    faults: tuple[Fault, ...]


_FAULTS = {
    "crash": NODES, "power": ("",), "full": NODES, "slow": NODES,
    "isolate": NODES, "deaf": NODES, "mute": NODES,
    "part": ("",), "drop": ("",), "duplicate": ("",), "clock": (*NODES, *GATEWAYS),
    "move": NODES, "writer ends": ("",), "gateway isolated": GATEWAYS, "controller ends": ("",),
    "stale controller": ("",),
}  # fmt: skip
_KINDS = ("write", "write", "write", "read", "read", "delete")


def plan_of(seed: int, operations: int = 110, faults_min: int = 5, faults_max: int = 12) -> Plan:
    """The plan of a seed, always the same."""
    random = Random(seed)
    keys = KEYS[: random.randint(2, len(KEYS))]
    asked = [
        Asked(
            random.uniform(0.5, LENGTH_S),
            random.choice(GATEWAYS),
            random.choice(_KINDS),
            random.choice(keys),
        )
        for _ in range(operations)
    ]
    faults = [_fault(random) for _ in range(random.randint(faults_min, faults_max))]
    by_time = (sorted(asked, key=lambda it: it.at_s), sorted(faults, key=lambda it: it.at_s))
    return Plan(seed, tuple(by_time[0]), tuple(by_time[1]))


def _fault(random: Random) -> Fault:
    kind = random.choice(list(_FAULTS))
    what, at_s = random.choice(_FAULTS[kind]), random.uniform(0.5, LENGTH_S - 2)
    for_s = random.choice([random.uniform(0.1, 3.0), random.uniform(3.0, 15.0)])
    match kind:
        case "part":  # some of the places cannot talk to the rest
            places = [*NODES, *GATEWAYS, "controller"]
            side = random.sample(places, random.randint(1, len(places) // 2))
            return Fault(at_s, kind, " ".join(side), for_s)
        case "drop" | "duplicate":
            return Fault(at_s, kind, what, for_s, random.choice([0.02, 0.1, 0.3]))
        case "slow":
            return Fault(at_s, kind, what, for_s, random.choice([0.05, 0.5, 3.0]))
        case "clock":
            return Fault(at_s, kind, what, 0.0, random.uniform(-100.0, 100.0))
    return Fault(at_s, kind, what, for_s)
