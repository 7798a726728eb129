"""What a search returns: hits, coverage and timings. Frozen; no I/O, no libraries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Vector = Sequence[float] | NDArray[np.float32]
else:  # the base install has no numpy
    Vector = list[float]


@dataclass(frozen=True, slots=True)
class HammingStage:
    """Place of a hit in the Hamming stage of its shard; ``distance`` in bits."""

    rank: int
    distance: int


@dataclass(frozen=True, slots=True)
class ScoreStage:
    """Place of a hit, and its score there, among all gathered candidates."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """How one hit came through the funnel. Ranks start at 1.

    ``hamming`` is the rank within the hit's shard; ``asymmetric`` (fp32 query against the ±1 code,
    as a cosine) and ``int8`` (decoded score, the final one) are ranks among the gathered
    candidates of all shards.
    """

    hamming: HammingStage | None
    asymmetric: ScoreStage
    int8: ScoreStage


@dataclass(frozen=True, slots=True)
class Highlight:
    """The sentence of a hit's text that is nearest to the query: ``text[start:end]``, in code
    points.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A returned document. ``score`` estimates the cosine of query and document, in [-1, 1].

    ``vector``, where it is included, is decoded from the int8 code that the score was computed of.
    ``highlight`` is there where it was asked for, and the text is not blank.
    """

    id: str
    score: float
    title: str | None
    text: str | None
    metadata: dict[str, Any] | None
    shard: int
    explain: Explanation | None = None
    vector: Vector | None = None
    highlight: Highlight | None = None


@dataclass(frozen=True, slots=True)
class ShardFailure:
    """Why a shard, or one of its documents, is missing from an answer."""

    shard: int
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which shards answered. ``answered`` < ``shards`` means hits may be missing."""

    shards: int
    answered: int
    failures: tuple[ShardFailure, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds of each stage, on the router's monotonic clock."""

    encode: float
    fan_out: float
    rescore: float
    texts: float
    total: float


@dataclass(frozen=True, slots=True)
class FilterStage:
    """How a shard applied the filter: ``plan`` is its way, of those that docs/searching.md names.

    So many of its documents are ``matching``, or at most so many where it read not all in doubt.
    """

    shard: int
    plan: str
    matching: int


@dataclass(frozen=True, slots=True)
class Total:
    """How many documents pass the filter, whatever they score: exactly so many (``eq``), or at
    least (``gte``), where a shard is missing or has not read all documents in doubt.
    """

    value: int
    relation: Literal["eq", "gte"]


@dataclass(frozen=True, slots=True)
class FacetValue:
    """So many documents have ``value``, a date as ``{"$date": "2026-01-31"}``: exactly so many
    (``eq``), or at least (``gte``), where a shard is missing or did not count all of the field.
    """

    value: bool | int | float | str | dict[str, str]
    count: int
    relation: Literal["eq", "gte"]


Facets = dict[str, tuple[FacetValue, ...]]
"""Of each field the most frequent values, most frequent first, equal counts by value."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one query, best hit first. ``total`` where it has a filter, ``filter`` where
    that is explained, ``facets`` where they were asked for. ``cursor`` leads to the hits behind
    these, where there may be any.
    """

    hits: tuple[Hit, ...]
    coverage: Coverage
    timings_ms: Timings
    partial: bool = field(default=False)
    filter: tuple[FilterStage, ...] | None = None
    total: Total | None = None
    facets: Facets | None = None
    cursor: str | None = None
