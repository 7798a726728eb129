"""Whether each replica has what was acknowledged, as `bitsift cluster status` and /v1/cluster say
it: in step | behind (since when, how many documents were missed) | catching up.
"""

from __future__ import annotations

import time
from typing import Any

from bitsift.cluster.fleet.catching_up import CatchUpReport
from bitsift.cluster.fleet.observed import Observed, Phase, Replica
from bitsift.router.shards.missed import Missed

IN_STEP, BEHIND, CATCHING_UP = "in step", "behind", "catching up"


def sync_of(
    observed: Observed,
    replica: Replica,
    missed: Missed | None,
    catch_up: CatchUpReport | None,
    now: float,
) -> dict[str, Any]:
    """Of one replica; ``since`` in seconds since 1970, ``missed`` documents and deletions, of which
    ``sent`` were sent again. None is what is not known.

    ``missed`` is what the writer of now counts; a comparison knows better.
    """
    is_here = replica.node in observed.answering(replica.shard)
    if replica.node in observed.table.shards[replica.shard] and is_here and not replica.is_behind:
        return {"state": IN_STEP, "since": None, "missed": 0, "sent": None, "reason": None}
    at = replica.catching_up if is_here else None
    is_compared = at is not None and not at.is_outdated
    since = missed.since_s if missed is not None else _lost_since(observed, replica.node, now)
    return {
        "state": CATCHING_UP if is_compared or replica.is_copying else BEHIND,
        "since": None if since is None else round(since, 1),
        "missed": _counted(missed, catch_up if is_compared else None),
        "sent": catch_up.sent if is_compared and catch_up is not None else None,
        "reason": _why(missed, catch_up, replica.phase),
    }


def _lost_since(observed: Observed, node: str, now: float) -> float | None:
    lost_at = next((it.lost_at for it in observed.nodes if it.name == node), None)
    return None if lost_at is None else time.time() - (now - lost_at)


def _counted(missed: Missed | None, catch_up: CatchUpReport | None) -> int | None:
    if catch_up is not None and catch_up.missed:
        return catch_up.missed
    return None if missed is None else missed.documents


def _why(missed: Missed | None, catch_up: CatchUpReport | None, phase: Phase) -> str | None:
    if catch_up is not None and catch_up.error is not None and phase is Phase.READY:
        return catch_up.error
    return None if missed is None else missed.behind
