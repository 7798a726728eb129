"""Loading a model by sentence-transformers, and the facts of one that is loaded."""

from __future__ import annotations

import os
import warnings
from typing import Any

from bitsift.errors import InvalidRequest
from bitsift.router.description import ModelSpec
from bitsift.router.model.location import fingerprint, split_name

_MAX_TOKENS_KNOWN = 1_000_000
"""Tokenizers without a limit say 1e30."""


def load_model(
    name: str, location: str, threads: int | None, *, only_here: bool = False
) -> Any | None:
    """The SentenceTransformer at ``location``, which a user calls ``name``, with ``threads`` cores
    for torch. ``only_here``: the hub is not asked; None where that does not do. Raises
    InvalidRequest.
    """
    warnings.filterwarnings("ignore", module="transformers|torch|openvino")
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    name_or_folder, state = (location, None) if os.path.isdir(location) else split_name(location)
    try:
        model = SentenceTransformer(name_or_folder, revision=state, local_files_only=only_here)
    except Exception as error:  # of transformers, safetensors, torch, the hub, a missing package
        if only_here:
            return None
        raise InvalidRequest(
            f"the model {name!r} cannot be loaded ({_reason(error)}); name a folder with a "
            "sentence-transformers model, or a hub name where the hub can be reached"
        ) from error
    return model.eval()


def _reason(error: Exception) -> str:
    """In a line; the hub's own first one is the status of HTTP."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    match error:
        case GatedRepoError():
            return "the hub gives it only to those who were granted it: set HF_TOKEN"
        case RepositoryNotFoundError():
            return "the hub has no model of that name for you; for a private one set HF_TOKEN"
        case RevisionNotFoundError():
            return "the hub has the model, but no such branch, tag or commit of it"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


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
