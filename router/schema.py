"""Request bodies of the HTTP interface. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from router.answer import Answer
from router.service import (
    QUERY_CHARACTERS_MAX,
    TIMEOUT_DEFAULT_S,
    TIMEOUT_MAX_S,
    TOP_K_DEFAULT,
    TOP_K_MAX,
    Question,
)
from shard_worker.codes import DIMENSION_MAX
from shard_worker.types import CANDIDATES_MAX, NPROBE_MAX, Mode

QUERIES_MAX = 100
Text = Annotated[str, Field(min_length=1, max_length=QUERY_CHARACTERS_MAX)]
TopK = Annotated[int, Field(ge=1, le=TOP_K_MAX)]
Include = Literal["title", "text", "metadata"]


class SearchRequest(BaseModel):
    """One of ``query``, ``queries`` or ``vector``, and how to answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: Text | None = None
    queries: Annotated[list[Text], Field(min_length=1, max_length=QUERIES_MAX)] | None = None
    vector: Annotated[list[FiniteFloat], Field(max_length=DIMENSION_MAX)] | None = None
    top_k: TopK = TOP_K_DEFAULT
    candidates: Annotated[int, Field(ge=1, le=CANDIDATES_MAX)] | None = None
    mode: Annotated[Mode, Field(strict=False)] = Mode.AUTO
    nprobe: Annotated[int, Field(ge=1, le=NPROBE_MAX)] | None = None
    timeout_ms: Annotated[float, Field(gt=0, le=TIMEOUT_MAX_S * 1e3)] = TIMEOUT_DEFAULT_S * 1e3
    include: list[Include] = ["title", "text", "metadata"]
    explain: bool = False
    require_complete: bool = False

    @model_validator(mode="after")
    def _one_question(self) -> SearchRequest:
        given = [name for name in ("query", "queries", "vector") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of query, queries and vector, not {given or 'none'}"
            )
        return self

    def questions(self) -> list[Question]:
        """What the service is to answer. Raises InvalidRequest."""
        if self.vector is not None:
            return [self._question(None, np.array(self.vector, dtype=np.float64))]
        texts = self.queries if self.queries is not None else [self.query]
        return [self._question(text, None) for text in texts]

    def _question(self, text: str | None, vector: np.ndarray | None) -> Question:
        return Question(
            text=text,
            vector=vector,
            top_k=self.top_k,
            candidates=self.candidates,
            mode=self.mode,
            nprobe=self.nprobe,
            timeout_s=self.timeout_ms / 1e3,
            include=frozenset(self.include),
            explain=self.explain,
            require_complete=self.require_complete,
        )


async def read_search_request(http: Request) -> SearchRequest:
    """The checked body of a search; raises RequestValidationError.

    pydantic reads the bytes itself, in one pass: 38 us for a vector of 1,024 numbers. By way of
    Python's own ``json``, as FastAPI does, it takes 211 us.
    """
    body = await http.body()
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of another site may send text/plain unasked, not this
        reason = {"loc": ("body",), "msg": "the content type must be application/json"}
        raise RequestValidationError([reason])
    try:
        return SearchRequest.model_validate_json(body)
    except ValidationError as error:
        reasons = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**reason, "loc": ("body", *reason["loc"])} for reason in reasons]
        ) from error


def search_request_schema() -> dict[str, Any]:
    """The OpenAPI description of that body."""
    schema = SearchRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs")  # Mode, which GET names too: FastAPI puts it among the components
    return {"required": True, "content": {"application/json": {"schema": schema}}}


class Answers(BaseModel):
    """The answer to ``queries``: one result per query, in order."""

    results: list[Answer]


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
