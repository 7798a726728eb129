"""`bitsift cluster`: an index on many Ray nodes, with replicas."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bitsift.cluster.cli.cluster_status import resharding, rolling, show
from bitsift.cluster.cli.console import Json, err, out, print_json, say, until_stopped
from bitsift.cluster.cli.settings import configured, required_ray_address
from bitsift.config.sources import Loaded
from bitsift.errors import InvalidRequest, NotFound, Unavailable

POLL_S = 1.0
ASK_TIMEOUT_S = 60.0
START_TIMEOUT_S = 120.0
"""For the actor of the controller to start."""
DOWN_TIMEOUT_S = 120.0

_WARNING = (
    "[yellow]The replicas of shard {shard} on these nodes will be given up: {nodes}.[/yellow] "
    "Writes that were acknowledged by a majority with them, and are on none of the replicas that "
    "answer, are lost for good. If one of these nodes may come back, start it instead."
)

app = typer.Typer(
    help="An index on many Ray nodes, with replicas: docs/cluster.md.", no_args_is_help=True
)
Spec = Annotated[Path, typer.Argument(metavar="SPEC.toml", help="The spec of the cluster.")]
Shard = Annotated[int, typer.Argument(metavar="SHARD", help="The number of a shard.")]


@app.command()
@configured("ray")
def up(
    spec_file: Spec,
    loaded: Loaded,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when all copies answer, or at once.")
    ] = True,
    json: Json = False,
) -> None:
    """Serve an index on a running Ray cluster as SPEC.toml says. Run it again to change the spec:
    what runs with other settings is restarted, one at a time.

    What it starts goes on when this command ends: bitsift cluster down stops it.
    """
    from bitsift.cluster.fleet.spec import read_spec
    from bitsift.cluster.serving.configured import access_settings

    spec = read_spec(spec_file)
    access_settings(spec.access, spec.serve).check(spec.serve.host)
    with until_stopped("the cluster goes on; bitsift cluster status shows it"), _connected(loaded):
        controller = _controller_for(spec.model_dump(mode="json"))
        _until_known(controller)
        _ask(controller.up.remote(spec.model_dump(mode="json")))
        status = _until(controller, _is_up) if wait else _ask(controller.status.remote())
        show(status, json)


@app.command()
@configured("ray")
def status(loaded: Loaded, json: Json = False) -> None:
    """Show nodes, shards and routers, and what differs from the spec."""
    with _connected(loaded):
        show(_ask(_controller().status.remote()), json)


@app.command()
@configured("ray")
def down(loaded: Loaded, json: Json = False) -> None:
    """Stop routers, replicas, agents and the controller. The data folders keep everything."""
    from bitsift.cluster.fleet.actors import end_all

    with until_stopped("stopped waiting; run it again to finish", status=1), _connected(loaded):
        controller = _controller()
        if _ask(controller.status.remote())["index"] is not None:  # else it has started nothing
            _ask(controller.down.remote())
            _until(controller, _is_down, DOWN_TIMEOUT_S)
        ended = end_all()
        if json:
            print_json({"ended": ended})
        else:
            out.print(f"ended {len(ended)} actors; bitsift cluster up starts the cluster again")


@app.command()
@configured("ray")
def move(
    shard: Shard,
    source: Annotated[str, typer.Argument(metavar="FROM", help="The node that has the copy.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The node that gets it.")],
    loaded: Loaded,
    json: Json = False,
) -> None:
    """Move a copy of a shard to another node: it is copied first, then removed."""
    with _connected(loaded):
        controller = _controller()
        _ask(controller.move.remote(shard, source, target))
        show(_ask(controller.status.remote()), json)


@app.command("add-replica")
@configured("ray")
def add_replica(
    shard: Shard,
    loaded: Loaded,
    node: Annotated[
        str | None, typer.Argument(metavar="[NODE]", help="The node that gets it; default: any.")
    ] = None,
    json: Json = False,
) -> None:
    """Add one copy of a shard to those that the spec asks for."""
    with _connected(loaded):
        controller = _controller()
        _ask(controller.add_replica.remote(shard, node))
        show(_ask(controller.status.remote()), json)


@app.command("accept-loss")
@configured("ray")
def accept_loss(
    shard: Shard,
    loaded: Loaded,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """Go on without replicas that are lost for good, where a shard has lost a majority of them.

    What was acknowledged by these alone is lost. Nothing is given up without this command.
    """
    with _connected(loaded):
        controller = _controller()
        if not yes:
            lost = _lost_replicas(_ask(controller.status.remote()), shard)
            err.print(_WARNING.format(shard=shard, nodes=lost), soft_wrap=True)
            typer.confirm("Give them up?", abort=True, err=True)
        _ask(controller.accept_loss.remote(shard))
        show(_ask(controller.status.remote()), json)


@app.command()
@configured("ray")
def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node to empty.")],
    loaded: Loaded,
    undo: Annotated[bool, typer.Option("--undo", help="Let it have replicas again.")] = False,
    json: Json = False,
) -> None:
    """Copy what a node has to other nodes, then stop its replicas and its router.

    The node may be stopped when bitsift cluster status shows nothing on it any more.
    """
    with _connected(loaded):
        controller = _controller()
        _ask(controller.drain.remote(node, undo))
        show(_ask(controller.status.remote()), json)


@app.command()
@configured("ray")
def reshard(
    loaded: Loaded,
    shards: Annotated[
        int | None, typer.Argument(metavar="[N]", help="How many shards the index gets.")
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Drop a reshard that has not ended; nothing changes.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when it has ended, or at once.")
    ] = True,
    json: Json = False,
) -> None:
    """Give the index another number of shards, while it answers and takes writes.

    It goes on when this command ends; bitsift cluster status shows how far it is.
    """
    if (shards is None) is not undo:
        raise InvalidRequest("say how many shards, or --undo")
    note = "the reshard goes on; bitsift cluster status shows it"
    with until_stopped(note), _connected(loaded):
        controller = _controller()
        if shards is None:
            _ask(controller.drop_reshard.remote())
        else:
            _ask(controller.reshard.remote(shards))
        waits = wait and shards is not None
        status = _until(controller, _is_resharded) if waits else _ask(controller.status.remote())
        show(status, json)
    if waits and shards is not None and len(status["shards"]) != shards:
        raise Unavailable(f"the reshard was dropped: {status['failures'].get('the reshard')}")


def _lost_replicas(status: dict[str, Any], shard: int) -> str:
    found = [it for it in status["shards"] if it["shard"] == shard and it["lost_majority"]]
    return ", ".join(found[0]["lost_majority"]) if found else "none"


@contextlib.contextmanager
def _connected(loaded: Loaded) -> Iterator[None]:
    from bitsift.cluster.serving.ray_cluster import ray_cluster

    with ray_cluster(required_ray_address(loaded), say):
        yield


def _controller() -> Any:
    """Raises NotFound."""
    from bitsift.cluster.fleet.actors import CONTROLLER, found_actor

    controller = found_actor(CONTROLLER)
    if controller is None:
        raise NotFound("this Ray cluster serves no index; bitsift cluster up SPEC.toml starts one")
    return controller


def _controller_for(spec: dict[str, Any]) -> Any:
    """The one that runs; else a new one."""
    from bitsift.cluster.fleet.actors import CONTROLLER, found_actor, remote
    from bitsift.cluster.fleet.controller import ControllerActor
    from bitsift.cluster.serving.ray_cluster import NAMESPACE

    running = found_actor(CONTROLLER)
    if running is not None:
        return running
    return (
        remote(ControllerActor)
        .options(name=CONTROLLER, namespace=NAMESPACE, lifetime="detached", get_if_exists=True)
        .remote(spec)
    )


def _ask(reference: Any) -> Any:
    from bitsift.router.shards.ray_calls import Callee, asked

    return asked(reference, Callee("the controller"), ASK_TIMEOUT_S)


def _until_known(controller: Any) -> None:
    """Until the controller has found the index. Raises Unavailable with what it says."""
    deadline, said = time.monotonic() + START_TIMEOUT_S, None
    while time.monotonic() < deadline:
        status = _ask(controller.status.remote())
        if status["index"] is not None:
            return
        if status["failure"] != said:
            said = status["failure"]
            say(f"the controller: {said}")
        time.sleep(POLL_S)
    raise Unavailable(f"the controller found no index within {START_TIMEOUT_S:.0f} s: {said}")


def _is_up(status: dict[str, Any]) -> str | None:
    """What is still missing."""
    waits = [
        f"shard {shard['shard']} lacks {shard['lacking']} of its copies"
        for shard in status["shards"]
        if shard["lacking"]
    ]
    waits += [f"the router on {r['node']} starts" for r in status["routers"] if not r["is_well"]]
    if not status["routers"]:
        waits.append("no router runs yet")
    if status["rolling"] is not None:
        waits.append(rolling(status["rolling"]))
    here = [
        node
        for node in status["nodes"]
        if node["has_data"] and node["lost_s"] is None and not node["is_drained"]
    ]
    if len(here) < status["replicas"]:
        waits.append(
            f"the spec asks for {status['replicas']} copies, each on a node of its own, but there "
            f"are {len(here)} nodes: start more, with --labels bitsift-node=NAME"
        )
    return "; ".join(waits) or None


def _is_resharded(status: dict[str, Any]) -> str | None:
    found = status.get("reshard")
    return None if found is None else resharding(found)


def _is_down(status: dict[str, Any]) -> str | None:
    waits = [f"the router on {router['node']}" for router in status["routers"]]
    waits += [
        f"shard {shard['shard']} on {replica['node']}"
        for shard in status["shards"]
        for replica in shard["replicas"]
        if replica["state"] in ("opening", "ready", "failed")
    ]
    return f"still there: {', '.join(waits)}" if waits else None


def _until(
    controller: Any,
    missing: Callable[[dict[str, Any]], str | None],
    timeout_s: float = float("inf"),
) -> dict[str, Any]:
    """Until nothing is missing; what is goes to the log. Raises Unavailable."""
    deadline, said = time.monotonic() + timeout_s, None
    while True:
        with contextlib.suppress(Unavailable):  # a controller that starts again answers soon
            status: dict[str, Any] = _ask(controller.status.remote())
            waits = missing(status)
            if waits is None and status["failure"] is None:
                return status
            if (waits or status["failure"]) != said:
                said = waits or status["failure"]
                say(str(said))
        if time.monotonic() > deadline:
            raise Unavailable(f"after {timeout_s:.0f} s: {said}")
        time.sleep(POLL_S)
