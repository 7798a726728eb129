"""The data plane: one partition of the index on one machine.

It owns the codes, the store on disk, the bits in RAM and the funnel that joins them. It refuses
to know of models, HTTP or other shards: no torch, no web framework, no cluster.

    types.py    the vocabulary at the borders: Query, Candidates, Documents, ShardIdentity
    errors.py   every error of the project, as one tree
    codes.py    fp32 -> int8 -> bits, and the scores computed from each
    layout.py   names and identity files of a shard directory; writing aside and renaming
    store.py    LMDB, the only truth: what is written, in one transaction each
    held.py     what it holds of each row; admission.py what becomes of an upsert or a delete
    packing.py  how codes and documents lie in its values; ids.py which row holds an id
    blocks.py   single codes read without the block around them, cold ones all at once
    datafile.py LMDB's file from the outside: whole? room? tree.py: do its trees lead to all keys?
    hamming.py  FAISS's Hamming kernels over bits in memory of our own
    index.py    the bits in RAM: lists, then segments that grow, and their snapshot files
    alive.py    which rows of a part of them are alive
    lists.py    the bits grouped into lists for approximate search, in one mapped file
    clustering.py  how rows are grouped: k-means in the Hamming space
    tuning.py   how many lists to visit and what an exact scan costs, both measured
    adaptive.py how many int8 codes a query needs, from its asymmetric scores
    funnel.py   from all rows to the few that are read
    generation.py  a store and its bits, whose row numbers belong together
    compaction.py  the living rows copied into the next generation
    group_commit.py  what several threads write at once is one transaction
    shard.py    Shard: all of it together, in plain Python
    wire.py     queries and candidates as bytes between router and shard
    deadline.py a point in time that crosses processes
    actor.py    ShardActor: the thin Ray wrapper round one Shard
    verify.py   all that must agree in a stopped shard; repair.py makes anew what is derived
    backup.py   a running shard copied in blocks into a repository.py

Invariants: a row's codes and text never change once committed (an upsert is a new row and a dead
old one); the bits are always the signs of the decoded int8 codes, so they can be rebuilt from the
store; whatever is acknowledged is in the store.
"""
