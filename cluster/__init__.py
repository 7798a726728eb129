"""The control plane: build an index, start the processes that serve it, and the command line.

It owns what happens once per index or once per process start. It refuses to be on the path of a
query: that is the router's and the shards'.

Building and serving
    source_plan.py     what is to be read: files, formats, fields, in a fixed order
    sources.py         finding and probing the files; readers.py and its streams read them
    matrices.py        sources that are nothing but vectors; synthetic.py makes such vectors up
    datasource.py      the readers as a Ray Data source, and the one-pass survey
    manifest.py        INDEX/manifest.json and INDEX/complete.json
    calibrate.py       the first look at the sources: their count, and the calibration
    ingest.py          build_index: prepare, load, say that it has ended
    load.py            the sources' records streamed into open shards
    worker.py          what turns batches of records into rows of shards
    launch.py          start and stop Ray, the shard actors and the router
    local.py           an index answered in this very process, without Ray
    demo.py            the reverse dictionary

Looking after an index (verify, backup, restore, export, compact)
    verify.py          every shard checked in a process of its own
    backup.py          a stopped index into a repository; restore.py back, proven and renamed
    export.py          Parquet for readers that know nothing of Bitsift
    compact.py         dead rows dropped; opened.py opens shards for all of these, aside.py renames

Judging (bitsift eval, bitsift doctor)
    judged.py          a BEIR folder; relevance.py scores what was found in it
    scratch.py         real shards in a temporary folder; stages.py takes the funnel apart
    evaluate.py        every stage against exact fp32; evaluate_plot.py draws it
    doctor.py          which settings suit a model; doctor_sample.py what it looks at

Measuring (bitsift bench, bitsift plan)
    bench.py           groups of figures beside their bars (bars.py); bench_*.py one group each
    bench_large.py     a large index as it is built, trained, served: memory.py, disk.py, timing.py
    plan.py            what N documents need, from such a run
    machine.py         the machine a result was measured on

    cli.py, cli_*.py   the command `bitsift`

Invariants: the manifest is written before the first row and never again; an index without
complete.json is served by none but who fills it; a build that is run again goes on where it was.
"""
