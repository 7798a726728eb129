"""A small shard of texts, for tests of what is written to it."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.operations import Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import (
    GIVEN_VECTOR_POSITION,
    Document,
    Query,
    ShardIdentity,
    ShardSettings,
)

DIMENSION = 32
IDENTITY = ShardIdentity(str(uuid.UUID(int=5)), 0, 1, DIMENSION, DIMENSION)


def unit_vectors(rows: int, seed: int = 0) -> np.ndarray:
    """float32 (rows, DIMENSION)."""
    random = np.random.default_rng(seed)
    return normalize(random.standard_normal((rows, DIMENSION)).astype(np.float32), DIMENSION)


CALIBRATION = Calibration.from_sample(unit_vectors(2_000, 99), DIMENSION)


def vector_of(text: str) -> np.ndarray:
    """The unit vector float32 (DIMENSION,) that stands for ``text`` here."""
    return np.asarray(unit_vectors(1, zlib.crc32(text.encode()))[0])


def batch(
    ids: Sequence[str], texts: Sequence[str], *, position: int = GIVEN_VECTOR_POSITION
) -> Upsert:
    """Documents to upsert, each with the vector of its text."""
    vectors = np.stack([vector_of(text) for text in texts])
    blank = [""] * len(ids)
    codes = CALIBRATION.quantize(vectors)[0]
    return Upsert(ids, blank, texts, blank, [position] * len(ids), codes)


def new_shard(folder: Path, settings: ShardSettings | None = None) -> Shard:
    Shard.create(folder, IDENTITY)
    return open_shard(folder, settings)


def open_shard(folder: Path, settings: ShardSettings | None = None) -> Shard:
    return Shard(folder, CALIBRATION, IDENTITY, settings or ShardSettings())


def best_of(shard: Shard, text: str, mode: Mode = Mode.EXACT) -> Document:
    """The document whose vector is nearest to that of ``text``, through the whole funnel."""
    vector = vector_of(text)
    (found,) = shard.search([Query(SearchOptions(vector=vector, mode=mode))])
    scores = CALIBRATION.scores(vector, found.codes)
    (document,) = shard.documents(found.origin, [int(found.rows[np.argmax(scores)])])
    assert isinstance(document, Document), document
    return document


def contents(shard: Shard) -> dict[str, str]:
    """All that is there: text by id, by way of a search that returns every row."""
    (found,) = shard.search(
        [Query(SearchOptions(vector=unit_vectors(1)[0], candidates=1_000, mode=Mode.EXHAUSTIVE))]
    )
    assert found.corrupt == 0
    documents = shard.documents(found.origin, found.rows.tolist())
    by_id = {d.id: d.text for d in documents if isinstance(d, Document)}
    assert len(by_id) == len(documents), "one id twice"
    return by_id


def flip_a_bit_where(data: Path, needle: bytes) -> None:
    """Damage every copy of ``needle`` in the file ``data``: freed pages may hold an earlier one."""
    found = bytearray(data.read_bytes())
    assert found.count(needle), "the fault found nothing to damage"
    start = -1
    while (start := found.find(needle, start + 1)) >= 0:
        found[start + len(needle) // 2] ^= 1
    data.write_bytes(bytes(found))
