"""Do a model's prompts help on these documents? They are encoded with and without.

Without judgements a document is asked for by a part of itself: its title where it has one, else its
first sentence. The rest is what is searched, and how often it is the nearest is counted (known-item
search; with sentences the inverse cloze task of Lee et al. 2019). Differences tell which prompts
fit; the figures themselves are of easier queries than real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bitsift.cluster.evaluation.doctor import Estimate, estimate
from bitsift.cluster.evaluation.evaluate import TextEncoder
from bitsift.cluster.evaluation.stages import exact_top
from bitsift.router.sentences import sentences

PAIRS_MAX = 500
PAIRS_MIN = 30
"""Fewer say nothing."""


@dataclass(frozen=True, slots=True)
class PromptsReport:
    """The share of ``pairs`` documents found first, ``with_prompts`` and ``without``, and the
    ``gain`` of the same queries: above noise where its ``low`` is above 0.
    """

    query_prompt: str
    document_prompt: str
    pairs: int
    with_prompts: Estimate
    without: Estimate
    gain: Estimate

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def pairs_of(documents: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """(query, text) of (title, text) of documents, those that can be taken apart."""
    found = []
    for title, text in documents:
        if title.strip() and text.strip():
            found.append((title, text))
            continue
        cut = sentences(text)
        if len(cut) > 1:
            found.append((text[slice(*cut[0])], text[cut[1][0] :]))
        if len(found) == PAIRS_MAX:
            break
    return found[:PAIRS_MAX]


def compare_prompts(
    documents: Sequence[tuple[str, str]],
    prompts: tuple[str, str],
    with_prompts: TextEncoder,
    without: Callable[[], TextEncoder],
) -> PromptsReport | None:
    """None where the model has no ``prompts`` (of queries, of documents), or where too few
    documents can be taken apart. ``without`` loads the same model without prompts.
    """
    pairs = pairs_of(documents)
    if not any(prompts) or len(pairs) < PAIRS_MIN:
        return None
    hits, bare = _hits(pairs, with_prompts), _hits(pairs, without())
    return PromptsReport(
        *prompts, len(pairs), estimate(hits), estimate(bare), estimate(hits - bare)
    )


def _hits(pairs: Sequence[tuple[str, str]], encoder: TextEncoder) -> np.ndarray[Any, Any]:
    """1.0 for each query whose own text is the nearest, else 0.0; float64 (pairs,)."""
    queries = encoder.encode_queries([query for query, _ in pairs])
    documents = encoder.encode_documents([text for _, text in pairs])
    best = exact_top(queries, documents, 1)[:, 0]
    return np.asarray(best == np.arange(len(pairs)), dtype=np.float64)
