"""What became of the documents of a call, as it is answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from bitsift.errors import BitsiftError, InvalidRequest
from bitsift.router.write.call_token import CallToken
from bitsift.router.write.conditions import conflict_with
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.operations import Outcome, versions_of
from bitsift.write_results import WriteError, WriteResult
from bitsift.write_status import WriteStatus


class Said(NamedTuple):
    """What a shard says of one document: what became of it, and the version that is there then; 0
    where none is, or it is not known.
    """

    status: WriteStatus
    version: int = NO_VERSION


Verdict = Said | BitsiftError
"""What became of one document: InvalidRequest where the caller must change it."""


def spread(places: Sequence[int], outcome: Outcome) -> dict[int, Verdict]:
    """A shard's statuses by the places of what it was sent; an error is that of all of them."""
    if isinstance(outcome, BitsiftError):
        return dict.fromkeys(places, outcome)
    said = map(Said, outcome, versions_of(outcome))
    return dict(zip(places, said, strict=True))


def result(key: str | None, verdict: Verdict) -> WriteResult:
    """The result of the document with the id ``key``."""
    if isinstance(verdict, Said):
        refused = verdict.status is WriteStatus.CONFLICT
        error = WriteError.of(conflict_with(verdict.version)) if refused else None
        version = str(verdict.version) if verdict.version > NO_VERSION else None
        return WriteResult(key, verdict.status, error, version)
    rejected = isinstance(verdict, InvalidRequest)
    status = WriteStatus.REJECTED if rejected else WriteStatus.FAILED
    return WriteResult(key, status, WriteError.of(verdict))


def counts(results: Sequence[WriteResult], statuses: Sequence[str]) -> dict[str, int]:
    """How many there are of each status."""
    counted = Counter(result.status.value for result in results)
    return {status: counted[status] for status in statuses}


def answer(
    ids: Sequence[str | None],
    verdicts: Sequence[Verdict],
    statuses: Sequence[str],
    token: CallToken,
) -> bytes:
    """The JSON of all results. Raises the error that befell every one of them, if it is one and
    its outcome is the same for all.
    """
    results = [result(key, verdict) for key, verdict in zip(ids, verdicts, strict=True)]
    body: dict[str, Any] = {"results": results, **counts(results, statuses), "token": token.text}
    if results and body["failed"] == len(results):
        errors = [verdict for verdict in verdicts if isinstance(verdict, BitsiftError)]
        (error, *others) = {(type(error), error.outcome): error for error in errors}.values()
        if not others:
            raise error
    return orjson.dumps(body)
