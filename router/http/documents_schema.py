"""The limits of the routes that write, and the descriptions of their bodies.

The bodies are read by ``incoming.py``, in the writer's process: these models describe them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from bitsift.checked import DELETE, UPDATE
from bitsift.document_ids import GivenId
from bitsift.errors import RequestTooLarge as RequestTooLarge
from bitsift.listing import METADATA_SAID
from bitsift.router.http.media_types import NDJSON as NDJSON

DOCUMENTS_MAX = 10_000
"""Documents, or ids to delete, in one call; a stream takes any number."""
UPSERT_BYTES_MAX = 64 << 20
ID_BYTES_MAX = 8_192
DOCUMENT_BYTES_MAX = 4 << 20
"""Title, text and metadata of one document, in UTF-8."""
LINE_BYTES_MAX = 16 << 20
"""One line of a stream: the largest document with every character escaped, and a vector."""
DOCUMENT_PARTS_MAX = 500_000
"""Strings, commas and opening brackets in the JSON of one document: it takes 50 MB while it is
read."""
BODY_STEPS_MAX = 5_000_000
"""Steps in which a body is cut into documents; an ordinary document takes ten. Seconds of CPU."""
DOCUMENT_RAM_BYTES = 64 << 20
"""What is built of the one large document that is being read; once in a process."""
VERSION_DIGITS_MAX = 20
"""Of a version, which has 64 bits."""

Version = Annotated[
    str, Field(pattern=f"^[0-9]{{1,{VERSION_DIGITS_MAX}}}$", examples=["117701396989149184"])
]
"""As a document's answer says it: a number, in a string, since many JSON parsers would round it."""


class DocumentBody(BaseModel):
    """One document. Numbers are accepted as ids and titles too."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[GivenId, Field(min_length=1, description=f"at most {ID_BYTES_MAX:,} bytes")]
    title: str | None = None
    text: str | None = Field(None, description="required unless `title` or `vector` is given")
    metadata: dict[str, Any] | None = None
    vector: list[float] | str | None = Field(
        None, description="precomputed embedding: numbers, or base64 of little-endian float32"
    )
    if_absent: bool = Field(False, description="write it only where there is no such document")
    if_version: Version | None = Field(
        None, description="write it only in the place of the document of this version"
    )


class UpsertBody(BaseModel):
    """Documents to add; they replace those with the same ids."""

    model_config = ConfigDict(extra="forbid")

    documents: Annotated[list[DocumentBody], Field(max_length=DOCUMENTS_MAX)]


class DeleteBody(BaseModel):
    """Ids of documents to delete."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: Annotated[list[GivenId], Field(max_length=DOCUMENTS_MAX)]
    if_version: Version | None = Field(
        None, description="delete it only in this version; with one id"
    )


class MetadataBody(BaseModel):
    """A change of the metadata of one document."""

    model_config = ConfigDict(extra="forbid", strict=True)

    metadata: Annotated[dict[str, Any], Field(description=METADATA_SAID)]
    if_version: Version | None = Field(None, description="change it only in this version")


class PatchBody(MetadataBody):
    """The same of several, by their ids; ``if_version`` with one id."""

    ids: Annotated[list[GivenId], Field(max_length=DOCUMENTS_MAX)]


class Deleted(BaseModel):
    """The answer to ``DELETE /v1/documents/{id}``."""

    id: str
    status: str
    token: str | None


def upsert_body_schema() -> dict[str, Any]:
    """The OpenAPI description of the body of an upsert."""
    document = DocumentBody.model_json_schema()
    whole = UpsertBody.model_json_schema()
    whole["properties"]["documents"]["items"] = document
    whole.pop("$defs")
    lines = {"type": "string", "description": "one document per line, as a JSON object"}
    content = {"application/json": {"schema": whole}, NDJSON: {"schema": lines}}
    return {"required": True, "content": content}


def delete_body_schema() -> dict[str, Any]:
    """The OpenAPI description of the body of a delete: ids, or a filter."""
    either = [DeleteBody.model_json_schema(), DELETE.adapter.json_schema()]
    return {"required": True, "content": {"application/json": {"schema": {"anyOf": either}}}}


def update_body_schema() -> dict[str, Any]:
    """That of the body of an update: ids, or a filter."""
    either = [PatchBody.model_json_schema(), UPDATE.adapter.json_schema()]
    return {"required": True, "content": {"application/json": {"schema": {"anyOf": either}}}}
