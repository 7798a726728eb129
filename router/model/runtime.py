"""Ways to run a model: by torch in f32, by torch with bf16, compiled by OpenVINO.

Torch in f32 is the truth. A faster way is checked against its vectors of some texts, and given up,
saying why, where it disagrees.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import Unavailable
from bitsift.router.description import ModelSpec
from bitsift.router.model.compiled import CannotCompile, Graph
from bitsift.router.model.tokens import FIELDS, Tokenizer

log = logging.getLogger(__name__)

COSINE_MIN = {"query": 0.9999, "document": 0.9995}
"""How well a faster way must agree with torch in f32.

bf16 over 552 judged queries, WordNet titles and glosses, all-MiniLM-L6-v2: 0.99997 at least.
"""
CHECK_TEXTS = (
    "spider",
    "What is the fear of spiders called, and how common is it?",
    "which animals do people fear, and why",
    "E = mc², naïve café; 3.14159 > 2^1.5 (see Fig. 4)",
    "An arachnid is a joint-legged invertebrate with eight legs; spiders, scorpions, ticks and "
    "mites are the best known of them. " * 4,
)
TOKENIZED_TEXTS = (
    *CHECK_TEXTS,
    "",
    "  spaces  before,\tbetween\nand behind ",
    "UPPER and Title Case, ﬁ and ½, e\u0301 and é",
    "🕷️ 蜘蛛 عنكبوت क\u200b्मकड़ी",
    "[CLS] [SEP] [MASK] [UNK] <s> </s> <pad> <|endoftext|>",
    "words of a text that is longer than a model reads " * 400,
    "?" * 3_000,
)
"""In these a tokenizer must agree with ``preprocess``."""

Embed = Callable[[list[str]], NDArray[np.floating[Any]]]
"""From texts without their prompt to vectors (n, dimension), not yet normalised."""
Tokenize = Callable[[list[str], str], Mapping[str, NDArray[np.int64]]]
"""From texts and their kind to what a compiled model reads."""
Checked = dict[str, NDArray[np.floating[Any]]]
"""What torch in f32 makes of CHECK_TEXTS, by kind."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """How queries and documents are encoded, its name, and why it is not a faster one."""

    embed: dict[str, Embed]
    backend: str
    reason: str | None = None


def compiled(graph: Graph, tokenize: Tokenize, checked: Checked) -> Runtime:
    """OpenVINO, for each kind in bf16 where the CPU has it and it agrees, else in f32.

    Raises CannotCompile with the reason.
    """
    chosen, reasons = {}, []
    for kind in checked:
        if graph.has_bf16():
            try:
                chosen[kind] = _compiled(graph, "bf16", tokenize, kind, checked)
                continue
            except CannotCompile as reason:
                reasons.append(_stays_in_f32(kind, reason))
        chosen[kind] = _compiled(graph, "f32", tokenize, kind, checked)
    return Runtime(chosen, "openvino", "; ".join(reasons) or None)


def fastest(
    model: Any, spec: ModelSpec, tokenizer: Tokenizer | None, backend: str, threads: int
) -> tuple[Runtime, Checked | None]:
    """How to run a loaded ``model``; and, where that is compiled and needs neither it nor its
    ``preprocess``, what it was checked by. Raises Unavailable when ``backend`` openvino cannot.
    """
    by_torch = {
        "query": _with_torch(model.encode_query),
        "document": _with_torch(model.encode_document),
    }
    plain = Runtime(by_torch, f"torch ({model.device.type})")
    if backend == "torch":
        return plain, None
    try:
        if model.device.type != "cpu":
            raise CannotCompile(f"torch runs it on {model.device.type}")
        names = [name for name in FIELDS if name in model.preprocess(["a text"])]
        graph = Graph.of(model, names, threads, spec.revision)
        checked = {kind: embed(list(CHECK_TEXTS)) for kind, embed in by_torch.items()}
        if tokenizer is not None and _agrees(tokenizer, model, spec):
            return compiled(graph, tokenized_by(tokenizer, spec), checked), checked
        return compiled(graph, _preprocessed(model, spec, names), checked), None
    except CannotCompile as reason:
        if backend == "openvino":
            raise Unavailable(f"{spec.name!r} does not run in OpenVINO: {reason}") from reason
        log.info("the model %r runs in torch: %s", spec.name, reason)
        return _with_bf16(plain, model, str(reason)), None


def tokenized_by(tokenizer: Tokenizer, spec: ModelSpec) -> Tokenize:
    """By ``tokenizer``, with the prompts of ``spec``."""
    return lambda texts, kind: tokenizer([_prompt(spec, kind) + text for text in texts])


def _preprocessed(model: Any, spec: ModelSpec, names: list[str]) -> Tokenize:
    """By the model's own ``preprocess``."""

    def tokenize(texts: list[str], kind: str) -> Mapping[str, NDArray[np.int64]]:
        tokens = model.preprocess(texts, prompt=_prompt(spec, kind) or None, task=kind)
        return {name: tokens[name].numpy() for name in names}

    return tokenize


def _agrees(tokenizer: Tokenizer, model: Any, spec: ModelSpec) -> bool:
    """Whether ``tokenizer`` does with TOKENIZED_TEXTS what ``preprocess`` does."""
    theirs, texts = _preprocessed(model, spec, tokenizer.names), list(TOKENIZED_TEXTS)
    ours = tokenized_by(tokenizer, spec)
    return all(
        np.array_equal(found, ours(texts, kind)[name])
        for kind in COSINE_MIN
        for name, found in theirs(texts, kind).items()
    )


def _prompt(spec: ModelSpec, kind: str) -> str:
    return spec.query_prompt if kind == "query" else spec.document_prompt


def _compiled(
    graph: Graph, precision: str, tokenize: Tokenize, kind: str, checked: Checked
) -> Embed:
    """Raises CannotCompile where it disagrees."""
    run = graph.compile(precision)

    def embed(texts: list[str]) -> NDArray[np.floating[Any]]:
        return run(tokenize(texts, kind))

    return _agreeing(embed, kind, checked)


def _agreeing(embed: Embed, kind: str, checked: Checked) -> Embed:
    """``embed`` itself. Raises CannotCompile where torch in f32 disagrees with it."""
    cosine = _cosine(checked[kind], embed(list(CHECK_TEXTS)))
    if not cosine >= COSINE_MIN[kind]:
        raise CannotCompile(f"its cosine to torch is {cosine:.6f}, below {COSINE_MIN[kind]}")
    return embed


def _with_bf16(plain: Runtime, model: Any, reason: str) -> Runtime:
    """Documents in bf16 by torch, where the CPU multiplies bf16 and it agrees with f32."""
    if model.device.type != "cpu" or not _torch_has_bf16():
        return Runtime(plain.embed, plain.backend, reason)
    by_f32 = plain.embed["document"]
    checked = {"document": by_f32(list(CHECK_TEXTS))}
    try:
        faster = _agreeing(_with_autocast(by_f32), "document", checked)
    except CannotCompile as disagreement:
        reasons = [reason, _stays_in_f32("document", disagreement)]
        return Runtime(plain.embed, plain.backend, "; ".join(reasons))
    embed = {**plain.embed, "document": faster}
    return Runtime(embed, "torch (cpu, documents in bf16)", reason)


def _stays_in_f32(kind: str, reason: CannotCompile) -> str:
    """What a user is told of the backend."""
    said = f"each {kind} is encoded in f32, not bf16: {reason}"
    log.info("%s", said)
    return said


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
