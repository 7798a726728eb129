"""What a router knows of the index that it serves: facts fixed when its build started."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bitsift.errors import Corrupt, FormatMismatch
from bitsift.shard_worker.codes import Calibration


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The facts that make two encodings comparable.

    ``name`` is what the user gave; ``revision`` a fingerprint of the modules and the weights; the
    prompts are the texts put before a query and before a document. Vectors are L2-normalised.
    """

    name: str
    revision: str
    dimension: int
    query_prompt: str
    document_prompt: str
    max_tokens: int | None
    normalized: bool = True

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelSpec:
        try:
            return cls(**{name: data[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise Corrupt(
                f"the manifest's model lacks {error}; restore it from a backup"
            ) from error

    def check_same(self, found: ModelSpec) -> None:
        """Refuse a model that would encode queries differently from the documents.

        Raises FormatMismatch naming what differs.
        """
        mine, other = self.to_json(), found.to_json()
        different = [name for name in mine if name != "name" and mine[name] != other[name]]
        if different:
            changes = "; ".join(f"{n} was {mine[n]!r}, is {other[n]!r}" for n in different)
            raise FormatMismatch(
                f"the index was built with another state of the model {self.name!r} ({changes}); "
                "install that version, or rebuild the index"
            )


@dataclass(frozen=True, slots=True, eq=False)
class IndexDescription:
    """``model`` is None for an index of precomputed embeddings. ``index_fields`` are those that
    filters find by an index, with what lies below them; () is all.
    """

    name: str
    uuid: str
    created: str
    shards: int
    calibration: Calibration
    model: ModelSpec | None = None
    examples: tuple[str, ...] = ()
    index_fields: tuple[str, ...] = ()

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
            "model": None if self.model is None else self.model.to_json(),
            "calibration_version": self.calibration.version,
            "examples": list(self.examples),
            "index_fields": list(self.index_fields) or None,
        }
