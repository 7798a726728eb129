"""What a seed makes happen: operations of clients and faults, at their times. Plain data, so that a
run that fails can be repeated with less.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

NODES = ("n0", "n1", "n2", "n3", "n4")
GATEWAYS = ("g0", "g1")
PLACES = (*NODES, *GATEWAYS, "controller")
KEYS = ("a", "b", "c", "d", "e", "f")
LENGTH_S = 45.0
"""How long clients and faults go on; then everything is healed."""
SKEW_MAX_S = 100.0
"""By which clocks may be wrong, and stay so."""
OPERATIONS = 110
FAULTS_MIN, FAULTS_MAX = 6, 14


class Kind(StrEnum):
    """What a client may ask for. A load stores what is not there yet; a swap reads a document, and
    writes it if it is still in that version.
    """

    WRITE = "write"
    SWAP = "swap"
    DELETE = "delete"
    LOAD = "load"
    READ = "read"
    SEARCH = "search"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks a gateway for, of some documents; a read is of one, a search of all."""

    at_s: float
    gateway: str
    kind: Kind
    keys: tuple[str, ...]


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

    @property
    def events(self) -> list[Asked | Fault]:
        """All, in the order of their times."""
        events: list[Asked | Fault] = [*self.asked, *self.faults]
        return sorted(events, key=lambda it: it.at_s)


FAULTS = {
    "crash": NODES, "power": ("",), "full": NODES, "slow": NODES,
    "isolate": NODES, "deaf": NODES, "mute": NODES, "part": ("",),
    "drop": ("",), "duplicate": ("",), "reorder": ("",), "clock": (*NODES, *GATEWAYS),
    "clock wrong": (*NODES, *GATEWAYS), "move": NODES, "extra": ("",),
    "writer ends": ("",), "gateway isolated": GATEWAYS, "controller ends": ("",),
    "stale controller": ("",),
}  # fmt: skip
"""What may befall which places."""
_OTHERS = [Kind.READ] * 6 + [Kind.DELETE] * 3 + [Kind.LOAD] * 2 + [Kind.SEARCH]
_KINDS = [Kind.WRITE] * 8 + _OTHERS
_SWAPPING = [Kind.WRITE] * 4 + [Kind.SWAP] * 4 + _OTHERS
SWAPPING = 4
"""One plan in so many has swaps."""


def plan_of(seed: int) -> Plan:
    """The plan of a seed, always the same."""
    random = Random(seed)
    keys = KEYS[: random.randint(2, len(KEYS))]
    kinds = _KINDS if seed % SWAPPING else _SWAPPING
    asked = [_asked(random, keys, kinds) for _ in range(OPERATIONS)]
    faults = [_fault(random) for _ in range(random.randint(FAULTS_MIN, FAULTS_MAX))]
    by_time = (sorted(asked, key=lambda it: it.at_s), sorted(faults, key=lambda it: it.at_s))
    return Plan(seed, tuple(by_time[0]), tuple(by_time[1]))


def _asked(random: Random, keys: tuple[str, ...], kinds: list[Kind]) -> Asked:
    at_s, gateway = random.uniform(0.5, LENGTH_S), random.choice(GATEWAYS)
    kind, several = random.choice(kinds), random.random() < 0.2
    count = 2 if several and kind in (Kind.WRITE, Kind.DELETE, Kind.LOAD) else 1
    return Asked(at_s, gateway, kind, tuple(random.sample(keys, count)))


def _fault(random: Random) -> Fault:
    kind = random.choice(list(FAULTS))
    what, at_s = random.choice(FAULTS[kind]), random.uniform(0.5, LENGTH_S - 2)
    for_s = random.choice([random.uniform(0.1, 3.0), random.uniform(3.0, 15.0)])
    match kind:
        case "part":  # some of the places cannot talk to the rest
            side = random.sample(PLACES, random.randint(1, len(PLACES) // 2))
            return Fault(at_s, kind, " ".join(side), for_s)
        case "drop" | "duplicate" | "reorder":
            return Fault(at_s, kind, what, for_s, random.choice([0.02, 0.1, 0.3]))
        case "slow":
            return Fault(at_s, kind, what, for_s, random.choice([0.05, 0.5, 2.0]))
        case "clock":
            return Fault(at_s, kind, what, 0.0, random.uniform(-SKEW_MAX_S, SKEW_MAX_S))
        case "clock wrong":  # by more than is taken, until somebody sets it
            return Fault(
                at_s, kind, what, for_s, random.choice([-1, 1]) * random.uniform(400, 4000)
            )
        case "move":  # it comes back with what it had, also after others have forgotten deletions
            return Fault(at_s, kind, what, 2.0 * for_s)
    return Fault(at_s, kind, what, for_s)
