"""SearchOptions: what a search asks for, with its defaults, limits and help, in this one place.

Each surface is made from these fields: the body and the parameters of ``/v1/search`` with their
description (router/http/schema.py), the arguments of both clients (bitsift/client/arguments.py),
the options of ``bitsift search`` (cluster/cli/search.py), and what a router sends to its shards
(shard_worker/wire/search.py). How to add an option: ARCHITECTURE, "To add a search option".

An instance is not checked on construction: values from outside pass through ``bitsift.checked``
once, and everything behind it trusts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    WithJsonSchema,
)

from bitsift.document_ids import GivenId
from bitsift.filters.forms import PASSES_ALL, canonical
from bitsift.filters.operands import FilterError, shown
from bitsift.option_types import FACETS_MAX, FacetLimit, Facets, MetadataField, Sort
from bitsift.write_token import TOKEN_CHARACTERS_MAX, check_token

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = Sequence[float] | NDArray[np.float32] | NDArray[np.float64]
    FilterForm = Mapping[str, object] | str
else:  # the base install has no numpy; what was checked is the canonical text
    Vector = list[FiniteFloat]
    FilterForm = str

DEPTH_MAX = 1_000
"""Limit of ``offset`` + ``top_k``: how deep into the ranking a search may go."""
CANDIDATES_MAX = 1_000
NPROBE_MAX = 1 << 20
RECALL_MIN, RECALL_MAX = 0.5, 0.999
QUERY_CHARACTERS_MAX = 8_192
DIMENSION_MAX = 4_096
TIMEOUT_MAX_S = 60.0
QUERIES_MAX = 100
HITS_MAX = 10_000
"""Queries of one request times ``offset`` + ``top_k``; and times the ids of ``exclude``."""
EXCLUDE_MAX = 1_000
GROUP_SIZE_MAX = 100
GROUPED_DEPTH_MAX = 100
"""``offset`` + ``top_k`` of a search with ``group_by``."""
LIKED_MAX = 100
"""Queries of one request times the ids of ``like`` and ``unlike``: each is read."""
HIGHLIGHTED_MAX = 100
"""Queries of one request times ``top_k``, with ``highlight``: the texts of all are encoded."""
CURSOR_CHARACTERS_MAX = 8_192
"""Eight of them for each hit on the pages before."""
_CHARACTERS_PER_HIT = 8
ID_CHARACTERS_MAX = 8_192
"""Of an id in an option; no longer one is found."""


class Mode(StrEnum):
    """How a shard finds its candidates.

    ``exact`` compares all bits of all rows; ``approximate`` those of the nearest lists, or where
    the shard has none, the first of all rows and the rest of few; ``auto`` does the latter while it
    fits the latency budget, else it goes by lists; ``exhaustive`` scores every int8 row.
    """

    AUTO = "auto"
    EXACT = "exact"
    APPROXIMATE = "approximate"
    EXHAUSTIVE = "exhaustive"


DocumentField = Literal["title", "text", "metadata"]
DOCUMENT_FIELDS: tuple[DocumentField, ...] = ("title", "text", "metadata")
"""The fields of a document besides its id."""
Included = Literal["title", "text", "metadata", "vector"]
VECTOR = "vector"
"""What may be included besides: the vector, as its int8 code has it."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the query is empty")
    return text


_Text = Annotated[
    str, Field(min_length=1, max_length=QUERY_CHARACTERS_MAX), AfterValidator(_not_blank)
]


def _canonical_filter(written: object) -> object:
    if written is None:
        return None
    if not isinstance(written, Mapping | str):
        raise FilterError(f"takes an object or a text, not {shown(written)}")
    text = canonical(written)
    return None if text == PASSES_ALL else text


_Id = Annotated[GivenId, Field(min_length=1, max_length=ID_CHARACTERS_MAX)]

Filter = Annotated[
    FilterForm | None,
    BeforeValidator(_canonical_filter),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}),
]
"""Checked, it is the JSON text of ``bitsift.filters.forms.canonical``; None passes everything."""

ReadYourWrites = Annotated[
    str | None,
    Field(
        max_length=TOKEN_CHARACTERS_MAX,
        description="The `token` from the answer to a write: replicas that have not applied that "
        "write do not answer.",
    ),
    AfterValidator(lambda text: None if text is None else check_token(text)),
]


@dataclass(frozen=True)
class SearchOptions:
    """One search: for a text or for an embedding, and how to answer it.

    On the way through the router the text is embedded, and ``vector`` becomes float32 (width,):
    L2-normalised, padded to the index's code width (``dataclasses.replace``).
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    query: Annotated[_Text | None, Field(description="The text to search for.")] = None
    _: KW_ONLY
    vector: Annotated[
        Vector | None,
        Field(
            max_length=DIMENSION_MAX,
            description="An embedding of the index's dimension, to search for instead of a text.",
        ),
    ] = None
    top_k: Annotated[
        int,
        Field(
            ge=1,
            le=DEPTH_MAX,
            description=f"Number of hits; together with `offset` at most {DEPTH_MAX:,}.",
        ),
    ] = 10
    offset: Annotated[
        int,
        Field(ge=0, le=DEPTH_MAX - 1, description="Number of best hits to skip, for paging."),
    ] = 0
    cursor: Annotated[
        str | None,
        Field(
            max_length=CURSOR_CHARACTERS_MAX,
            description="The `cursor` of the answer before, with the same search: for the hits "
            f"behind those, {DEPTH_MAX:,} on all pages together.",
        ),
    ] = None
    min_score: Annotated[
        float | None,
        Field(
            ge=-1.0,
            le=1.0,
            description="Leave out hits with a lower score. A score estimates a cosine: -1 to 1.",
        ),
    ] = None
    filter: Annotated[
        Filter,
        Field(
            description="Search only documents that pass: a condition on metadata and id, as JSON "
            '(`{"lang": "de", "year": {"$gte": 2020}}`) or as text '
            "(`lang = de and year >= 2020`).",
        ),
    ] = None
    like: Annotated[
        Sequence[_Id],
        Field(
            max_length=LIKED_MAX,
            description="Ids of documents that hits should be like: instead of a text or a vector, "
            "or to move it towards them. Their stored vectors are used.",
        ),
    ] = ()
    unlike: Annotated[
        Sequence[_Id],
        Field(
            max_length=LIKED_MAX,
            description="Ids of documents to move the query away from; beside a text, a vector or "
            "`like`.",
        ),
    ] = ()
    keep_liked: Annotated[
        bool, Field(description="Let the documents of `like` and `unlike` be hits, too.")
    ] = False
    group_by: Annotated[
        MetadataField,
        Field(
            description="A field of the metadata: at most `group_size` hits of each of its values.",
        ),
    ] = None
    group_size: Annotated[
        int,
        Field(ge=1, le=GROUP_SIZE_MAX, description="Hits of each value of `group_by` at most."),
    ] = 1
    exclude: Annotated[
        Sequence[_Id],
        Field(
            max_length=EXCLUDE_MAX,
            description="Ids of documents that are no hits, whatever they score.",
        ),
    ] = ()
    sort: Annotated[
        Sort,
        Field(
            description="Fields of the metadata to put the hits of the answer in order by, "
            "`year:desc` for descending; which hits there are, the score alone says.",
        ),
    ] = ()
    highlight: Annotated[
        bool,
        Field(
            description="Say which sentence of each hit's text is nearest to the query, which must "
            "be a text: the model reads the texts for it.",
        ),
    ] = False
    text_characters: Annotated[
        int | None,
        Field(
            ge=1,
            description="Return the first so many characters of each title and text, as for a "
            "list of hits. Default: all of them.",
        ),
    ] = None
    facets: Facets = ()
    facet_limit: FacetLimit = 10
    candidates: Annotated[
        int | None,
        Field(
            ge=1,
            le=CANDIDATES_MAX,
            description="Number of int8 codes that each shard reads. Default: adaptive, 20 to 160 "
            "depending on how close the scores are.",
        ),
    ] = None
    mode: Annotated[
        Mode,
        Field(
            strict=False,
            description="How candidates are found: `exact` compares all bits, `approximate` few "
            "of them, `exhaustive` all int8 codes; `auto` chooses by cost.",
        ),
    ] = Mode.AUTO
    nprobe: Annotated[
        int | None,
        Field(
            ge=1,
            le=NPROBE_MAX,
            description="Lists that an approximate search visits. Default: what a shard measured.",
        ),
    ] = None
    recall: Annotated[
        float | None,
        Field(
            ge=RECALL_MIN,
            le=RECALL_MAX,
            description="Instead of `nprobe`: share of an exact scan's candidates to find. Each "
            "shard compares as many rows as it measured to be enough, or scans all of them.",
        ),
    ] = None
    timeout_ms: Annotated[
        float,
        Field(
            gt=0,
            le=TIMEOUT_MAX_S * 1e3,
            description="Time limit in milliseconds. Shards that have not finished by "
            "then are left out and named in `coverage`.",
        ),
    ] = 5_000.0
    include: Annotated[
        Sequence[Included],
        Field(
            max_length=len(DOCUMENT_FIELDS) + 1,
            description="Fields of the hits to return. `vector` is decoded from the int8 code: a "
            "unit vector up to half a step of its calibration in each number.",
        ),
    ] = DOCUMENT_FIELDS
    explain: Annotated[
        bool, Field(description="Include each hit's rank and score at every stage of the search.")
    ] = False
    require_complete: Annotated[
        bool, Field(description="Fail with 503 unless every shard answers completely.")
    ] = False
    read_your_writes: ReadYourWrites = None

    def __post_init__(self) -> None:
        """Raises ValueError where options contradict each other."""
        if self.cursor is not None and (self.offset or self.group_by is not None):
            raise ValueError(
                "a cursor says where its page begins, of a search without group_by: leave offset "
                "and group_by out, or page by offset alone"
            )
        if self.nprobe is not None and self.recall is not None:
            raise ValueError("nprobe and recall both say how many lists are visited: give one")
        most = f"at most {DEPTH_MAX:,}: narrow the search instead of paging deeper"
        if self.group_by is not None and self.depth <= DEPTH_MAX:
            most = f"with group_by at most {GROUPED_DEPTH_MAX:,}"
        if self.depth > (DEPTH_MAX if self.group_by is None else GROUPED_DEPTH_MAX):
            hits = f"offset {self.offset} and top_k {self.top_k} are {self.depth:,} hits together"
            raise ValueError(f"{hits}, {most}")

    @property
    def depth(self) -> int:
        """How many of the best hits must be known: those skipped and those returned."""
        return self.offset + self.top_k

    @property
    def ranked(self) -> int:
        """The same with those of the pages before the cursor, two more at most."""
        return self.depth + len(self.cursor or "") // _CHARACTERS_PER_HIT

    @property
    def timeout_s(self) -> float:
        return self.timeout_ms / 1e3

    def given(self) -> dict[str, Any]:
        """The fields that differ from their defaults: all that needs to be sent."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if value is not (default := _DEFAULTS[name]) and (default is None or value != default)
        }


@dataclass(frozen=True)
class SearchRequest(SearchOptions):
    """What a caller sends: one text, several texts, an embedding or documents to be like, and how
    to answer them.
    """

    queries: Annotated[
        list[_Text] | None,
        Field(min_length=1, max_length=QUERIES_MAX, description="Texts, answered in order."),
    ] = None

    def __post_init__(self) -> None:
        """Raises ValueError for anything but one thing to look for, or too much of something."""
        super().__post_init__()
        given = [name for name in ("query", "queries", "vector") if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.like):
            raise ValueError(
                f"give exactly one of query, queries and vector, not {given or 'none'}; or like"
            )
        queries = len(self.queries or ())
        liked = max(1, queries) * (len(self.like) + len(self.unlike))
        if liked > LIKED_MAX:
            raise ValueError(
                f"like and unlike have {liked} ids, over all queries, at most {LIKED_MAX} are read"
            )
        if queries * self.ranked > HITS_MAX:
            raise ValueError(
                f"{queries} queries of {self.ranked} hits are more than {HITS_MAX:,} hits: lower "
                "top_k, or send fewer queries at once"
            )
        if self.highlight and self.query is None and not queries:
            raise ValueError("highlight: there is nothing to be near to without a text as query")
        if self.highlight and max(1, queries) * self.top_k > HIGHLIGHTED_MAX:
            raise ValueError(
                f"highlight is for {HIGHLIGHTED_MAX} hits at most, over all queries: lower top_k"
            )
        if queries * len(self.facets) > FACETS_MAX:
            raise ValueError(
                f"{queries} queries with {len(self.facets)} facets each, at most {FACETS_MAX} are "
                "counted: they are the same for each query, so ask for them once"
            )
        if queries * len(self.exclude) > HITS_MAX:
            raise ValueError(
                f"{queries} queries that exclude {len(self.exclude):,} ids each are more than "
                f"{HITS_MAX:,} ids: send fewer queries at once"
            )

    def searches(self) -> list[SearchOptions]:
        """One for each text, or the one for the embedding."""
        options = {name: value for name, value in self.__dict__.items() if name != "queries"}
        if self.queries is None:
            return [SearchOptions(**options)]
        return [SearchOptions(**{**options, "query": query}) for query in self.queries]


_DEFAULTS = {field.name: field.default for field in fields(SearchRequest)}
