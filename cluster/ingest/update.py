"""update_index: a finished index is made to say what the sources say now.

Only what changed is encoded: the shards are asked for each record whether they have its content
(title, text, metadata), or, of own vectors, its code. One pass reads the ids first: of several
records with one id the last counts, and what no record has any more can be deleted. All of it can
be killed and run again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bitsift.cluster.ingest.build import quiet
from bitsift.cluster.ingest.chunking import Chunking
from bitsift.cluster.ingest.chunks import FIELD
from bitsift.cluster.ingest.datasource import Digest, digest_sources
from bitsift.cluster.ingest.load import Load, answers
from bitsift.cluster.ingest.options import BuildOptions, checked_build
from bitsift.cluster.ingest.progress import IndexStage, OnProgress
from bitsift.cluster.manifest import Manifest, open_manifest
from bitsift.cluster.serving.launch import open_shards, wait_open
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import SourcePlan
from bitsift.errors import InvalidRequest
from bitsift.router.shards.ray_calls import Callee, rows_of
from bitsift.router.shards.remote import RemoteLink
from bitsift.shard_worker.codes import Transform
from bitsift.shard_worker.layout import REJECTS_FILE
from bitsift.shard_worker.operations import Delete, statuses
from bitsift.shard_worker.search.listing import KEY_MAX, Listing
from bitsift.shard_worker.types import Wanted
from bitsift.shard_worker.wire.search import statuses_of
from bitsift.write_status import WriteStatus

LISTED_AT_ONCE = 1_000
_IDS_SCHEMA = pa.schema([("key", pa.binary(16)), ("position", pa.int64())])


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What an update did. ``unchanged`` were there already; ``deleted`` had no record any more, or
    were passages that a shorter text has not. Other names are those of BuildReport.
    """

    documents: int
    created: int
    updated: int
    unchanged: int
    deleted: int
    rejects: int
    merged: int
    replaced: int
    cut: int
    max_tokens: int | None
    seconds: float
    disk_bytes: int
    kept_for_rejects: bool
    """Nothing was deleted, because bad records may be of documents that would have been."""


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """What the first pass found: ``keys`` S16 (n,), ascending, of the ids of good records, the
    positions of records that later ones replace, and how many ``records`` there are.
    """

    keys: NDArray[np.bytes_]
    passed_by: NDArray[np.int64]
    records: int


def update_index(
    sources: Sequence[str | Path],
    index: str | Path,
    options: BuildOptions = BuildOptions(),  # noqa: B008 (frozen)
    *,
    delete_missing: bool = False,
    ray_address: str | None = None,
    on_progress: OnProgress = quiet,
) -> UpdateReport:
    """Store what is new or changed in ``sources``; delete what they lack with ``delete_missing``.

    The index must be finished and served by nobody. Of ``options`` the fields, ``max_rejects``,
    ``encoders`` and ``backend`` count; the index keeps its model, prompts, shards and passages.
    Raises InvalidRequest for sources or options that do not fit, and after more than
    ``options.max_rejects`` bad records; NotFound, Unavailable, StorageFull.
    """
    begun_s, index = time.monotonic(), Path(index).absolute()
    options = checked_build(options)
    manifest, _ = open_manifest(index)
    _check_options(options, manifest)
    plan = plan_sources(
        [str(source) for source in sources],
        options.fields,
        options.vectors,
        options.stored,
        layout=options.layout,
    )
    for note in plan.notes:
        on_progress(IndexStage("survey", 0, None, 0, note))
    _check_sources(plan, manifest)
    with ray_cluster(ray_address), open_shards(index, manifest) as actors:
        wait_open(actors)
        on_progress(IndexStage("survey", 0, None, 0))
        ids = _ids_of(plan)
        if not len(ids.keys):
            raise InvalidRequest(f"no usable document among {ids.records} records: nothing is done")
        said = manifest.request.get("chunk")
        load = Load(
            plan,
            None if plan.expected_width is not None else manifest.encoder(options.backend),
            options.encoders,
            options.max_rejects,
            index / REJECTS_FILE,
            None if said is None else Chunking.parse(said),
            ids.passed_by,
        )
        counts = load.run(manifest, actors, on_progress, ids.records)
        deletes = delete_missing and not counts.rejected
        deleted = 0
        if deletes or load.chunking is not None:
            seen = ids.keys if deletes else None
            deleted = asyncio.run(_delete(actors, seen, is_chunked=load.chunking is not None))
        answers([actor.save_bits.remote() for actor in actors])
        standing = statuses_of(answers([actor.status.remote() for actor in actors]))
    return UpdateReport(
        documents=sum(status.documents for status in standing),
        created=counts.created,
        updated=counts.updated,
        unchanged=counts.unchanged,
        deleted=deleted,
        rejects=counts.rejected,
        merged=counts.merged,
        replaced=counts.replaced,
        cut=counts.cut,
        max_tokens=None if manifest.model is None else manifest.model.max_tokens,
        seconds=round(time.monotonic() - begun_s, 3),
        disk_bytes=sum(status.disk_bytes for status in standing),
        kept_for_rejects=delete_missing and not deletes,
    )


def _check_options(options: BuildOptions, manifest: Manifest) -> None:
    """Raises InvalidRequest for what an update cannot change."""
    model = manifest.model
    held = {
        "model": None if model is None else model.name,
        "query_prompt": None if model is None else model.query_prompt,
        "document_prompt": None if model is None else model.document_prompt,
        "shards": manifest.shards,
        "index_fields": tuple(manifest.index_fields),
        "chunk": manifest.request.get("chunk"),
        "transform": manifest.calibration.transform,
    }
    for name in held:
        said = getattr(options, name)
        if said not in (None, (), Transform.NONE, held[name]):
            flag = f"--{name.replace('_', '-')}"
            raise InvalidRequest(
                f"an update keeps what the index was built with, and {flag} was {held[name]!r}: "
                f"leave it out, or build another index"
            )


def _check_sources(plan: SourcePlan, manifest: Manifest) -> None:
    width, dimension = plan.expected_width, manifest.calibration.dimension
    if width is None and manifest.model is None:
        raise InvalidRequest(
            "this index has precomputed embeddings and no model: the sources need vectors, too"
        )
    if width not in (None, dimension):
        raise InvalidRequest(f"vectors of {width} dimensions; those of the index have {dimension}")
    if width is not None and manifest.request.get("chunk"):
        raise InvalidRequest("this index has passages, and the sources have vectors of whole texts")


# --- the first pass ------------------------------------------------------------------------------


def _ids_of(plan: SourcePlan) -> Ids:
    tables: Iterable[Any] = digest_sources(
        plan, Digest("Ids", _IDS_SCHEMA, _ids_task)
    ).iter_batches(batch_size=None, batch_format="pyarrow")
    keys, positions, records = [np.empty(0, "S16")], [np.empty(0, np.int64)], 0
    for table in rows_of(tables, Callee("a reading process")):
        good = table.filter(table["key"].is_valid())
        keys.append(np.array(good["key"].to_pylist(), dtype="S16"))
        positions.append(good["position"].to_numpy())
        records += table.num_rows
    return settled(np.concatenate(keys), np.concatenate(positions), records)


def settled(keys: NDArray[np.bytes_], positions: NDArray[np.int64], records: int) -> Ids:
    """Of several records with one key that of the greatest position counts."""
    order = np.lexsort((positions, keys))
    keys, positions = keys[order], positions[order]
    is_last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    return Ids(keys[is_last], np.sort(positions[~is_last]), records)


def _ids_task(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    for table in tables:
        rejects = table["reject"].to_pylist()
        found = zip(table["id"].to_pylist(), rejects, strict=True)
        keys = [None if reject is not None else key_of(name) for name, reject in found]
        columns = [pa.array(keys, pa.binary(16)), table["position"].combine_chunks()]
        yield pa.Table.from_arrays(columns, schema=_IDS_SCHEMA)


def key_of(document_id: str) -> bytes:
    """16 bytes that stand for an id; 16 million ids have two alike with a chance of 1e-24."""
    return hashlib.blake2b(document_id.encode(), digest_size=16).digest()


# --- what is no longer there ---------------------------------------------------------------------


async def _delete(
    actors: Sequence[Any], seen: NDArray[np.bytes_] | None, *, is_chunked: bool
) -> int:
    """Delete documents whose id is not ``seen`` (None: those stay), and passages beyond the end of
    their text; how many that were.
    """
    links = [RemoteLink(number, actor) for number, actor in enumerate(actors)]
    ends: dict[bytes, int] = {}
    if is_chunked:
        for link in links:
            async for name, metadata in _documents(link, is_chunked=True):
                about = _passage(name, metadata)
                if about is not None and about[1] == 1:
                    ends[key_of(about[0])] = about[2]
    deleted = 0
    for link in links:
        gone = [
            name
            async for name, metadata in _documents(link, is_chunked=is_chunked)
            if is_gone(name, _passage(name, metadata), seen, ends)
        ]
        for start in range(0, len(gone), LISTED_AT_ONCE):
            (found,) = statuses(await link.write([Delete(gone[start : start + LISTED_AT_ONCE])]))
            deleted += found.count(WriteStatus.DELETED)
    return deleted


def is_gone(
    name: str,
    passage: tuple[str, int, int] | None,
    seen: NDArray[np.bytes_] | None,
    ends: dict[bytes, int],
) -> bool:
    """Whether no record has the document ``name`` any more, or its ``passage`` (document, number,
    of how many) lies beyond the end of the text, which has as many as its first one says.
    """
    whole = key_of(name if passage is None else passage[0])
    if seen is not None:
        place = int(np.searchsorted(seen, np.array(whole, dtype="S16")))
        if place == len(seen) or seen[place] != np.array(whole, dtype="S16"):
            return True
    return passage is not None and passage[1] > ends.get(whole, passage[1])


async def _documents(
    link: RemoteLink, *, is_chunked: bool
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """(id, metadata) of all documents of a shard; no metadata where they are not needed."""
    after, wanted = -1, Wanted(frozenset({"metadata"} if is_chunked else ()))
    while after < KEY_MAX:
        listed = await link.listed(Listing(after=after, limit=LISTED_AT_ONCE, wanted=wanted))
        for document in listed.documents:
            yield document.id, document.metadata
        after = listed.upto


def _passage(name: str, metadata: dict[str, Any]) -> tuple[str, int, int] | None:
    """What a passage of ours says of itself; None for another document."""
    about = metadata.get(FIELD)
    if not isinstance(about, dict):
        return None
    whole, number, of = (about.get(field) for field in ("document", "number", "of"))
    if name != f"{whole}#{number}" or not isinstance(number, int) or not isinstance(of, int):
        return None
    return str(whole), number, of
