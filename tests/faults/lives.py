"""What a shard is asked to do while a system call fails, and what must be there afterwards.

Every document's vector follows from its text, so an answer of another row's bits, code or text is
seen. Widths are chosen so that some thirty rows fill a block.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitsift.cluster.maintenance.restore import restore
from bitsift.cluster.manifest import BuildReport, Manifest, write_complete, write_manifest
from bitsift.errors import NotFound
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.maintenance.backup import Backup, copy_shard
from bitsift.shard_worker.operations import Delete, Insert, Upsert, statuses
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import (
    GIVEN_VECTOR_POSITION,
    Document,
    Query,
    ShardIdentity,
    ShardSettings,
)
from tests.writing import written

DIMENSION = 4096
IDENTITY = ShardIdentity(str(uuid.UUID(int=11)), 0, 1, DIMENSION, DIMENSION)
SETTINGS = ShardSettings(exact_budget_ms=0.0)
"""``auto`` is then ``approximate``."""
BACKUP, RESTORED = "backup", "restored"
Texts = dict[str, str]
Change = dict[str, str | None]
"""Text by id; None where the document is deleted."""


def vectors_of(texts: Iterable[str]) -> np.ndarray:
    """The unit vectors float32 (n, DIMENSION) that stand for ``texts``."""
    rows = [
        np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIMENSION, np.float32)
        for text in texts
    ]
    return normalize(np.array(rows), DIMENSION)


CALIBRATION = Calibration.from_sample(vectors_of(str(i) for i in range(50)), DIMENSION)


def documents(texts: Texts, kind: type[Insert] | type[Upsert] = Upsert) -> Insert | Upsert:
    blank, said = [""] * len(texts), list(texts.values())
    codes = CALIBRATION.quantize(vectors_of(said))[0]
    positions = [GIVEN_VECTOR_POSITION] * len(texts)
    return kind(list(texts), blank, said, blank, positions, codes)


def named(names: Iterable[str], what: str = "first") -> Texts:
    return {name: f"the {what} text of {name}" for name in names}


def open_shard(index: Path) -> Shard:
    return Shard(shard_folder(index, 0), CALIBRATION, IDENTITY, SETTINGS)


# --- what is done ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Something that a shard of the index in a folder does, and the ``change`` that it makes."""

    name: str
    run: Callable[[Shard, Path], object]
    change: Change = field(default_factory=dict)


_NEW = named(["n0", "n1", "n2", "n3"])
_OTHER = named(["4", "5"], "second")
_LOADED = named([f"l{i}" for i in range(6)])


def _write_group(shard: Shard, _: Path) -> None:
    statuses(shard.write([Delete(["6", "7"]), documents(_NEW), documents(_OTHER)]))


def _load(shard: Shard, _: Path) -> None:
    written(shard, documents(named(["4"]) | _LOADED, Insert))


def _merge_ids(shard: Shard, _: Path) -> None:
    shard._current.store.merge_ids(shard._writes.lock)


def _bury(shard: Shard, _: Path) -> None:
    """Give up two rows, as a repair from other replicas does; the first document lies in row 0."""
    shard.bury(shard._current.store.generation, [9, 10])


def back_up(shard: Shard, folder: Path) -> None:
    dest = str(folder / BACKUP)
    Backup(dest, IDENTITY.index_uuid).finish([copy_shard(shard, dest)])


def restored(_: Shard | None, folder: Path) -> None:
    restore(str(folder / BACKUP), folder / RESTORED)


WRITES = (
    Task("upsert", lambda shard, _: written(shard, documents(_OTHER | _NEW)), {**_OTHER, **_NEW}),
    Task("delete", lambda shard, _: written(shard, Delete(["6", "7", "8"])), dict.fromkeys("678")),
    Task("group of writes", _write_group, {**_NEW, **_OTHER, "6": None, "7": None}),
    Task("load", _load, {**_LOADED}),
    Task("burial", _bury, {"9": None, "10": None}),
    Task("merge of ids", _merge_ids),
)
MAINTENANCE = (
    Task("snapshot of bits", lambda shard, _: shard.save_bits()),
    Task("training", lambda shard, _: shard.train()),
    Task("compaction", lambda shard, _: shard.compact()),
    Task("backup", back_up),
    Task("restore", restored),
)
OPENING = Task("opening", lambda _shard, _folder: None)
"""The failing call comes while the shard is opened; then it is opened again, as ShardActor does."""
TASKS = (*WRITES, *MAINTENANCE, OPENING)


# --- the index it is done to -----------------------------------------------------------------


def build_index(folder: Path) -> Texts:
    """An index with lists, dead rows, a tail, ids in RAM, and an earlier backup; its texts.

    The next six rows fill a block.
    """
    index = folder / "index"
    index.mkdir(parents=True)
    created = "2026-01-01T00:00:00+00:00"
    manifest = Manifest(IDENTITY.index_uuid, "x", created, 1, CALIBRATION, None, {}, 0)
    write_manifest(index, manifest)
    Shard.create(shard_folder(index, 0), IDENTITY)
    write_complete(index, BuildReport(0, 0, 0, 1.0, 0, 0, 0, 0, (0,)))
    shard = open_shard(index)
    block_rows = shard._current.store.reader.block_rows
    texts = named(map(str, range(block_rows - 8)))
    written(shard, documents(texts))
    shard.train()
    shard.save_bits()
    back_up(shard, folder)
    replaced = named(["0", "1"], "second")
    written(shard, documents(replaced))
    written(shard, Delete(["2", "3"]))
    late = named(["late"])
    written(shard, documents(late))
    assert shard.status().rows == block_rows - 5
    shard.close()
    texts |= {**replaced, **late}
    return {name: text for name, text in texts.items() if name not in ("2", "3")}


# --- what must be there ----------------------------------------------------------------------


def missing(shard: Shard, texts: Texts, doubtful: Change) -> list[str]:
    """What is wrong: documents of ``texts`` that are not found, by id and in every mode, and
    answers that nobody stored. Those of ``doubtful`` may be there or not.
    """
    certain = {name: text for name, text in texts.items() if name not in doubtful}
    wrong = [f"by id: {name}" for name, text in certain.items() if _text(shard, name) != text]
    allowed = {*texts.items(), *((name, text) for name, text in doubtful.items() if text)}
    vectors = vectors_of(certain.values())
    for mode in Mode:
        wrong += _missing_in(shard, mode, certain, vectors, allowed)
    return wrong


def _missing_in(
    shard: Shard, mode: Mode, certain: Texts, vectors: np.ndarray, allowed: set[tuple[str, str]]
) -> list[str]:
    queries = [
        Query(SearchOptions(vector=vector, candidates=4, top_k=1, mode=mode)) for vector in vectors
    ]
    wrong = []
    for (name, text), found in zip(certain.items(), shard.search(queries), strict=True):
        if found.corrupt:
            wrong.append(f"{mode}: {found.corrupt} damaged rows")
        held = shard.documents(found.origin, found.rows.tolist())
        pairs = [(it.id, it.text) for it in held if isinstance(it, Document)]
        if (name, text) not in pairs:
            wrong.append(f"{mode}: {name} is not found")
        wrong += [f"{mode}: {pair} is false" for pair in pairs if pair not in allowed]
    return wrong


def halved(shard: Shard, texts: Texts, doubtful: Change) -> tuple[bool, list[str]]:
    """Whether ``doubtful`` was done, and what is wrong: it is there whole or not at all."""
    there = {name: _text(shard, name) for name in doubtful}
    done, undone = dict(doubtful), {name: texts.get(name) for name in doubtful}
    wrong = [] if there in (done, undone) else [f"halved: {sorted(doubtful)}"]
    return there == done, wrong


def after(texts: Texts, change: Change) -> Texts:
    together: dict[str, Any] = {**texts, **change}
    return {name: text for name, text in together.items() if text is not None}


def _text(shard: Shard, name: str) -> str | None:
    try:
        return shard.document(name).text
    except NotFound:
        return None
