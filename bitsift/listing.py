"""What counting and listing ask for, checked once as a search is, and what they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from bitsift import results
from bitsift.document_ids import GivenId
from bitsift.filters.forms import tree_of
from bitsift.filters.tree import fields_of
from bitsift.option_types import FacetLimit, Facets, Sort
from bitsift.options import (
    CURSOR_CHARACTERS_MAX,
    DOCUMENT_FIELDS,
    TIMEOUT_MAX_S,
    DocumentField,
    Filter,
    Included,
    ReadYourWrites,
)
from bitsift.write_results import StoredDocument

LIMIT_MAX = 1_000
"""Documents of one page."""
GET_IDS_MAX = 1_000
"""Documents that are read by their ids in one call."""


_Cursor = Annotated[
    str | None,
    Field(
        max_length=CURSOR_CHARACTERS_MAX,
        description="The `cursor` of the answer before, with the same filter and sort. Default: "
        "from the beginning.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class _ReadOptions:
    """What all reads have."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    timeout_ms: Annotated[
        float, Field(gt=0, le=TIMEOUT_MAX_S * 1e3, description="Time limit in milliseconds.")
    ] = 10_000.0
    read_your_writes: ReadYourWrites = None

    @property
    def timeout_s(self) -> float:
        return self.timeout_ms / 1e3


@dataclass(frozen=True, kw_only=True)
class GetOptions(_ReadOptions):
    """Which documents are read by their ids, and how much of them."""

    ids: Annotated[
        Sequence[GivenId],
        Field(
            min_length=1,
            max_length=GET_IDS_MAX,
            description="Ids of documents. One that is given twice is answered once.",
        ),
    ]
    include: Annotated[
        Sequence[Included],
        Field(
            max_length=len(DOCUMENT_FIELDS) + 1,
            description="Fields of the documents to return. `vector` is decoded from the int8 "
            "code.",
        ),
    ] = DOCUMENT_FIELDS


@dataclass(frozen=True, kw_only=True)
class PassingOptions(_ReadOptions):
    """Which documents are meant."""

    filter: Annotated[
        Filter, Field(description="Only documents that pass, as in a search. Default: all.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class CountOptions(PassingOptions):
    """Which documents are counted, and of which fields the values."""

    facets: Facets = ()
    facet_limit: FacetLimit = 10


@dataclass(frozen=True, kw_only=True)
class ListOptions(PassingOptions):
    """Which documents are listed, and how much of them."""

    limit: Annotated[
        int, Field(ge=1, le=LIMIT_MAX, description="Documents of this page, at most.")
    ] = 100
    cursor: _Cursor = None
    sort: Annotated[
        Sort,
        Field(
            description="Fields of the metadata that put the documents in order, `year:desc` for "
            "descending. Default: an order that means nothing."
        ),
    ] = ()
    include: Annotated[
        Sequence[DocumentField],
        Field(max_length=len(DOCUMENT_FIELDS), description="Fields of the documents to return."),
    ] = DOCUMENT_FIELDS


@dataclass(frozen=True, kw_only=True)
class DeleteOptions(PassingOptions):
    """Which documents are deleted, some at a time."""

    limit: Annotated[
        int, Field(ge=1, le=LIMIT_MAX, description="Documents of this call, at most.")
    ] = LIMIT_MAX
    cursor: _Cursor = None

    def __post_init__(self) -> None:
        """Raises ValueError for a filter that tests no field: no document is like another to it."""
        if self.filter is None or not fields_of(tree_of(str(self.filter))):
            raise ValueError(
                "this filter has no condition on a field; if you mean every document, say so: "
                '{"id": {"$exists": true}}'
            )

    @property
    def page(self) -> ListOptions:
        """The ids of those documents."""
        asked = {name: value for name, value in self.__dict__.items() if name != "metadata"}
        return ListOptions(**asked, include=())


METADATA_SAID = (
    "A JSON merge patch (RFC 7386) of the metadata: null takes a field away, an object is merged "
    "into what is there, anything else takes its place."
)


@dataclass(frozen=True, kw_only=True)
class UpdateOptions(DeleteOptions):
    """Of which documents the metadata are changed, and how."""

    metadata: Annotated[dict[str, Any], Field(description=METADATA_SAID)]


@dataclass(frozen=True, slots=True)
class Counted:
    """So many documents pass; ``facets`` where they were asked for."""

    count: int
    facets: results.Facets | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents, and the ``cursor`` of the page behind them; None where there is none.

    ``count`` is how many pass in all, on this page, those before it and those behind it. Fields
    that were not asked for are empty.
    """

    documents: tuple[StoredDocument, ...]
    cursor: str | None
    count: int
