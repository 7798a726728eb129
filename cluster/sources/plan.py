"""What is to be read: the fields wanted, the files found, and their fixed order.

A `SourcePlan` is plain frozen data. It is made once, by `cluster.sources.plan_sources`, and is
pickled to the machines that read, so everything a reader needs to know about a file is in its
`SourceFile`; no reader detects anything a second time.

Invariants
* `plan.files[i].index == i`, and files are sorted by path, so a plan over the same files is the
  same plan.
* `position = file.index << POSITION_BITS | record number` names a record for ever: records are
  numbered from 0 in file order and broken ones are counted too.
* Either every file carries vectors, all of `plan.expected_width`, or none does.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

from bitsift.cluster.sources.dialect import Dialect
from bitsift.cluster.sources.stored_vectors import FLOATS, Stored

POSITION_BITS = 40  # 2**40 records in a file, 2**23 files in a plan: a position fits an int64
FILES_MAX = 1 << (63 - POSITION_BITS)
REPORTED_MAX = 10_000
"""Files that are passed over in the report of a build."""
LISTED_MAX = 20
"""Files that are passed over and shown one by one; of the others, how many for which reason."""
NAMES = {
    "id": ("_id", "id", "doc_id", "docid"),
    "text": ("text", "body", "content", "passage", "abstract"),
    "title": ("title", "name", "heading"),
}
"""The usual names of fields by their part in a document, the first ones preferred."""


class Format(StrEnum):
    """How the records of a file are laid out."""

    JSON_LINES = "json lines"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    ARROW = "arrow"
    VECTORS = "matrix"
    SQLITE = "sqlite"
    SYNTHETIC = "synthetic"
    TEXT = "text"
    MARKDOWN = "markdown"

    @property
    def is_whole_document(self) -> bool:
        """True where the whole file is one document."""
        return self in (Format.TEXT, Format.MARKDOWN)

    @property
    def is_json(self) -> bool:
        """True where a record is an object of JSON: no two need have the same fields."""
        return self in (Format.JSON, Format.JSON_LINES)

    @property
    def is_table(self) -> bool:
        """True where values lie in columns of Arrow's types."""
        return self in (Format.PARQUET, Format.ARROW)

    @property
    def is_matrix(self) -> bool:
        """True where a document is nothing but a row of vectors, and any rows can be read."""
        return self in (Format.VECTORS, Format.SYNTHETIC)


def usual_dialect(kind: Format) -> Dialect:
    """That of a CSV or TSV file into which nobody has looked: between tabs, a quote is a letter."""
    return Dialect("\t", quote="") if kind is Format.TSV else Dialect()


class Compression(StrEnum):
    """How the bytes of a file are packed; the value is the file name's ending."""

    NONE = ""
    GZIP = ".gz"
    ZSTANDARD = ".zst"
    BZIP2 = ".bz2"
    XZ = ".xz"


@dataclass(frozen=True)
class Fields:
    """Which field of a record plays which part; None = detect it (a vector is never detected).

    In a `SourceFile` the fields are resolved: None there means that the file has no such field.
    """

    id: str | None = None
    text: str | None = None
    title: str | None = None
    vector: str | None = None

    def named(self) -> Iterator[tuple[str, str]]:
        """Yields (role, field name) for every field that is named."""
        for role in ("id", "text", "title", "vector"):
            name = getattr(self, role)
            if name is not None:
                yield role, name


@dataclass(frozen=True)
class SourceFile:
    """One file of a plan.

    `path` is absolute, or a URL. `name` is what documents without an id of their own are called
    after: the path below the folder that was given. `records` is known for Parquet and matrices.
    `row_groups` are the row counts of a Parquet file's row groups. `vectors` is the npy file
    whose row i belongs to record i. `memory_bytes` estimates the file's size as Arrow tables.
    `partitions` are the fields that the folders above it name, as in `lang=en/year=2020/`.
    `stored` says how its vectors are. `is_export`: written by `bitsift export`.
    `encoding` "" is found by the first bytes; `dialect` is that of a text table. `note` is a line
    for people: what was found out that they may want otherwise.
    """

    index: int
    path: str
    name: str
    format: Format
    compression: Compression
    size_bytes: int
    fields: Fields = Fields()
    records: int | None = None
    row_groups: tuple[int, ...] = ()
    vectors: str | None = None
    width: int | None = None
    memory_bytes: int = 0
    partitions: tuple[tuple[str, str | int | None], ...] = ()
    stored: Stored = FLOATS
    is_export: bool = False
    encoding: str = ""
    dialect: Dialect | None = None
    note: str = ""

    @property
    def carries_vectors(self) -> bool:
        """True where the vectors come with the file and no model is needed."""
        from_matrix = self.format.is_matrix or self.vectors is not None
        return from_matrix or self.fields.vector is not None

    @property
    def reading(self) -> tuple[object, ...]:
        """How a text is read, where that is not the usual way of its format."""
        parts = (self.encoding, "utf-8", ""), (self.dialect, usual_dialect(self.format), None)
        return tuple(found for found, *none in parts if found not in none)

    @property
    def first_position(self) -> int:
        """The position of record 0."""
        return self.index << POSITION_BITS


@dataclass(frozen=True)
class PassedOver:
    """A file or folder below a source that is not read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class SourcePlan:
    """All files of one indexing run, in their fixed order.

    `fields` is what the caller asked for; `files[i].fields` is what was found in each file.
    `expected_width` is the dimension of the precomputed embeddings, or None if a model encodes the
    texts. `passed_over` is what lies below the sources and is not read, sorted by path.
    `stored` is what the caller said of the vectors. `notes` are lines for people.
    """

    files: tuple[SourceFile, ...]
    fields: Fields
    expected_width: int | None = None
    passed_over: tuple[PassedOver, ...] = ()
    stored: Stored = FLOATS
    notes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, as compressed as they are."""
        return sum(file.size_bytes for file in self.files)

    @property
    def memory_bytes(self) -> int:
        """An estimate of the size of all documents as Arrow tables."""
        return sum(file.memory_bytes for file in self.files)

    @property
    def passed_over_listed(self) -> tuple[dict[str, str], ...]:
        """For a report in JSON: path and reason of at most REPORTED_MAX."""
        return tuple(asdict(item) for item in self.passed_over[:REPORTED_MAX])

    @property
    def passed_over_said(self) -> str:
        """For people: what is passed over, and why; "" for nothing. At most LISTED_MAX lines."""
        if not self.passed_over:
            return ""
        lines = [f"passed over: {len(self.passed_over):,}"]
        lines += [f"  {item.path}: {item.reason}" for item in self.passed_over[:LISTED_MAX]]
        rest = Counter(item.reason for item in self.passed_over[LISTED_MAX:])
        lines += [f"  and {count:,} others: {reason}" for reason, count in rest.most_common()]
        return "\n".join(lines)

    @property
    def fingerprint(self) -> str:
        """32 hex digits that change when a file is added, removed, renamed or resized.

        Two plans with one fingerprint give the same position to the same record, as long as no
        file was rewritten at the same size.
        """
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            parts: tuple[object, ...] = (
                *(file.path, file.size_bytes, file.fields, file.vectors, file.width),
                *file.reading,
            )
            if file.partitions:
                parts += (file.partitions,)
            digest.update(repr(parts).encode("utf-8", "surrogateescape"))
        if self.stored != FLOATS:
            digest.update(repr(self.stored).encode())
        return digest.hexdigest()
