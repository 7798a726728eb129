"""What `bitsift cluster` prints of a cluster's status."""

from __future__ import annotations

import time
from typing import Any

from rich.markup import escape
from rich.table import Table

from bitsift.cluster.cli.console import err, out, print_json, standing_cells

_STUCK = (
    "[red]shard {shard} takes no writes:[/red] its replicas on {nodes} do not answer, and those "
    "that do are no majority. Start one of these nodes; if they are lost for good, bitsift cluster "
    "accept-loss {shard} goes on without them, and says what that may lose."
)


def resharding(found: dict[str, Any]) -> str:
    """How far it is, in percent of the pass."""
    share = 100 * found["rows"] / max(1, found["total_rows"])
    why = found["failure"] or next(iter(found["errors"]), None)
    said = f"reshard to {found['shards']} shards: {found['stage']}, {share:.0f} %"
    return f"{said} ({why})" if why else said


def rolling(found: dict[str, Any]) -> str:
    """How many have been started again with changed settings."""
    waits = f", waits for {found['waits_for']}" if found["waits_for"] else ""
    return f"rolling: {found['done']} of {found['total']} have the spec's settings{waits}"


def show(status: dict[str, Any], json: bool) -> None:
    """Nodes, shards, routers, and what was not done."""
    if json:
        print_json(status)
        return
    if status["index"] is None:
        out.print(f"no index yet: {status['failure']}", markup=False)
        return
    name, uuid = status["index"]["name"], status["index"]["uuid"]
    out.print(f"index {name} ({uuid}), table {status['epoch']}", markup=False)
    _show_nodes(status)
    _show_shards(status)
    if status["rolling"] is not None:
        out.print(rolling(status["rolling"]), markup=False, soft_wrap=True)
    if status["reshard"] is not None:
        out.print(resharding(status["reshard"]), markup=False, soft_wrap=True)
    for router in status["routers"]:
        where = (router["url"] or "") + ("" if router["is_well"] else " starting")
        out.print(f"router on {router['node']}: {where.strip()}", markup=False)
    for what, why in status["failures"].items():
        err.print(f"[yellow]not done:[/yellow] {escape(what)}: {escape(why)}", soft_wrap=True)
    if status["failure"] is not None:
        err.print(f"[yellow]the controller:[/yellow] {escape(status['failure'])}", soft_wrap=True)


def _show_nodes(status: dict[str, Any]) -> None:
    table = Table("node", "zone", "address", "state")
    for node in status["nodes"]:
        lost = node["lost_s"]
        state = "here" if lost is None else f"lost {lost:.0f} s ago"
        state += ", drained" if node["is_drained"] else ""
        state += "" if node["has_data"] else ", for routers alone"
        state += f": {node['reason']}" if node["reason"] else ""
        table.add_row(node["node"], node["zone"], node["address"] or "", escape(state))
    out.print(table)


def _show_shards(status: dict[str, Any]) -> None:
    table = Table(
        "shard", "node", "state", "answers", "lag", "digest", "writes", "copied", "reason"
    )
    for shard in status["shards"]:
        for replica in shard["replicas"]:
            copy, reason = replica["copy"], replica["reason"]
            copied, sync = "", replica["sync"]
            reason = reason or sync["reason"]
            if copy is not None:
                copied = f"{copy['done_bytes'] / 1e6:,.0f} of {copy['total_bytes'] / 1e6:,.0f} MB"
                reason = copy["error"] or reason
            table.add_row(
                str(shard["shard"]),
                replica["node"],
                replica["state"],
                "yes" if replica["node"] in shard["answering"] else "no",
                *standing_cells(replica),
                _synced(sync),
                copied,
                escape(reason or ""),
            )
        if shard["lacking"]:
            table.add_row(str(shard["shard"]), "", f"lacks {shard['lacking']}", *[""] * 6)
    out.print(table)
    for shard in status["shards"]:
        if shard["lost_majority"]:
            number, nodes = shard["shard"], ", ".join(shard["lost_majority"])
            err.print(_STUCK.format(shard=number, nodes=nodes), soft_wrap=True)


def _synced(sync: dict[str, Any]) -> str:
    """Whether a replica has what was acknowledged."""
    said = [str(sync["state"])]
    if sync["since"] is not None and sync["state"] == "behind":
        said[0] += f" since {time.strftime('%H:%M:%S', time.localtime(sync['since']))}"
    if sync["state"] != "in step" and sync["missed"] is not None:
        said.append(f"{sync['missed']:,} documents missed")
    if sync["sent"]:
        said.append(f"{sync['sent']:,} of them sent")
    return ", ".join(said)
