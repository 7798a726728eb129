"""Text -> fp32 with sentence-transformers: model, tokenizer, pooling and prompts are its own.

Where the model is of a plain kind and there is no GPU, it is compiled (runtime.py, compiled.py).
What that needs is kept: a later process loads neither torch nor sentence-transformers (kept.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import InvalidRequest, Unavailable
from bitsift.router.description import ModelSpec
from bitsift.router.model.blank import is_blank
from bitsift.router.model.compiled import CannotCompile, Graph
from bitsift.router.model.kept import Kept, keep, key_of, keys_of, read_kept
from bitsift.router.model.loading import load_model, spec_of
from bitsift.router.model.location import is_commit, is_offline, model_location
from bitsift.router.model.prompts import AS_SAVED, Prompts, said, settled
from bitsift.router.model.runtime import CHECK_TEXTS, Runtime, compiled, fastest, tokenized_by
from bitsift.router.model.tokens import Tokenizer, Tokens
from bitsift.shard_worker.codes import bad_rows

log = logging.getLogger(__name__)

BACKENDS = ("auto", "openvino", "torch")
WINDOW_TEXTS = 1_024
WINDOW_TOKENS_MAX = 262_144
"""Texts that are tokenized together (6 MB of token ids), then sorted and cut into batches."""
CHARACTERS_PER_TOKEN_MAX = 64
"""A text is cut to this many characters per token that the model reads, before it is tokenized."""
_TOKENS_UNSAID = 8_192
"""Of a model that names no limit."""


class Encoder:
    """A loaded model. Used by one thread at a time."""

    def __init__(self, spec: ModelSpec, runtime: Runtime, tokenizer: Tokenizer | None) -> None:
        """Use ``Encoder.load``."""
        self.spec = spec
        self.backend = runtime.backend
        self.backend_reason = runtime.reason
        self.prompts_said = ""
        self._embed = runtime.embed
        limit = spec.max_tokens or _TOKENS_UNSAID
        self._characters_max = CHARACTERS_PER_TOKEN_MAX * limit
        self._window = max(1, min(WINDOW_TEXTS, WINDOW_TOKENS_MAX // limit))
        self.tokens = Tokens(tokenizer, spec.document_prompt, spec.max_tokens, self._characters_max)
        """The tokens of documents."""

    @classmethod
    def load(
        cls,
        name: str,
        *,
        backend: str = "auto",
        threads: int | None = None,
        expected: ModelSpec | None = None,
        prompts: Prompts = AS_SAVED,
    ) -> Encoder:
        """Load a sentence-transformers model by name or path, or the packaged ``minilm``.

        ``threads`` is how many cores it may use. With ``expected`` another state of the model
        is refused, and its prompts are used; else ``prompts`` in the place of the model's own.
        Raises InvalidRequest for an unknown model or backend, FormatMismatch, Unavailable.
        """
        if backend not in BACKENDS:
            raise InvalidRequest(f"backend {backend!r} is none of {', '.join(BACKENDS)}")
        prompts.check()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
        if expected is not None:
            prompts = Prompts(expected.query_prompt, expected.document_prompt)
        location = model_location(name)
        cores = threads or len(os.sched_getaffinity(0))
        encoder = None
        if backend != "torch" and _is_settled(location, expected):
            encoder = cls._kept(name, location, prompts, cores)
        for only_here in _ways(location, expected) if encoder is None else (False,):
            if encoder is not None and _is_wanted(encoder.spec, location, expected):
                break
            model = load_model(name, location, threads, only_here=only_here)
            if model is not None:
                encoder = cls._loaded(name, model, location, prompts, backend, cores)
        assert encoder is not None
        if expected is not None:
            expected.check_same(encoder.spec)
        return encoder

    @classmethod
    def _kept(cls, name: str, location: str, prompts: Prompts, threads: int) -> Encoder | None:
        """Without torch, where an earlier process kept what that takes."""
        key = key_of(location, prompts)
        kept = None if key is None else read_kept(key)
        graph = None if kept is None else Graph.kept(kept.inputs, threads, kept.revision)
        if kept is None or graph is None:
            return None
        tokenizer = Tokenizer(kept.tokenizer, kept.inputs)
        spec = kept.spec(name)
        try:
            runtime = compiled(graph, tokenized_by(tokenizer, spec), kept.checked)
        except CannotCompile as reason:
            log.warning("the model %r is loaded anew: %s", name, reason)
            return None
        encoder = cls(spec, runtime, tokenizer)
        encoder.prompts_said = kept.prompts_said
        return encoder

    @classmethod
    def _loaded(
        cls, name: str, model: Any, location: str, prompts: Prompts, backend: str, threads: int
    ) -> Encoder:
        """With torch, which runs it unless it can be compiled; then that is kept."""
        saved = dict(model.prompts or {})
        query, document = settled(prompts, saved)
        model.prompts = {**saved, "query": query, "document": document}
        spec = spec_of(name, model)
        tokenizer = Tokenizer.of(model)
        runtime, checked = fastest(model, spec, tokenizer, backend, threads)
        encoder = cls(spec, runtime, tokenizer)
        encoder.prompts_said = said(query, document, saved)
        if checked is not None and tokenizer is not None:
            kept = Kept.of(spec, encoder.prompts_said, tokenizer, checked)
            asked = {prompts, Prompts(query, document)}  # an index gives those it was made by
            for key in keys_of(location, asked):  # now: loading may have brought another state
                keep(key, kept)
        return encoder

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32 (n, dimension) of queries.

        A row is NaN where the model has none: it returned NaN or zeros, as a static model does that
        knows no word, or nothing of the text is left for it (blank.py). Raises Unavailable naming
        the model when it returns another width.
        """
        return self._encode(texts, "query")

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The same for documents; of any number, sorted by length so that little is padding."""
        return self._encode(texts, "document")

    def warm_up(self) -> None:
        """Encode once, so that the first caller does not pay for it. A model need not know the
        words.
        """
        self.encode_queries(["warm up"])
        if bad_rows(self.encode_queries(list(CHECK_TEXTS))).all():
            log.warning("the model %r has no vector for any of our English texts", self.spec.name)

    def _encode(self, texts: Sequence[str], kind: str) -> NDArray[np.float32]:
        limit = self._characters_max
        vectors = np.empty((len(texts), self.spec.dimension), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), self._window):
            places = order[start : start + self._window]
            batch = [texts[place][:limit] for place in places]
            vectors[places] = self._checked(self._embed[kind](batch), len(batch))
        vectors[[is_blank(text[:limit], self.tokens.has_any) for text in texts]] = np.nan
        return vectors

    def _checked(self, vectors: NDArray[np.floating[Any]], rows: int) -> NDArray[np.float32]:
        """Normalise; NaN where that cannot be. Raises Unavailable for another shape."""
        if vectors.shape != (rows, self.spec.dimension):
            raise Unavailable(
                f"the model {self.spec.name!r} returned shape {vectors.shape} for {rows} texts, "
                f"expected {self.spec.dimension} dimensions"
            )
        bad = bad_rows(vectors)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        norms[bad] = 1.0
        units = np.asarray(vectors / norms, dtype=np.float32)
        units[bad] = np.nan
        return units


def _is_settled(location: str, expected: ModelSpec | None) -> bool:
    """Whether the state on this machine will do: the hub may have another today, which an index
    that is made now is to have.
    """
    is_known = os.path.isdir(location) or is_commit(location)
    return is_known or expected is not None or is_offline()


def _ways(location: str, expected: ModelSpec | None) -> tuple[bool, ...]:
    """Whether to load only what is here, one way after the other: where that will do it comes
    first, for libraries ask the hub though they have every file, and wait for one that is away.
    """
    may_ask = not os.path.isdir(location) and not is_offline()
    return (True, False) if may_ask and _is_settled(location, expected) else (False,)


def _is_wanted(found: ModelSpec, location: str, expected: ModelSpec | None) -> bool:
    """Whether the hub need not be asked for another state."""
    return os.path.isdir(location) or expected is None or found.revision == expected.revision
