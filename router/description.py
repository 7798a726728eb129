"""What a router is told of the index it answers for: facts fixed when its build started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shard_worker.codes import Calibration


@dataclass(frozen=True, slots=True, eq=False)
class IndexDescription:
    """``model`` is a ModelSpec as JSON, or None for an index of ready-made vectors."""

    name: str
    uuid: str
    created: str
    shards: int
    calibration: Calibration
    model: dict[str, Any] | None = None
    examples: tuple[str, ...] = ()

    @property
    def dimension(self) -> int:
        return self.calibration.dimension

    def to_json(self) -> dict[str, Any]:
        """The facts a user may see: without the calibration's arrays."""
        return {
            "name": self.name,
            "uuid": self.uuid,
            "created": self.created,
            "shards": self.shards,
            "dimension": self.dimension,
            "model": self.model,
            "calibration_version": self.calibration.version,
            "examples": list(self.examples),
        }
