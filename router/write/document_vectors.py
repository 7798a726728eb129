"""From the texts of live documents to vectors: one model, loaded when the first text needs it.

Callers share it in small turns: a caller with ten thousand documents and a caller with one wait for
each other's batch, not for each other's call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import BitsiftError, InvalidRequest, Unavailable, reason
from bitsift.router.batching import Batcher

log = logging.getLogger(__name__)

TURN_TEXTS = 32
"""Texts that one caller has waiting; sorted by length, so that little of a batch is padding."""
BATCH_TEXTS_MAX = 2 * TURN_TEXTS


ENCODE_NICE = 19


def _yield_to_queries() -> None:
    """Give this thread, and those that the model starts from it, the lowest priority (Linux)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ENCODE_NICE)


class DocumentEncoder(Protocol):
    """What is needed of an encoder: float32 (n, dimension), unit vectors, NaN for none."""

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class DocumentVectors:
    """Encodes one batch at a time, in a thread of its own; in one event loop."""

    def __init__(self, load: Callable[[], DocumentEncoder]) -> None:
        """``load`` is called in that thread, and again with the next batch when it raises."""
        self._load = load
        self._encoder: DocumentEncoder | None = None
        self._thread = ThreadPoolExecutor(1, "encode", initializer=_yield_to_queries)
        self._batcher: Batcher[str, NDArray[np.float32]] = Batcher(
            self._encode_batch, BATCH_TEXTS_MAX
        )

    async def of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (n, dimension), n ≥ 1; NaN where the model has no vector for a text. Raises
        Unavailable naming the model that fails.
        """
        vectors: list[NDArray[np.float32] | None] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), TURN_TEXTS):
            turn = order[start : start + TURN_TEXTS]
            encoded = await asyncio.gather(*(self._batcher.enqueue(texts[place]) for place in turn))
            for place, vector in zip(turn, encoded, strict=True):
                vectors[place] = vector
        return np.array(vectors, dtype=np.float32)

    async def _encode_batch(self, texts: list[str]) -> Sequence[NDArray[np.float32]]:
        loop = asyncio.get_running_loop()
        return list(await loop.run_in_executor(self._thread, self._encode, texts))

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        try:
            if self._encoder is None:
                self._encoder = self._load()
            return self._encoder.encode_documents(texts)
        except BitsiftError as error:
            if not isinstance(error, InvalidRequest):
                raise
            raise Unavailable(error.message) from error  # the operator's model, not the documents
        except Exception as error:  # of torch, OpenVINO, the tokenizer
            log.exception("documents cannot be encoded")
            raise Unavailable(f"the model failed ({reason(error)})") from error
