"""Documents of one shard by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bitsift.errors import NotFound
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.search.funnel import Funnel
from bitsift.shard_worker.store.replay import living_versions
from bitsift.shard_worker.types import Document, Found, Wanted


def stored(
    generation: Generation, funnel: Funnel, ids: Sequence[str], wanted: Wanted
) -> list[Found]:
    """What is ``wanted`` of the documents with these ``ids``, with their versions; NotFound in the
    place of one that there is not, else as ``RowReader.documents`` gives it.
    """
    store = generation.store
    rows = store.find_all(ids)
    living = [row for row in rows if row is not None]
    found = dict(zip(living, funnel.documents(store, living, wanted), strict=True))
    versions = dict(zip(living, living_versions(store, living), strict=True))
    return [
        missing(name) if row is None else _with_version(found[row], versions[row])
        for name, row in zip(ids, rows, strict=True)
    ]


def missing(document_id: str) -> NotFound:
    """The error that says so."""
    return NotFound(f"there is no document with id {document_id!r}")


def _with_version(found: Found, version: int) -> Found:
    return replace(found, version=version) if isinstance(found, Document) else found
