"""BuildOptions: how an index is built, with defaults, limits and help in this one place.

`build_index` takes one object, whole; the flags of `bitsift index` are made from its fields
(cluster/cli/options.py). Options that are settings too take their type, limits, help and default
from bitsift/config/tree.py. An instance is not checked on construction: ``checked_build`` does that
once, before a build touches anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from bitsift.checked import reasons
from bitsift.cluster.ingest.chunking import Chunking
from bitsift.cluster.manifest import SHARDS_MAX
from bitsift.cluster.sources.dialect import Layout, checked_layout
from bitsift.cluster.sources.kinds import FORMATS
from bitsift.cluster.sources.plan import Fields
from bitsift.cluster.sources.ranges import stored_as
from bitsift.cluster.sources.stored_vectors import Stored, VectorType
from bitsift.config.tree import DEFAULTS, Backend, Index, Model
from bitsift.errors import InvalidRequest
from bitsift.filters.operands import path_of
from bitsift.filters.tree import DOCUMENT_ID
from bitsift.option_types import FIELD_CHARACTERS_MAX
from bitsift.router.model.prompts import PROMPT_CHARACTERS_MAX, Prompts
from bitsift.shard_worker.codes import Transform
from bitsift.shard_worker.fields.segment import FIELDS_MAX


def _paths(names: Sequence[str]) -> tuple[str, ...]:
    found = dict.fromkeys(path_of(name, "") for name in names)
    if DOCUMENT_ID in found:
        raise ValueError("id has an index always; metadata.id is a field of that name")
    return tuple(found)


def _format(name: str | None) -> str | None:
    if name is not None and f".{name}" not in FORMATS:
        raise ValueError(f"one of {' '.join(ending[1:] for ending in FORMATS)}")
    return name


def _chunking(said: str | None) -> str | None:
    return None if said is None else str(Chunking.parse(said))


IndexFields = Annotated[
    Sequence[Annotated[str, Field(min_length=1, max_length=FIELD_CHARACTERS_MAX)]],
    Field(
        max_length=FIELDS_MAX,
        description="Metadata fields that filters find by an index, with the fields below them. "
        "Others are filtered by reading documents. Default: all.",
    ),
    AfterValidator(_paths),
]
"""Checked, they are paths as filters' trees have them."""


@dataclass(frozen=True)
class BuildOptions:
    """How to build one index.

    Where the sources carry vectors (``vector_field``, ``vectors`` or a matrix as the source),
    ``model`` is the one that made them: it encodes queries in text, and documents without a vector
    that are added later. ``transform`` changes which bits are set, never a score: `bitsift doctor`
    says which one helps. ``examples`` are queries that the page offers.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: Annotated[
        str | None,
        Field(
            min_length=1,
            description="Name or path of a sentence-transformers model. Default: minilm, which is "
            "installed with Bitsift and works offline; none for precomputed embeddings.",
        ),
    ] = None
    query_prompt: Annotated[
        str | None,
        Field(
            max_length=PROMPT_CHARACTERS_MAX,
            description="Text that the model is given before each query. Default: what the model's "
            "saved prompts say; an empty text is none.",
        ),
    ] = None
    document_prompt: Annotated[
        str | None,
        Field(
            max_length=PROMPT_CHARACTERS_MAX,
            description="The same before each document.",
        ),
    ] = None
    shards: Annotated[
        int | None,
        Field(
            strict=True, ge=1, le=SHARDS_MAX, description="Number of shards. Default: one per core."
        ),
    ] = None
    id_field: Annotated[str | None, Field(description="Field that holds the id.")] = None
    text_field: Annotated[str | None, Field(description="Field that holds the text.")] = None
    title_field: Annotated[str | None, Field(description="Field that holds the title.")] = None
    vector_field: Annotated[
        str | None, Field(description="Field that holds a precomputed embedding.")
    ] = None
    vectors: Annotated[
        Path | None,
        Field(
            description="A .npy, .npz or .safetensors file of precomputed embeddings: row i "
            "belongs to record i of the source."
        ),
    ] = None
    format: Annotated[
        str | None,
        AfterValidator(_format),
        Field(
            description="Format of standard input, which is the source `-`, by its usual ending. "
            "Default: what its first bytes look like."
        ),
    ] = None
    vector_type: Annotated[
        VectorType | None,
        Field(
            description="What precomputed embeddings are: float, or quantized as int8, uint8, "
            "binary or ubinary (packed bits). Default: float; what looks quantized is refused."
        ),
    ] = None
    ranges: Annotated[
        Path | None,
        Field(
            description="Ranges that int8 or uint8 embeddings were quantized with: a .npy file of "
            "2 x dimensions (lowest, highest), the same as JSON, or an index's manifest.json."
        ),
    ] = None
    chunk: Annotated[
        str | None,
        Field(
            description="Index long texts in passages: tokens=N,overlap=M, such as "
            "tokens=200,overlap=40, counted by the model's tokenizer."
        ),
        AfterValidator(_chunking),
    ] = None
    delimiter: Annotated[
        str | None,
        Field(
            description="Of text tables: the character between cells, or tab, comma, semicolon, "
            "pipe, space. Default: found in the first rows."
        ),
    ] = None
    encoding: Annotated[
        str | None,
        Field(
            description="Of text files, such as cp1252 or shift_jis. Default: UTF-8, or UTF-16 "
            "where they are in it."
        ),
    ] = None
    quote: Annotated[
        str | None,
        Field(
            description="Of text tables: the character round cells, or none. Default: found in the "
            "first rows."
        ),
    ] = None
    escape: Annotated[
        str | None,
        Field(
            description="Of text tables: the character that takes the meaning from the next one, "
            "or none. Default: found in the first rows."
        ),
    ] = None
    header: Annotated[
        bool | None,
        Field(
            description="Whether the first row of text tables names the columns. Default: found in "
            "the first rows."
        ),
    ] = None
    columns: Annotated[
        Sequence[str],
        Field(
            description="Names of the columns of text tables, such as id,title,text. Default: the "
            "first row says them."
        ),
    ] = ()
    skip_lines: Annotated[
        int | None,
        Field(
            strict=True,
            ge=0,
            description="Of text tables: how many lines come before the header, or before the "
            "first row. Default: those that begin with # before a header.",
        ),
    ] = None
    transform: Annotated[
        Transform,
        Field(description="Transform applied to vectors before their signs become the bits."),
    ] = Transform.NONE
    examples: Annotated[
        tuple[str, ...], Field(description="Queries that the page offers as examples.")
    ] = ()
    index_fields: IndexFields = ()
    max_rejects: Annotated[int, Index.model_fields["max_rejects"]] = DEFAULTS.index.max_rejects
    encoders: Annotated[int | None, Index.model_fields["encoders"]] = DEFAULTS.index.encoders
    backend: Annotated[Backend, Model.model_fields["backend"]] = DEFAULTS.model.backend

    @property
    def stored(self) -> Stored:
        """How the vectors of the sources are stored. Raises InvalidRequest."""
        return stored_as(self.vector_type, self.ranges)

    @property
    def prompts(self) -> Prompts:
        """What was said of the model's prompts."""
        return Prompts(self.query_prompt, self.document_prompt)

    @property
    def chunking(self) -> Chunking | None:
        """How texts are cut into passages; None: not at all."""
        return None if self.chunk is None else Chunking.parse(self.chunk)

    @property
    def layout(self) -> Layout:
        """What was said of text tables. Raises ValueError where that cannot be."""
        said = Layout(
            self.delimiter,
            self.encoding,
            self.quote,
            self.escape,
            self.header,
            tuple(self.columns),
            self.skip_lines,
        )
        return checked_layout(said)

    @property
    def fields(self) -> Fields:
        """The fields of a record that were named."""
        return Fields(
            id=self.id_field, text=self.text_field, title=self.title_field, vector=self.vector_field
        )


_BUILD_OPTIONS = TypeAdapter(BuildOptions)


def checked_build(options: BuildOptions) -> BuildOptions:
    """The same options, each of its type and within its limits. Raises InvalidRequest."""
    try:
        checked = _BUILD_OPTIONS.validate_python(
            {field.name: getattr(options, field.name) for field in fields(options)}
        )
        checked.layout  # noqa: B018 (it raises)
        return checked
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidRequest(reasons(found)) from error
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
