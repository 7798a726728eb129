"""Options that name fields of the metadata, with their limits: of searches and of listings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from bitsift.filters.operands import path_of
from bitsift.filters.tree import DOCUMENT_ID
from bitsift.sorting import sort_key_of

FIELD_CHARACTERS_MAX = 512
FACETS_MAX = 10
"""Queries of one request times the fields of ``facets``: for each, all that passes is counted."""
FACET_LIMIT_MAX = 1_000
SORT_KEYS_MAX = 3


def _checked_field(name: str | None) -> str | None:
    if name is not None:
        path_of(name, "")
    return name


_Field = Annotated[str, Field(min_length=1, max_length=FIELD_CHARACTERS_MAX)]
MetadataField = Annotated[_Field | None, AfterValidator(_checked_field)]
"""A field as filters name it."""


def _of_metadata(name: str) -> str:
    if path_of(name, "") == DOCUMENT_ID:
        raise ValueError("id is another in each document: name a field of the metadata")
    return name


def _checked_sort(text: str) -> str:
    sort_key_of(text)
    return text


Sort = Annotated[
    Sequence[Annotated[_Field, AfterValidator(_checked_sort)]],
    Field(max_length=SORT_KEYS_MAX),
]
Facets = Annotated[
    Sequence[Annotated[_Field, AfterValidator(_of_metadata)]],
    Field(
        max_length=FACETS_MAX,
        description="Fields of the metadata whose values are counted, over all documents that pass "
        "the filter.",
    ),
]
FacetLimit = Annotated[
    int,
    Field(
        ge=1,
        le=FACET_LIMIT_MAX,
        description="Values of each field of `facets` at most, the most frequent.",
    ),
]
