"""The format of an index on the disk: what each file holds, what it is called, and since when.

Version 2.1. ``shard_worker/format_version.py`` compares versions; everything else is said here.

Definitions
    row         a document as it was once stored in a shard. Rows are numbered from 0, no number is
                used twice, and their codes and texts never change; an upsert is a new row and a
                dead old one.
    generation  the rows between two compactions. A compaction copies the living rows, numbers them
                anew, and makes the next generation; store, bits and references name theirs.
    version     which of two writes of one id is the later one: a hybrid logical clock (clock.py).
    tombstone   what is left of a deleted id: its version and when that was.
    salted      a CRC32C mixed with the number of its row, block or key: a value in the wrong place
                does not pass.

Files of an index
    manifest.json   what was fixed when it was built (cluster/manifest.py); sealed
    complete.json   that its build has ended; rejects.jsonl what was left out of it
    shard-NNNNN/    one folder for each shard

Files of a shard
    shard.json          the identity of the shard, and the folder of its current store. The one
                        file that is ever replaced and not derived: replacing it *is* the switch to
                        a new generation, and to a new version of the format
    shard.lock          locked by the one process that has the shard open, whose pid it holds
    store-NNNNN/        one generation (five digits or more); a name is never used for another one
        data.mdb        LMDB 0.9, the only truth: the databases below
        lock.mdb        LMDB's readers; means nothing once no process has the shard open
        blocks.pages    where in data.mdb each block of codes lies: a hint (block_reader: blocks.py)
        bits-lists.bits the lists of a new generation, until they are moved to their place
    bits-NNNNN.bits     derived: bits of 2^20 rows, each names its generation (index.py)
    bits-lists.bits     derived: bits grouped into lists (lists.py)
    bits-lists.json     derived: how many lists a search visits (tuning.py)
    bits-first.json     derived: how many rows are compared by all of their bits (tuning.py)
    *.<32 hex>.partial  a file while it is written; left by a killed process, removed at a start

A folder of a store that shard.json does not name is what a killed compaction left, or a generation
that was replaced and may still be read for ``generations.RETIRED_S``. It is removed when it is
closed, else at the next start, once the current store was opened.

Databases of data.mdb
    codes       block number -> packed rows of the block: int8 code + salted CRC32C each
    tail        row          -> the same of one row, those that do not fill a block yet; then, since
                                2.0, its version, 8 bytes, and the salted CRC32C of that
    documents   row          -> salted CRC32C + zstd(JSON [id, title, text, metadata, position])
    ids         hash of id   -> the row that holds the document (more on a collision)
    dead        row          -> "": replaced or deleted rows. Since 2.0, of a deleted one: version,
                                milliseconds since 1970, salted CRC32C (deletions.py)
    versions    block number -> since 2.0: salted CRC32C + the versions of its rows (versions.py)
    tombstones  hash of id   -> since 2.0: salted CRC32C + deleted ids of this hash, whose row is
                                gone or never was (tombstones.py)
    fields      (first row, rows, number) -> since 2.1, derived: salted CRC32C + a block of the
                                field index: number 0 is the catalog of a segment, others are the
                                columns of its fields (fields/column.py)
    meta        name         -> CRC32C + JSON: "identity", "counters", since 2.0 "format", since
                                2.1 "fields": up to which row the field index goes

Numbers in keys are 8 bytes, big-endian; in values little-endian. A row has no version (0) where it
was stored in format 1, or where its version is damaged: any write is newer.

Reserved for later minor versions; no other code may use these names
    field_rows          row -> values, if filters ever need them
    terms, postings     the text index: term -> frequency, (term, block) -> rows

Rules for what is added
    minor   a program leaves alone what a newer minor version has added: counters, entries of
            "meta", facts in shard.json. A compaction copies them. It does not copy databases that
            it does not know: each must be derived from the rows, and say in "meta" of which
            generation it is and up to which row it goes, for older programs write past it.
    major   anything that an older program would misread. It is refused (FormatMismatch) before a
            byte is written. A program reads the major before its own, too.
    upgrade a compaction writes the current format, whatever it reads: ``bitsift upgrade`` is a
            compaction that is done also where no row is dead. Until then a store stays in its
            format, and takes writes in it: an older program can open it again. Only new files of
            JSON are in the current one; those that it shares with a shard in format 1 are derived.

History
    1     v0.1.0: one data file, store/data.mdb, renamed over by each compaction (store.next/).
          Counters are a closed set: any other is refused
    2.0   versions, tombstones; counters are an open set; a folder for each generation
    2.1   fields. A store in 2.0 gets this database where it is, and says 2.0 until a compaction

Limits
    rows of a generation    2^32 in lists, else 2^40 (references)
    rows of a block         what fits in 32 pages of 4 KiB (packing.rows_per_block)
    id                      8,192 bytes
    document                1 GiB of JSON
    tombstones of a shard   1,000,000 and 256 MiB; then the oldest are forgotten. Deletions that
                            lie with their dead rows are not among them
    data file               1 TiB
    shards of an index      4,096
"""

from __future__ import annotations

from bitsift.shard_worker.format_version import FORMAT_1, Format

_DATABASES_1 = ("codes", "tail", "documents", "ids", "dead", "meta")
DATABASES = (*_DATABASES_1, "versions", "tombstones")
"""Of the current format, but for "fields", which a store gets when its first segment is written."""
RESERVED = ("field_rows", "terms", "postings")
META = "meta"
IDENTITY, COUNTERS, FORMAT, FIELDS = b"identity", b"counters", b"format", b"fields"
"""The keys of "meta" that this program knows; the field index's database is called as its key."""


def databases_of(version: Format) -> tuple[str, ...]:
    """The databases that a store in format ``version`` has."""
    return _DATABASES_1 if version.major == FORMAT_1.major else DATABASES
