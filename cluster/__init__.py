"""The control plane: build an index, start the processes that serve it, and the command line.

It owns what happens once per index or once per process start. It refuses to be on the path of a
query: that is the router's and the shards'.

    source_plan.py     what is to be read: files, formats, fields, in a fixed order
    sources.py         finding and probing the files; readers.py and its streams read them
    datasource.py      the readers as a Ray Data source, and the one-pass survey
    manifest.py        INDEX/manifest.json and INDEX/complete.json
    ingest.py          build_index: survey, calibrate, encode, route, store
    worker.py          one member of the pool that encodes batches and sends them to shards
    launch.py          start and stop Ray, the shard actors and the router
    local.py           an index answered in this very process, without Ray
    demo.py            the reverse dictionary
    cli.py             the command `bitsift`

Invariants: the manifest is written before the first row and never again; an index without
complete.json is not served; a build that is run again goes on where it was.
"""
