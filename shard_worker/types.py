"""Frozen columnar types that cross the borders between router and shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

CANDIDATES_FIXED = 40
"""What a shard reads for a query on average, and exactly where it decides nothing itself."""
CANDIDATES_MAX = 1_000
NPROBE_MAX = 1 << 20
POOL_FACTOR = 10
"""The Hamming stage keeps this many times ``candidates`` (DESIGN §3: 400 for 40)."""

LIVE_POSITION = -1
"""``Documents.positions`` of a document that no bulk load brought; the model made its vector."""
GIVEN_VECTOR_POSITION = -2
"""The same of a document that came with a vector of its own, into an index that has a model."""


class Mode(StrEnum):
    """How a shard finds its candidates.

    ``auto`` scans all bits while that fits the latency budget, else it probes the nearest lists;
    ``exact`` always scans; ``approximate`` probes lists where the shard has them; ``exhaustive``
    scores every int8 row.
    """

    AUTO = "auto"
    EXACT = "exact"
    APPROXIMATE = "approximate"
    EXHAUSTIVE = "exhaustive"


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One question to one shard.

    ``vector`` is float32 of shape (width,): L2-normalised, padded to the index's code width.
    ``candidates`` None lets the shard decide by the query's scores how many rows it reads
    (adaptive.py), so that the best ``top_k`` are among them. ``nprobe`` is how many lists an
    approximate search visits; None takes the shard's own figure. ``with_documents`` asks for the
    documents of the shard's own best ``top_k`` along with the candidates.
    """

    vector: NDArray[np.float32]
    candidates: int | None = None
    mode: Mode = Mode.AUTO
    nprobe: int | None = None
    top_k: int = 10
    with_documents: bool = False

    def __post_init__(self) -> None:
        assert self.vector.ndim == 1, self.vector.shape
        assert self.vector.dtype == np.float32, self.vector.dtype
        assert self.candidates is None or 1 <= self.candidates <= CANDIDATES_MAX, self.candidates
        assert self.nprobe is None or 1 <= self.nprobe <= NPROBE_MAX, self.nprobe
        assert 1 <= self.top_k <= CANDIDATES_MAX, self.top_k


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How a shard searches, and what it does by itself.

    ``auto`` scans while the scan is measured to take at most ``exact_budget_ms``. A shard of
    ``train_rows_min`` rows or more groups its bits into lists by itself. It is compacted when more
    than ``compact_share`` of its rows are dead. Its data file grows to at most ``store_bytes_max``.
    """

    exact_budget_ms: float = 50.0
    train_rows_min: int = 2_000_000
    compact_share: float = 0.25
    store_bytes_max: int = 1 << 40


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The rows of one shard that one query should consider, best estimate first.

    ``rows`` int64 (n,), references that only this shard can read (generation.py);
    ``distances`` int32 (n,), Hamming distance in bits;
    ``hamming_ranks`` int32 (n,), 1-based rank in the Hamming stage of this shard;
    ``estimates`` float32 (n,), the asymmetric score (fp32 query against ±1 code, unscaled);
    ``codes`` int8 (n, width); ``corrupt`` counts rows left out because their checksum failed.
    In ``exhaustive`` mode no bit is read: distances and ranks are 0, estimates are the scores.
    ``documents`` holds, by row, those that the query asked for and that could be read.
    """

    shard: int
    rows: NDArray[np.int64]
    distances: NDArray[np.int32]
    hamming_ranks: NDArray[np.int32]
    estimates: NDArray[np.float32]
    codes: NDArray[np.int8]
    corrupt: int = 0
    documents: Mapping[int, Document] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.rows)
        assert self.distances.shape == self.hamming_ranks.shape == self.estimates.shape == (n,)
        assert self.codes.ndim == 2, self.codes.shape
        assert len(self.codes) == n, self.codes.shape

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Document:
    """One stored document. ``metadata`` is a JSON object; ``position`` where a load read it."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    position: int = LIVE_POSITION


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """A batch of documents to store, column by column, with their int8 codes.

    ``codes`` int8 (n, width). ``metadata`` holds JSON object texts, ``""`` for none. ``positions``
    are stable numbers of the records in a bulk load (``LIVE_POSITION`` otherwise): the same
    record delivered twice has the same position, another record with the same id has not.
    With ``replace`` they take the place of the documents that have their ids, of several with one
    id the last; without, the first one stays.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    metadata: Sequence[str]
    positions: Sequence[int]
    codes: NDArray[np.int8]
    replace: bool = False

    def __post_init__(self) -> None:
        n = len(self.ids)
        lengths = {len(self.titles), len(self.texts), len(self.metadata), len(self.positions)}
        assert lengths <= {n}, (n, lengths)
        assert self.codes.ndim == 2, self.codes.shape
        assert len(self.codes) == n, self.codes.shape
        assert self.codes.dtype == np.int8, self.codes.dtype

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Deletes:
    """Ids whose documents are to be deleted."""

    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)


Operation = Documents | Deletes
"""What a shard writes: all of one operation or nothing of it."""


class Outcome(StrEnum):
    """What became of one document of a batch, or of one id to delete."""

    STORED = "stored"
    REPLACED = "replaced"
    """Stored in the place of another content of this id."""
    SAME = "same"
    """This very content was there already; nothing changed."""
    DUPLICATE = "duplicate"
    """Another record holds this id and was not to be replaced; nothing changed."""
    DELETED = "deleted"
    MISSING = "missing"
    """There is no document to delete; nothing changed."""


@dataclass(frozen=True, slots=True)
class ShardIdentity:
    """Which shard of which index a directory is, and the widths its rows have.

    ``dimension`` is the model's, ``width`` the same padded to a multiple of 8 (bytes per row).
    """

    index_uuid: str
    shard: int
    shards: int
    dimension: int
    width: int


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """What a shard says of itself. ``bits_bytes`` is RAM, ``disk_bytes`` what its files occupy.

    ``lists`` is 0 while the shard has no approximate index; ``clustered_rows`` are in lists, the
    rest is scanned always; ``nprobe`` is the default, measured when the lists were made;
    ``exact_scan_ms`` what one exact scan takes. ``writes_stopped`` says why the shard takes no
    writes, None while it does; ``generation`` counts its compactions.
    """

    shard: int
    state: str
    reason: str | None = None
    rows: int = 0
    documents: int = 0
    bits_bytes: int = 0
    disk_bytes: int = 0
    corrupt_rows_seen: int = 0
    lists: int = 0
    clustered_rows: int = 0
    training: bool = False
    nprobe: int = 0
    exact_scan_ms: float = 0.0
    generation: int = 0
    compacting: bool = False
    writes_stopped: str | None = None
    resident_bytes: int = 0
    node: str = ""
    pid: int = 0
