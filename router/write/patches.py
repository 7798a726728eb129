"""Changes of metadata: the text is not encoded again, and its code stays as it is, byte by byte.

A document is read, and written whole with the condition that it is still in that version: to
replicas, compactions and backups it is a write like any other. Where somebody else was faster it is
read again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from bitsift.checked import reasons
from bitsift.errors import (
    BitsiftError,
    FormatMismatch,
    InvalidRequest,
    NotFound,
    RequestOutcome,
    ShardUnavailable,
)
from bitsift.options import VECTOR
from bitsift.router.http.documents_schema import (
    DOCUMENT_BYTES_MAX,
    DOCUMENT_PARTS_MAX,
    PatchBody,
    RequestTooLarge,
)
from bitsift.router.json_scan import has_more_parts
from bitsift.router.write.call_token import CallToken
from bitsift.router.write.conditions import read_version
from bitsift.router.write.document_rules import (
    RefusedDocument,
    metadata_text,
    without_surrogates,
)
from bitsift.router.write.shard_writes import ShardWrites
from bitsift.router.write.verdicts import Said, Verdict, spread
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.operations import Operation, Outcome, Upsert
from bitsift.shard_worker.types import FIELDS, Document, Found, Unread, Wanted
from bitsift.write_status import WriteStatus

DOCUMENTS_AT_ONCE = 256
"""What is read, and then written, at once."""
READ_BYTES = 5 << 20
"""Of these what a shard sends at once: the largest document fits."""
ATTEMPTS_MAX = 8
"""How often a document is read that others write meanwhile."""
_WANTED = Wanted(FIELDS | {VECTOR}, READ_BYTES)


class Writes(Protocol):
    """Of a WriteService."""

    shards: ShardWrites

    async def write(
        self,
        ids: Sequence[str],
        places: Sequence[int],
        operation: Callable[[Sequence[int]], Operation],
        token: CallToken,
    ) -> list[tuple[list[int], Outcome]]: ...


def read_patch(body: bytes) -> PatchBody:
    """What the JSON ``body`` asks for. Raises InvalidRequest, RequestTooLarge."""
    if has_more_parts(body, DOCUMENT_PARTS_MAX):
        said = f"body: over {DOCUMENT_PARTS_MAX:,} strings, commas and brackets; send several calls"
        raise RequestTooLarge(said)
    try:
        asked = PatchBody.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        whole = [one | {"loc": one["loc"] or ("body",)} for one in errors]
        raise InvalidRequest(reasons(whole, tuple(PatchBody.model_fields))) from error
    if asked.if_version is not None:
        if len(asked.ids) != 1:
            said = f"if_version: is of one document, and there are {len(asked.ids)} ids"
            raise InvalidRequest(said)
        try:
            read_version(asked.if_version)
        except RefusedDocument as error:
            raise InvalidRequest(str(error)) from error
    return asked


def merged(target: Any, patch: Any) -> Any:
    """``target`` changed by ``patch``, as RFC 7386 says: null takes a field away, an object is
    merged into what is there, anything else takes its place.
    """
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def is_same(one: Any, other: Any) -> bool:
    """Whether two JSON values are: to Python true is 1, and 1.0 too."""
    return _sorted(one) == _sorted(other)


def _sorted(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # orjson refuses integers over 64 bits


class Patching:
    """One call. Lives in one event loop."""

    def __init__(self, writes: Writes, asked: PatchBody, token: CallToken) -> None:
        self._writes = writes
        self._asked = asked
        self._token = token
        self._patch = without_surrogates(asked.metadata)
        self._version = NO_VERSION if asked.if_version is None else int(asked.if_version)
        self._verdicts = dict[str, Verdict]()
        self._conflicts = list[str]()

    async def done(self) -> list[Verdict]:
        """What became of each of the ids, in order; one that is there twice is changed once."""
        left = list(dict.fromkeys(self._asked.ids))
        for _ in range(ATTEMPTS_MAX):
            self._conflicts, waiting = [], deque(left)
            while waiting:
                await self._some(waiting)
            left = self._conflicts
            if not left:
                break
        said = f"others wrote the document {ATTEMPTS_MAX} times in between; try again"
        error = ShardUnavailable(said).with_outcome(RequestOutcome.NOT_DONE)
        self._verdicts |= dict.fromkeys(left, error)
        return [self._verdicts[name] for name in self._asked.ids]

    async def _some(self, waiting: deque[str]) -> None:
        """The first that wait; those that did not fit wait again."""
        some = [waiting.popleft() for _ in range(min(DOCUMENTS_AT_ONCE, len(waiting)))]
        found = await self._writes.shards.stored(some, _WANTED)
        waiting.extendleft(name for name in reversed(some) if isinstance(found[name], Unread))
        changed = list[tuple[Document, str]]()
        for name, it in found.items():
            if not isinstance(it, Unread) and (new := self._changed(name, it)) is not None:
                changed.append(new)
        await self._write(changed)

    def _changed(self, name: str, found: Found) -> tuple[Document, str] | None:
        """A document and the text of its new metadata; None where nothing is to be written."""
        if isinstance(found, NotFound):
            status = WriteStatus.CONFLICT if self._version else WriteStatus.MISSING
            self._verdicts[name] = Said(status)
            return None
        if isinstance(found, BitsiftError):
            self._verdicts[name] = found.with_outcome(RequestOutcome.NOT_DONE)
            return None
        assert isinstance(found, Document), found
        if found.version == NO_VERSION:
            said = "the store is in format 1, which keeps no versions: run bitsift upgrade first"
            self._verdicts[name] = FormatMismatch(said)
        elif self._version not in (NO_VERSION, found.version):
            self._verdicts[name] = Said(WriteStatus.CONFLICT, found.version)
        elif is_same(metadata := merged(found.metadata, self._patch), found.metadata):
            self._verdicts[name] = Said(WriteStatus.UNCHANGED, found.version)
        else:
            try:
                return found, _text(found, metadata)
            except RefusedDocument as error:
                self._verdicts[name] = InvalidRequest(str(error))
        return None

    async def _write(self, changed: Sequence[tuple[Document, str]]) -> None:
        def upsert(places: Sequence[int]) -> Upsert:
            some = [changed[place] for place in places]
            return Upsert(
                ids=[it.id for it, _ in some],
                titles=[it.title for it, _ in some],
                texts=[it.text for it, _ in some],
                metadata=[metadata for _, metadata in some],
                positions=[it.position for it, _ in some],
                codes=np.stack([np.frombuffer(it.code, np.int8) for it, _ in some]),
                expected=[it.version for it, _ in some],
            )

        ids = [it.id for it, _ in changed]
        for places, outcome in await self._writes.write(ids, range(len(ids)), upsert, self._token):
            for place, verdict in spread(places, outcome).items():
                is_late = isinstance(verdict, Said) and verdict.status is WriteStatus.CONFLICT
                if is_late and not self._version:
                    self._conflicts.append(ids[place])
                else:
                    self._verdicts[ids[place]] = verdict


def _text(document: Document, metadata: dict[str, Any]) -> str:
    """``metadata`` as it is stored. Raises RefusedDocument."""
    text = metadata_text(metadata)
    size = sum(len(part.encode()) for part in (document.title, document.text, text))
    if size > DOCUMENT_BYTES_MAX:
        raise RefusedDocument(
            f"title, text and metadata would take {size:,} bytes, at most {DOCUMENT_BYTES_MAX:,} "
            "are allowed"
        )
    return text
