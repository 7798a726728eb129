"""Text -> fp32 with sentence-transformers: model, tokenizer, pooling and prompts are its own.

Where the model is of a plain kind and there is no GPU, the modules are compiled with OpenVINO
(compiled.py). Where they are not, and the CPU multiplies bf16, torch encodes documents in bf16.
Either is checked against torch in f32 when loaded, and given up, saying why, where it disagrees.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import InvalidRequest, Unavailable
from bitsift.router.description import ModelSpec
from bitsift.router.model.blank import is_blank
from bitsift.router.model.compiled import CannotCompile, CompiledModel, Graph
from bitsift.router.model.location import fingerprint, model_location
from bitsift.router.model.prompts import AS_SAVED, Prompts, said, settled
from bitsift.router.model.tokens import Tokens
from bitsift.shard_worker.codes import bad_rows

log = logging.getLogger(__name__)

BACKENDS = ("auto", "openvino", "torch")
COSINE_MIN = {"query": 0.9999, "document": 0.9995}
"""How well a faster way must agree with torch in f32.

bf16 over 552 judged queries, WordNet titles and glosses, all-MiniLM-L6-v2: 0.99997 at least.
"""
WINDOW_TEXTS = 1_024
WINDOW_TOKENS_MAX = 262_144
"""Texts that are tokenized together (6 MB of token ids), then sorted and cut into batches."""
CHARACTERS_PER_TOKEN_MAX = 64
"""A text is cut to this many characters per token that the model reads, before it is tokenized."""
_CHECK_TEXTS = (
    "spider",
    "What is the fear of spiders called, and how common is it?",
    "which animals do people fear, and why",
    "E = mc², naïve café; 3.14159 > 2^1.5 (see Fig. 4)",
    "An arachnid is a joint-legged invertebrate with eight legs; spiders, scorpions, ticks and "
    "mites are the best known of them. " * 4,
)
_TOKENS_UNSAID = 8_192
"""Of a model that names no limit."""
_MAX_TOKENS_KNOWN = 1_000_000
"""Tokenizers without a limit say 1e30."""

Embed = Callable[[list[str]], NDArray[np.floating[Any]]]
"""From texts without their prompt to vectors (n, dimension), not yet normalised."""


class Encoder:
    """A loaded model. Used by one thread at a time."""

    def __init__(self, model: Any, spec: ModelSpec, backend: str, threads: int | None) -> None:
        """Use ``Encoder.load``. Raises Unavailable when ``backend`` openvino cannot run it."""
        self._model = model
        self.spec = spec
        self.backend = f"torch ({model.device.type})"
        self.backend_reason: str | None = None
        self.prompts_said = ""
        self._embed: dict[str, Embed] = {
            "query": _with_torch(model.encode_query),
            "document": _with_torch(model.encode_document),
        }
        if backend != "torch":
            self._compile(backend, threads or len(os.sched_getaffinity(0)))

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
        model = _load_model(name, threads)
        if expected is not None:
            prompts = Prompts(expected.query_prompt, expected.document_prompt)
        saved = dict(model.prompts or {})
        query, document = settled(prompts, saved)
        model.prompts = {**saved, "query": query, "document": document}
        spec = _spec(name, model)
        if expected is not None:
            expected.check_same(spec)
        encoder = cls(model, spec, backend, threads)
        encoder.prompts_said = said(query, document, saved)
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

    @property
    def tokens(self) -> Tokens:
        """The tokens of documents."""
        limit = self.spec.max_tokens
        characters_max = CHARACTERS_PER_TOKEN_MAX * (limit or _TOKENS_UNSAID)
        return Tokens(self._model, self.spec.document_prompt, limit, characters_max)

    def warm_up(self) -> None:
        """Encode once, so that the first caller does not pay for it. A model need not know the
        words.
        """
        self.encode_queries(["warm up"])
        if bad_rows(self.encode_queries(list(_CHECK_TEXTS))).all():
            log.warning("the model %r has no vector for any of our English texts", self.spec.name)

    def _encode(self, texts: Sequence[str], kind: str) -> NDArray[np.float32]:
        tokens = self.spec.max_tokens or _TOKENS_UNSAID
        window = max(1, min(WINDOW_TEXTS, WINDOW_TOKENS_MAX // tokens))
        limit = CHARACTERS_PER_TOKEN_MAX * tokens
        vectors = np.empty((len(texts), self.spec.dimension), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), window):
            places = order[start : start + window]
            batch = [texts[place][:limit] for place in places]
            vectors[places] = self._checked(self._embed[kind](batch), len(batch))
        tokenizer = getattr(self._model, "tokenizer", None)
        vectors[[is_blank(text[:limit], tokenizer) for text in texts]] = np.nan
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

    def _compile(self, backend: str, threads: int) -> None:
        """Switch to the compiled model if it agrees with torch; else say why not."""
        try:
            if self._model.device.type != "cpu":
                raise CannotCompile(f"torch runs it on {self._model.device.type}")
            graph = Graph(self._model, threads, self.spec.revision)
            chosen = {kind: self._fastest(graph, kind) for kind in self._embed}
        except CannotCompile as reason:
            if backend == "openvino":
                raise Unavailable(
                    f"{self.spec.name!r} does not run in OpenVINO: {reason}"
                ) from reason
            self.backend_reason = str(reason)
            log.info("the model %r runs in torch: %s", self.spec.name, reason)
            self._try_autocast()
            return
        self._embed, self.backend = chosen, "openvino"

    def _fastest(self, graph: Graph, kind: str) -> Embed:
        """Compiled in bf16 where the CPU has it and it agrees with torch, else in f32."""
        if graph.has_bf16():
            try:
                return self._compiled(graph.compile("bf16"), kind)
            except CannotCompile as reason:
                self._stays_in_f32(kind, reason)
        return self._compiled(graph.compile("f32"), kind)

    def _compiled(self, compiled: CompiledModel, kind: str) -> Embed:
        prompt = self.spec.query_prompt if kind == "query" else self.spec.document_prompt

        def embed(texts: list[str]) -> NDArray[np.floating[Any]]:
            return compiled(self._model.preprocess(texts, prompt=prompt or None, task=kind))

        return self._agreeing(embed, kind)

    def _try_autocast(self) -> None:
        """Documents in bf16 by torch, where the CPU multiplies bf16 and it agrees with f32."""
        if self._model.device.type != "cpu" or not _torch_has_bf16():
            return
        try:
            self._embed["document"] = self._agreeing(
                _with_autocast(self._embed["document"]), "document"
            )
        except CannotCompile as reason:
            self._stays_in_f32("document", reason)
        else:
            self.backend = "torch (cpu, documents in bf16)"

    def _agreeing(self, embed: Embed, kind: str) -> Embed:
        """``embed`` itself. Raises CannotCompile where torch in f32 disagrees with it."""
        cosine = _cosine(self._embed[kind](list(_CHECK_TEXTS)), embed(list(_CHECK_TEXTS)))
        if not cosine >= COSINE_MIN[kind]:
            raise CannotCompile(f"its cosine to torch is {cosine:.6f}, below {COSINE_MIN[kind]}")
        return embed

    def _stays_in_f32(self, kind: str, reason: CannotCompile) -> None:
        """Add to what a user is told of the backend."""
        said = f"each {kind} is encoded in f32, not bf16: {reason}"
        self.backend_reason = "; ".join(filter(None, [self.backend_reason, said]))
        log.info("the model %r: %s", self.spec.name, said)


def _with_torch(encode: Callable[..., Any]) -> Embed:
    """One of sentence-transformers' own ``encode_query`` and ``encode_document``."""
    return lambda texts: np.asarray(encode(texts, show_progress_bar=False), dtype=np.float32)


def _with_autocast(embed: Embed) -> Embed:
    """``embed`` with torch's matrix products in bf16."""
    import torch

    def faster(texts: list[str]) -> NDArray[np.floating[Any]]:
        with torch.autocast("cpu", torch.bfloat16):
            return embed(texts)

    return faster


def _torch_has_bf16() -> bool:
    """True where the CPU multiplies bf16 by itself (avx512_bf16, amx_bf16, bf16 of ARM)."""
    import torch

    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(has) for name, has in capabilities.items() if name.endswith("bf16"))


def _cosine(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    """The smallest cosine between rows of the same place; -1 for different shapes, NaN where a row
    has no direction.
    """
    if one.shape != other.shape:
        return -1.0
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(((one * other).sum(axis=1) / norms).min())


def _load_model(name: str, threads: int | None) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    warnings.filterwarnings("ignore", module="transformers|torch|openvino")
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    location = model_location(name)
    try:
        model = SentenceTransformer(location)
    except Exception as error:  # of transformers, safetensors, torch, the hub, a missing package
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidRequest(
            f"the model {name!r} cannot be loaded ({reason}); name a folder with a "
            "sentence-transformers model, or a hub name where the hub can be reached"
        ) from error
    return model.eval()


def _spec(name: str, model: Any) -> ModelSpec:
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
