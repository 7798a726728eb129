"""The query plane: one query at a time, from text to answer; and live writes.

It owns the encoder, the fan-out to the shards, the global ranking, the HTTP gateway, the writer and
the web page. It refuses to know how an index is built.

    actor.py        RouterActor: service and gateway in one Ray process and event loop
    service.py      SearchService: encode, fan out, merge, fetch texts -> Answer
    indexes.py      the indexes of one server, by names and aliases
    description.py  what the router knows of its index: model, calibration, shards
    batching.py     natural batching: take all that waits when the worker is free, no timers
    merge.py        one order of all gathered candidates
    hits.py         the documents of the winners
    answer_bytes.py, admission.py   the memory of answers and of writes in progress
    loop_lag.py     how late the event loop is; turns.py, collector.py and heap.py keep it prompt
    json_scan.py    where the parts of a JSON text begin and end, without parsing it

    http/           the gateway (gateway.py) and its limits (protocol.py, shell.py, bodies.py); who
                    may ask for what (access.py, gate.py, authorization.py, keys.py); the routes
                    (search_routes.py, document_routes.py, admin.py); errors (problems.py)
    model/          encoder.py: text -> fp32 with sentence-transformers; compiled.py runs it in
                    OpenVINO; query_vectors.py caches the vectors of queries
    shards/         fanout.py asks every shard at once under one deadline; placement.py says which
                    shards own an id, and where their replicas are; replica_set.py is several
                    replicas of a shard seen as one link; ray_calls.py is the one place where Ray's
                    exceptions are translated
    shadow/         shadow.py asks a sample of the searches again; comparison.py is what they
                    missed, estimates.py what that says of all
    write/          service.py: check, encode, quantize, send; incoming.py reads documents from
                    bytes, document_rules.py says what one may be, writer.py is the Ray actor
    web/            the page at /

Invariants: every request has one absolute deadline on the monotonic clock; a shard that does not
answer is named in the coverage, never hidden; the answer does not depend on the order in which
shards answer. A write is acknowledged after its shard's synced commit, and nothing here sends one
twice.
"""

if __name__ != "bitsift.router":  # a second copy of every class: no isinstance would hold
    raise ImportError("import bitsift.router: router is no name of its own")
