"""What a router is told of the index it answers for: facts fixed when the index was built."""

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
    documents: int
    shards: int
    calibration: Calibration
    model: dict[str, Any] | None = None
    examples: tuple[str, ...] = ()

    @property
    def dimension(self) -> int:
        return self.calibration.dimension

    @property
    def float32_bytes(self) -> int:
        """RAM that the same vectors would take in fp32."""
        return self.documents * self.dimension * 4

    def to_json(self) -> dict[str, Any]:
        """The facts a user may see: without the calibration's arrays."""
        return {
            "name": self.name,
            "uuid": self.uuid,
            "created": self.created,
            "documents": self.documents,
            "shards": self.shards,
            "dimension": self.dimension,
            "model": self.model,
            "calibration_version": self.calibration.version,
            "examples": list(self.examples),
        }
