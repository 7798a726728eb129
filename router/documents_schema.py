"""The limits of the routes that write, and the descriptions of their bodies.

The bodies are read by ``incoming.py``, in the writer's process: these models describe them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from shard_worker.errors import InvalidRequest

DOCUMENTS_MAX = 10_000
"""Documents, or ids to delete, in one call; a stream takes any number."""
UPSERT_BYTES_MAX = 64 << 20
ID_BYTES_MAX = 8_192
DOCUMENT_BYTES_MAX = 4 << 20
"""Title, text and metadata of one document, in UTF-8."""
LINE_BYTES_MAX = 16 << 20
"""One line of a stream: the largest document with every character escaped, and a vector."""
NDJSON = "application/x-ndjson"


class RequestTooLarge(InvalidRequest):
    """The caller must send less in one request."""

    status = 413
    title = "request too large"


class DocumentBody(BaseModel):
    """One document. Numbers are taken as ids and titles too."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1, description=f"at most {ID_BYTES_MAX:,} bytes")]
    title: str | None = None
    text: str | None = Field(None, description="needed where the model is to make the vector")
    metadata: dict[str, Any] | None = None
    vector: list[float] | str | None = Field(
        None, description="numbers, or base64 of little-endian float32; instead of the model's"
    )


class UpsertBody(BaseModel):
    """Documents to add, or to put in the place of those with the same ids."""

    model_config = ConfigDict(extra="forbid")

    documents: Annotated[list[DocumentBody], Field(max_length=DOCUMENTS_MAX)]


class DeleteBody(BaseModel):
    """Ids of documents to delete."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: Annotated[list[str], Field(max_length=DOCUMENTS_MAX)]


class Deleted(BaseModel):
    """The answer to ``DELETE /v1/documents/{id}``."""

    id: str
    status: str


def upsert_body_schema() -> dict[str, Any]:
    """The OpenAPI description of the body of an upsert."""
    document = DocumentBody.model_json_schema()
    whole = UpsertBody.model_json_schema()
    whole["properties"]["documents"]["items"] = document
    whole.pop("$defs")
    lines = {"type": "string", "description": "one document as a JSON object a line"}
    content = {"application/json": {"schema": whole}, NDJSON: {"schema": lines}}
    return {"required": True, "content": content}


def delete_body_schema() -> dict[str, Any]:
    """The OpenAPI description of the body of a delete."""
    return {
        "required": True,
        "content": {"application/json": {"schema": DeleteBody.model_json_schema()}},
    }
