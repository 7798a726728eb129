"""What a replica that is behind, or has left the table, was not sent meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Missed:
    """Since when it is sent no writes, in seconds since 1970, and of how many documents; ``behind``
    says why, while it is in the table still.
    """

    since_s: float = field(default_factory=time.time)
    documents: int = 0
    behind: str | None = None
