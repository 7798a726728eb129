"""What is kept of a model that was compiled, so that later processes run it without torch.

    $XDG_CACHE_HOME or ~/.cache / bitsift / models / KEY      checksum, then JSON; its graph beside

Loading all-MiniLM-L6-v2 by sentence-transformers takes a process 7 s of CPU and 0.9 GB of RAM, most
of both for libraries that a compiled model has no use for. The key is made of every file of the
model's folder, of the versions of what read them, and of the prompts: whatever changes, the model
is loaded anew. So is one whose vectors are not those that torch had for the same texts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import google_crc32c
import msgspec
import numpy as np

from bitsift.router.description import ModelSpec
from bitsift.router.model.graph_cache import GRAPHS_MAX, cache_folder, versions
from bitsift.router.model.location import snapshot_of
from bitsift.router.model.prompts import Prompts
from bitsift.router.model.runtime import Checked
from bitsift.router.model.tokens import Tokenizer

log = logging.getLogger(__name__)

MODELS_MAX = 2 * GRAPHS_MAX
"""Beyond so many the least recently used are removed. A model has one for the prompts that it says
itself, and one for each two that are said to it."""
_FORMAT = "1"
_HEX = 8
_DIGEST_BYTES = 16
_CHUNK_BYTES = 1 << 20
_DEVICES = {"": ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"), "cpu": (), "xpu": ("/dev/dri",)}
"""Where torch may find a faster device than the CPU, by the build that its version names."""


class Kept(msgspec.Struct, frozen=True):
    """A model without its name: what ``ModelSpec`` has, what a user is told of its prompts, its
    tokenizer, and the vectors that torch in f32 made of the texts that are checked.
    """

    revision: str
    dimension: int
    query_prompt: str
    document_prompt: str
    max_tokens: int | None
    prompts_said: str
    inputs: list[str]
    tokenizer: str
    vectors: dict[str, list[list[float]]]

    @classmethod
    def of(cls, spec: ModelSpec, prompts_said: str, tokenizer: Tokenizer, checked: Checked) -> Kept:
        return cls(
            spec.revision,
            spec.dimension,
            spec.query_prompt,
            spec.document_prompt,
            spec.max_tokens,
            prompts_said,
            tokenizer.names,
            tokenizer.packed,
            {kind: vectors.tolist() for kind, vectors in checked.items()},
        )

    def spec(self, name: str) -> ModelSpec:
        prompts = self.query_prompt, self.document_prompt
        return ModelSpec(name, self.revision, self.dimension, *prompts, self.max_tokens)

    @property
    def checked(self) -> Checked:
        return {kind: np.array(rows, dtype=np.float32) for kind, rows in self.vectors.items()}


def key_of(location: str, prompts: Prompts) -> str | None:
    """Of the model at ``location``, a folder or a name of the hub, as it is on this machine now;
    None where it is not, cannot be read, or torch might use a GPU for it.
    """
    return next(iter(keys_of(location, [prompts])), None)


def keys_of(location: str, prompts: Iterable[Prompts]) -> list[str]:
    """The key with each of ``prompts``, none where ``key_of`` has none: all files are read once."""
    state = _state_of(location)
    if state is None:
        return []
    facts = [_FORMAT, *versions(), importlib.metadata.version("tokenizers"), state]
    keys = (msgspec.json.encode([facts, each.query, each.document]) for each in prompts)
    return [hashlib.blake2b(key, digest_size=_DIGEST_BYTES).hexdigest() for key in keys]


def _state_of(location: str) -> str | None:
    """A digest of all files of the model."""
    folder = location if os.path.isdir(location) else snapshot_of(location)
    if folder is None or _may_use_a_device():
        return None
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    try:
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def _may_use_a_device() -> bool:
    build = importlib.metadata.version("torch").partition("+")[2]
    return any(map(os.path.exists, _DEVICES.get(build, _DEVICES[""])))


def _folder() -> Path:
    return cache_folder().parent / "models"


def read_kept(key: str) -> Kept | None:
    """What is kept under ``key``; None where there is nothing, or it is damaged."""
    place = _folder() / key
    try:
        data = place.read_bytes()
        if f"{google_crc32c.value(data[_HEX:]):08x}".encode() != data[:_HEX]:
            raise ValueError("its checksum does not match")
        found = msgspec.json.decode(data[_HEX:], type=Kept)
        os.utime(place)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # msgspec's are ValueErrors
        log.warning("%s is made again: %s", place, error)
        return None
    return found


def keep(key: str, kept: Kept) -> None:
    """Keep it, unless the disk does not let us."""
    place = _folder() / key
    data = msgspec.json.encode(kept)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=".writing-", dir=place.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(f"{google_crc32c.value(data):08x}".encode() + data)
            os.rename(aside, place)  # no fsync: its checksum finds what a crash leaves half
        except BaseException:
            os.unlink(aside)
            raise
        _forget_old(place.parent)
    except OSError as error:
        log.info("what is known of the model was not kept: %s", error)


def _forget_old(folder: Path) -> None:
    models = [path for path in folder.iterdir() if len(path.name) == 2 * _DIGEST_BYTES]
    models.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for model in models[MODELS_MAX:]:
        with contextlib.suppress(OSError):
            model.unlink()
