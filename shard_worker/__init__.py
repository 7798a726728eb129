"""The data plane: one partition of the index on one machine.

It owns the codes, the store on disk, the bits in RAM and the funnel that joins them. It refuses
to know of models, HTTP or other shards: no torch, no web framework, no cluster.

    shard.py        Shard: all of it together, in plain Python; actor.py the thin Ray wrapper
    types.py        the vocabulary at the borders: Query, Candidates, Document, ShardIdentity
    operations.py   what can be done to documents
    codes.py        fp32 -> int8 -> bits, and the scores computed from each
    clock.py        versions of documents that only grow
    deadline.py     when an answer is due, and whether anyone waits
    layout.py       names and identity files of a shard directory; writing aside and renaming
    format_version.py  which formats are read
    generation.py   a store and its bits, whose row numbers belong together; generations.py the
                    current one, and earlier ones that may still be read
    opening.py      a shard directory becomes a generation in RAM
    group_commit.py what several threads write at once is one transaction
    housekeeping.py training, compaction, snapshots of the bits
    compaction.py   the rows that are not deleted, copied into the next generation; leftovers.py
                    removes old ones

    store/          LMDB, the only truth: what is written, in one transaction each; store/format.py
                    says what every file and database holds, since when, and how it may grow
    bits/           the bits in RAM: segments and lists, scans of them, snapshots
    native/         inner loops in C, where a compiler was there
    fields/         the field index: which rows pass a filter
    search/         from all rows to the few that are read; priorities; calls in progress
    wire/           queries, candidates, documents and writes as versioned messages
    maintenance/    verify, repair, backup

Invariants: a row's codes and text never change once committed (an upsert is a new row and a dead
old one); the bits are always the signs of the decoded int8 codes, so they can be rebuilt from the
store; whatever is acknowledged is in the store.
"""

if __name__ != "bitsift.shard_worker":  # a second copy of every class: no isinstance would hold
    raise ImportError("import bitsift.shard_worker: shard_worker is no name of its own")
