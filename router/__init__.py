"""The query plane: one question at a time, from text to answer.

It owns the encoder, the fan-out to the shards, the global rescoring, the HTTP gateway, the client
and the web page. It refuses to know how an index is built or where shards are placed.

    answer.py       what a search returns: Hit, Coverage, Timings, Answer
    description.py  what the router is told of its index: model, calibration, shards
    models.py       ModelSpec: which model, which prompts, which revision
    encoder.py      text -> fp32 with sentence-transformers; compiled.py runs it in OpenVINO,
                    graph_cache.py keeps what was compiled
    query_vectors.py  the vectors of queries asked before
    batching.py     natural batching: take all that waits when the worker is free, no timers
    fanout.py       ask every shard at once under one deadline; failures become coverage
    merge.py        global rescoring of gathered candidates
    service.py      SearchService: encode, fan out, rescore, fetch texts -> Answer
    remote.py       a ShardActor seen as a shard; Ray's exceptions translated in one place
    schema.py       the request bodies of the HTTP interface
    gateway.py      the FastAPI application; problems.py its RFC 9457 error documents
    shell.py        the limit on bodies and the headers of every answer
    actor.py        RouterActor: service and gateway in one Ray process and event loop
    client.py       Client and AsyncClient for programs; loads neither ray nor faiss nor torch
    web/            the page at /

Invariants: every request has one absolute deadline on the monotonic clock; a shard that does not
answer is named in the coverage, never hidden; the answer does not depend on the order in which
shards answer.
"""
