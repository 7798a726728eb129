"""Loading a model by sentence-transformers, and the facts of one that is loaded."""

from __future__ import annotations

import warnings
from typing import Any

from bitsift.errors import InvalidRequest
from bitsift.router.description import ModelSpec
from bitsift.router.model.location import fingerprint

_MAX_TOKENS_KNOWN = 1_000_000
"""Tokenizers without a limit say 1e30."""


def load_model(name: str, location: str, threads: int | None) -> Any:
    """The SentenceTransformer at ``location``, which a user calls ``name``, with ``threads`` cores
    for torch. Raises InvalidRequest.
    """
    warnings.filterwarnings("ignore", module="transformers|torch|openvino")
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        model = SentenceTransformer(location)
    except Exception as error:  # of transformers, safetensors, torch, the hub, a missing package
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidRequest(
            f"the model {name!r} cannot be loaded ({reason}); name a folder with a "
            "sentence-transformers model, or a hub name where the hub can be reached"
        ) from error
    return model.eval()


def spec_of(name: str, model: Any) -> ModelSpec:
    """The facts of a model whose prompts "query" and "document" are settled."""
    tokens = model.max_seq_length
    return ModelSpec(
        name=name,
        revision=fingerprint(model),
        dimension=int(model.get_embedding_dimension()),
        query_prompt=model.prompts["query"],
        document_prompt=model.prompts["document"],
        max_tokens=int(tokens) if tokens and tokens <= _MAX_TOKENS_KNOWN else None,
    )
