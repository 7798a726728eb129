"""Frozen columnar types that cross the borders between router and shards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import BitsiftError
from bitsift.filters.forms import tree_of
from bitsift.filters.tree import Node
from bitsift.options import DOCUMENT_FIELDS, VECTOR, SearchOptions
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.logs import Form
from bitsift.write_token import NOTHING, Reached, read_token

CANDIDATES_FIXED = 40
"""What a shard reads for a query on average, and exactly where it decides nothing itself."""
SPARE_HITS_MIN = 20
POOL_FACTOR = 10
"""The Hamming stage keeps this many times ``candidates`` (400 for 40)."""

LIVE_POSITION = -1
"""``Documents.positions`` of a document that no bulk load brought; the model made its vector."""
GIVEN_VECTOR_POSITION = -2
"""The same of a document that came with a vector of its own, into an index that has a model."""

FIELDS = frozenset(DOCUMENT_FIELDS)
"""What a document holds besides its id."""
NUMBER_BYTES = 17
"""What a number of a vector takes in an answer at most: nine digits, sign, exponent and comma."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much of documents is wanted: which ``fields``, and ``bytes_max`` of them together.

    Bytes are those of the stored JSON, uncompressed, and of the decoded ``vector`` where it is
    among the fields: about what they take in an answer.
    """

    fields: frozenset[str] = FIELDS
    bytes_max: int = 1 << 62

    @property
    def with_code(self) -> bool:
        return VECTOR in self.fields


EVERYTHING = Wanted()


@dataclass(frozen=True, slots=True)
class Unread:
    """In the place of a document that did not fit: it takes ``size_bytes``, as Wanted counts."""

    size_bytes: int


@dataclass(slots=True, eq=False)
class Message:
    """A packed query, and when it was packed on the monotonic clock."""

    packed: bytes = b""
    packed_s: float = -math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One search as a shard is asked for it: its ``options``, with the vector to compare with.

    ``documents_bytes_max`` asks for the documents of the shard's own best hits along with the
    candidates, as far as they fit into so many bytes: of its best ``documents_max``, None for as
    many as there are hits. Work on it stops at its ``deadline``. ``message`` is for whoever asks
    several shards: what one was sent alone is sent to the next as it is.
    """

    options: SearchOptions
    documents_bytes_max: int = 0
    deadline: Deadline = field(default_factory=Deadline)
    documents_max: int | None = None
    message: Message | None = None

    def __post_init__(self) -> None:
        assert isinstance(self.options.vector, np.ndarray), type(self.options.vector)
        assert self.vector.ndim == 1, self.vector.shape
        assert self.vector.dtype == np.float32, self.vector.dtype

    @property
    def filter(self) -> Node | None:
        """Which documents are searched; None for all."""
        text = self.options.filter
        return None if text is None else tree_of(str(text))

    @property
    def vector(self) -> NDArray[np.float32]:
        """float32 (width,): L2-normalised, padded to the index's code width."""
        return cast("NDArray[np.float32]", self.options.vector)

    def least(self, shard: int) -> Reached:
        """How far ``shard`` must be."""
        token = self.options.read_your_writes
        return NOTHING if token is None else read_token(token).reached.get(shard, NOTHING)

    @property
    def reads(self) -> int | None:
        """How many rows are read; None lets the shard decide by the scores (adaptive.py).

        One shard may hold all hits, so it is never fewer than those.
        """
        fixed = self.options.candidates
        return None if fixed is None else max(fixed, self.options.depth)

    @property
    def documents_due(self) -> int:
        """Of how many of its best hits a shard sends the documents along."""
        depth = self.options.depth
        return depth if self.documents_max is None else min(self.documents_max, depth)

    @property
    def hits_due(self) -> int:
        """How many rows are found for it at least, those that are excluded among them."""
        due = self.reads or max(CANDIDATES_FIXED, self.options.depth)
        return due + len(self.options.exclude)


def spare_hits(depth: int) -> int:
    """How many of its candidates a shard sends: more than ``depth``, in the place of hits whose
    documents turn out to be damaged.
    """
    return 2 * depth + SPARE_HITS_MIN


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How a shard searches, and what it does by itself.

    ``auto`` scans while the scan is measured to take at most ``exact_budget_ms``. A shard of
    ``train_rows_min`` rows or more groups its bits into lists by itself. It is compacted when more
    than ``compact_share`` of its rows are dead. Its data file grows to at most ``store_bytes_max``.
    What was deleted less than ``tombstone_grace_s`` ago is remembered through compactions. It
    takes searches on the first of ``search_ports`` that is free; 0 is any (search_server.py). Its
    log has lines of ``log_format``.
    """

    exact_budget_ms: float = 50.0
    train_rows_min: int = 2_000_000
    compact_share: float = 0.25
    store_bytes_max: int = 1 << 40
    tombstone_grace_s: float = 7 * 86_400.0
    search_ports: range = range(1)
    log_format: Form = "text"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where row numbers mean something: in one generation of one opened copy of a shard.

    ``replica`` (64 bits) is drawn whenever a copy is opened, and kept nowhere: however a folder is
    copied, restored or put in the place of another, no two that are open have the same.
    ``generation`` counts the compactions, each of which renumbers the rows.
    """

    replica: int
    generation: int


class Plan(StrEnum):
    """How a filtered search went (search/filtered.py)."""

    NONE = "none"
    DIRECT = "direct"
    GATHER = "gather"
    TEST = "test"
    SCAN = "scan"
    PROBE = "probe"
    EXHAUSTIVE = "exhaustive"


@dataclass(frozen=True, slots=True)
class FilterPlan:
    """How a shard applied a filter: ``matching`` living rows pass it, or may, where ``kind`` is
    ``test`` and not all documents in doubt were read: then ``least`` are known to.
    """

    kind: Plan
    matching: int
    least: int | None = None

    @property
    def passing(self) -> int:
        """How many pass at least."""
        return self.matching if self.least is None else self.least


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The rows of one shard that one query should consider, best estimate first.

    ``rows`` int64 (n,), row numbers of ``origin``;
    ``distances`` int32 (n,), Hamming distance in bits;
    ``hamming_ranks`` int32 (n,), 1-based rank in the Hamming stage of this shard;
    ``estimates`` float32 (n,), the asymmetric score (fp32 query against ±1 code, unscaled);
    ``scores`` float32 (n,), the decoded int8 score, which decides;
    ``codes`` int8 (n, width), in the shard only: they are not sent, then (n, 0);
    ``corrupt`` counts rows left out because their checksum failed.
    In ``exhaustive`` mode no bit is read: distances and ranks are 0, estimates are the scores.
    ``documents`` holds, by row, those that the query asked for and that could be read. ``plan`` is
    of its filter. ``rows_there`` rows, or some more, were there when it was searched for; None
    where the shard does not say.
    """

    shard: int
    origin: Origin
    rows: NDArray[np.int64]
    distances: NDArray[np.int32]
    hamming_ranks: NDArray[np.int32]
    estimates: NDArray[np.float32]
    scores: NDArray[np.float32]
    codes: NDArray[np.int8]
    corrupt: int = 0
    documents: Mapping[int, Document] = field(default_factory=dict)
    plan: FilterPlan | None = None
    rows_there: int | None = None

    def __post_init__(self) -> None:
        n = len(self.rows)
        assert self.distances.shape == self.hamming_ranks.shape == self.estimates.shape == (n,)
        assert self.scores.shape == (n,), self.scores.shape
        assert self.codes.ndim == 2, self.codes.shape
        assert len(self.codes) == n, self.codes.shape

    def __len__(self) -> int:
        return len(self.rows)

    def leading(self, count: int) -> Candidates:
        """Those that reach the score of the ``count``-th best, in the same order."""
        if len(self) <= count:
            return self
        lowest = np.partition(self.scores, len(self) - count)[len(self) - count]
        kept = np.flatnonzero(self.scores >= lowest)
        return replace(
            self,
            rows=self.rows[kept],
            distances=self.distances[kept],
            hamming_ranks=self.hamming_ranks[kept],
            estimates=self.estimates[kept],
            scores=self.scores[kept],
            codes=self.codes[kept],
        )


@dataclass(frozen=True, slots=True)
class Document:
    """One stored document. ``metadata`` is a JSON object; ``position`` where a load read it.

    ``size_bytes`` is what it takes as ``Wanted`` counts, 0 where it was not read from a store.
    ``code`` is its int8 code (width,), empty where the vector was not wanted. ``version`` (see
    clock.py) is 0 in the hits of a search, and where the store keeps none.
    """

    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    position: int = LIVE_POSITION
    size_bytes: int = field(default=0, compare=False)
    code: bytes = field(default=b"", compare=False, repr=False)
    version: int = field(default=0, compare=False)


Found = Document | Unread | BitsiftError
"""What stands in the place of a document that was asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """The documents of ``rows`` of one shard, row numbers of ``origin``, as it returned both."""

    origin: Origin
    rows: Sequence[int]
    wanted: Wanted = EVERYTHING
    deadline: Deadline = field(default_factory=Deadline)


@dataclass(frozen=True, slots=True)
class ShardIdentity:
    """Which shard of which index a directory is, and the widths its rows have.

    ``dimension`` is the model's, ``width`` the same padded to a multiple of 8 (bytes per row).
    ``index_fields`` are those that its field index has columns of, with what lies below them; ()
    is all.
    """

    index_uuid: str
    shard: int
    shards: int
    dimension: int
    width: int
    index_fields: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What every release says of a shard."""
        return {name: value for name, value in asdict(self).items() if name != "index_fields"}


@dataclass(frozen=True, slots=True)
class FieldFacts:
    """What the field index says of one field of metadata: ``rows`` have it, deleted ones that no
    compaction has dropped among them, with at least ``values`` distinct values of ``types``.
    Filters on it read documents where it is not ``indexed``.
    """

    rows: int
    values: int
    types: Sequence[str]
    indexed: bool


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """What a shard says of itself. ``bits_bytes`` is RAM, ``disk_bytes`` what its files occupy.

    ``lists`` is 0 while the shard has no approximate index; ``clustered_rows`` are in lists, the
    rest is scanned always; ``nprobe`` is the default, measured when the lists were made;
    ``exact_scan_ms`` what one exact scan takes; ``first_share`` the share of the rows that ``auto``
    compares by more than their first bits, 0 for all of them. ``writes_stopped`` says why the shard
    takes no writes, None while it does; ``generation`` counts its compactions, ``format`` is its
    files', ``version`` the newest of what was written. ``digest`` is of its documents and versions,
    "" where it is not known (own_digest.py). ``settings`` names those that its actor was started
    with, in a cluster. ``volume_bytes`` is the size of the file system that its files are on,
    ``volume_free_bytes`` what anyone may still write there. ``fields`` are those of metadata that
    the most rows have.
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
    format: str = ""
    resident_bytes: int = 0
    node: str = ""
    pid: int = 0
    version: int = 0
    digest: str = ""
    settings: str = ""
    fields: Mapping[str, FieldFacts] = field(default_factory=dict)
    volume_bytes: int = 0
    volume_free_bytes: int = 0
    first_share: float = 0.0
