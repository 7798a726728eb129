"""Progress that a build reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IndexStage:
    """How far a build is; ``stage`` is survey, calibrate or index.

    ``documents`` counts records seen; ``total`` is None until the sources have been surveyed.
    ``note`` is a line for people, said once.
    """

    stage: str
    documents: int
    total: int | None
    rejects: int
    note: str = ""


OnProgress = Callable[[IndexStage], None]
