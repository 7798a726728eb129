"""Whether a model can have made the vectors that a user gives."""

from __future__ import annotations

from bitsift.errors import InvalidRequest
from bitsift.router.description import ModelSpec


def check_model_width(model: ModelSpec, width: int | None) -> None:
    """Raises InvalidRequest where vectors of ``width`` are not the model's; None is no vectors."""
    if width not in (None, model.dimension):
        raise InvalidRequest(
            f"the vectors have {width} dimensions, those of the model {model.name!r} "
            f"{model.dimension}: it cannot have made them; name the model that did, or none"
        )
