"""Which model a process is to load, without loading anything to say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitsift.router.description import ModelSpec
from bitsift.router.model.prompts import AS_SAVED, Prompts

if TYPE_CHECKING:
    from bitsift.router.model.encoder import Encoder


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Which model is to be loaded, and how; it crosses to the process that needs the model.

    With ``expected`` another state of the model is refused, and its prompts are used; else
    ``prompts``. ``threads`` is how many cores it may use; None: all.
    """

    name: str
    backend: str = "auto"
    expected: ModelSpec | None = None
    threads: int | None = None
    prompts: Prompts = AS_SAVED

    def load(self) -> Encoder:
        """Raises InvalidRequest for an unknown model or backend, FormatMismatch, Unavailable."""
        from bitsift.router.model.encoder import Encoder  # torch, and seconds

        return Encoder.load(
            self.name,
            backend=self.backend,
            threads=self.threads,
            expected=self.expected,
            prompts=self.prompts,
        )
