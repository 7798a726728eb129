"""The control plane: build an index, start the processes that serve it, and the command line.

It owns what happens once per index or once per process start. It refuses to be on the path of a
query: that is the router's and the shards'.

    manifest.py     INDEX/manifest.json and INDEX/complete.json
    demo.py         the reverse dictionary
    interrupts.py   how Ctrl-C and SIGTERM end a command

    sources/        from files to tables of documents: files.py finds them and plan.py fixes their
                    order, probe.py looks into them, readers.py streams them; matrices.py and
                    synthetic.py are sources that are nothing but vectors
    ingest/         a build: options.py what it can be told, calibrate.py the first look at the
                    sources, build.py its steps, load.py and worker.py from records to rows of
                    shards, datasource.py the sources as Ray Data sees them; create.py an index
                    without documents
    serving/        a served index: launch.py starts and stops Ray's actors, supervisor.py and
                    watch.py heal them, local.py searches an index in this process, without Ray,
                    key_store.py edits a key file
    collection/     several indexes on one server: folders.py finds them, collection.py starts,
                    creates and deletes them, aliases.py keeps what aliases mean
    fleet/          an index on many nodes: spec.py what it should be, observed.py what is seen of
                    it, decide.py what follows, enact.py does it; an agent.py on each node
    maintenance/    verify.py, backup.py, restore.py, export.py, compact.py and upgrade.py of a
                    stopped index; aside.py writes under a temporary name, removal.py removes
    evaluation/     evaluate.py measures every stage against exact fp32, on a test collection
                    (judged.py); doctor.py says which settings suit a model
    bench/          run.py measures this machine, large.py a large index, against bars.py; plan.py
                    estimates what an index needs
    cli/            the command `bitsift`: main.py and a module for each group of commands

Invariants: the manifest is written before the first row and never again; until complete.json
exists, only the process building the index may serve it; a build that is run again resumes.
"""

if __name__ != "bitsift.cluster":  # a second copy of every class: no isinstance would hold
    raise ImportError("import bitsift.cluster: cluster is no name of its own")
