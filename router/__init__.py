"""The query plane: one question at a time, from text to answer; and live writes beside it.

It owns the encoder, the fan-out to the shards, the global rescoring, the HTTP gateway, the writer,
the client and the web page. It refuses to know how an index is built or where shards are placed.

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
    document_routes.py  the routes that write and read documents; documents_schema.py their limits,
                    admission.py how many bytes of them are under way at once
    document_stream.py  the answer to a stream of documents; line_blocks.py cuts it into lines
    document_rules.py   what a document may be, in bulk loads too; incoming.py reads it from bytes
    writes.py       WriteService: check, ask what is held, encode, quantize, send ->
                    write_results.py
    document_vectors.py  the model of live documents; shard_writes.py what waits for a shard
    writer.py       WriterActor: the WriteService in a process of its own, one beside each router
    actor.py        RouterActor: service and gateway in one Ray process and event loop
    client.py       Client and AsyncClient for programs; loads neither ray nor faiss nor torch;
                    sending.py makes the bodies of their writes
    web/            the page at /

Invariants: every request has one absolute deadline on the monotonic clock; a shard that does not
answer is named in the coverage, never hidden; the answer does not depend on the order in which
shards answer. A write is acknowledged after its shard's synced commit, and nothing here sends one
twice.
"""
