"""Each model is loaded once in a process, for all indexes that have it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bitsift.router.model.query_vectors import QueryEncoder, QueryVectors
from bitsift.router.model.spec import EncoderSpec

log = logging.getLogger(__name__)


class SharedEncoder:
    """An encoder for several threads: one at a time."""

    def __init__(self, encoder: QueryEncoder) -> None:
        self._encoder = encoder
        self._lock = threading.Lock()
        self.backend = getattr(encoder, "backend", None)
        self.backend_reason = getattr(encoder, "backend_reason", None)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._lock:
            return self._encoder.encode_queries(texts)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._lock:
            return self._encoder.encode_documents(texts)


class Encoders:
    """Of one process. A model that no index has any more is given up."""

    def __init__(self, on_load: Callable[[], None]) -> None:
        """``on_load`` is called in the thread that has loaded one."""
        self._on_load = on_load
        self._loading = threading.Lock()
        self._known: weakref.WeakValueDictionary[EncoderSpec, SharedEncoder] = (
            weakref.WeakValueDictionary()
        )

    def give(self, spec: EncoderSpec, to: QueryVectors) -> None:
        """Give ``to`` its encoder, or the reason why there is none, once a thread has loaded it."""
        threading.Thread(target=self._give, args=(spec, to), daemon=True).start()

    def _give(self, spec: EncoderSpec, to: QueryVectors) -> None:
        try:
            with self._loading:
                found = self._known.get(spec) or self._load(spec)
            to.encoder = found
        except BaseException as error:  # anything: it must reach the operator
            to.failure = f"{type(error).__name__}: {error}"
            log.exception("the encoder cannot be loaded")

    def _load(self, spec: EncoderSpec) -> SharedEncoder:
        encoder = spec.load()
        encoder.warm_up()
        self._on_load()
        found = self._known[spec] = SharedEncoder(encoder)
        return found
