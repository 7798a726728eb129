"""Start and stop the shard actors of an index and the router in front of them.

No actor is detached: when a process ends, however it ends, Ray ends its actors.
"""

from __future__ import annotations

import contextlib
import os
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from bitsift.cluster.interrupts import shielded
from bitsift.cluster.manifest import Manifest, open_manifest, read_manifest
from bitsift.cluster.serving.others import OtherIndexesOwner, StartedIndex
from bitsift.cluster.serving.ray_cluster import OnStep, quiet
from bitsift.cluster.serving.ray_environment import FAIL_OVER
from bitsift.config.tree import DEFAULTS
from bitsift.errors import BitsiftError, Unavailable
from bitsift.router.http.access import AccessSettings
from bitsift.router.shadow.settings import ShadowSettings
from bitsift.router.shards.placement import ReplicaTable
from bitsift.router.shards.ray_calls import ROUTER, SHARDS, Callee, asked, is_gone, sent
from bitsift.shard_worker.actor import ShardActor
from bitsift.shard_worker.layout import FolderLock, shard_folder
from bitsift.shard_worker.types import ShardSettings
from bitsift.shard_worker.wire.search import statuses_of
from bitsift.write_acks import WriteAcks

OPEN_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 10.0
PENDING_CALLS_MAX = 1_024
"""Of an actor, for each process that calls it: twice the requests that a router answers at once."""
ASK_TIMEOUT_S = 5.0
POLL_S = 0.1


def check_free(index: Path, manifest: Manifest) -> None:
    """Raises Unavailable, naming the process, when another one has a shard of ``index`` open.

    A shard whose folder is missing is nobody's: it is FAILED until its disk appears.
    """
    for shard in range(manifest.shards):
        with contextlib.suppress(FileNotFoundError):
            FolderLock(shard_folder(index, shard)).release()


@contextlib.contextmanager
def open_shards(index: Path, manifest: Manifest) -> Iterator[list[Any]]:
    """One actor per shard, spread over the cluster, all of them open; stopped with the block.

    Raises Unavailable when one fails to open.
    """
    actors: list[Any] = []
    try:
        for shard in range(manifest.shards):
            actors.append(_start_shard(index, manifest, shard))  # noqa: PERF401 (seen by `finally`)
        wait_open(actors)
        yield actors
    finally:
        with shielded():
            stop_shards(actors)


def _start_shard(
    index: Path,
    manifest: Manifest,
    shard: int,
    settings: ShardSettings | None = None,
    name: str | None = None,
) -> Any:
    folder = str(shard_folder(index, shard))
    arguments = folder, manifest.calibration.to_json(), manifest.identity(shard), settings
    return _start(ShardActor, name, *arguments, scheduling_strategy="SPREAD")


def failing_over() -> dict[str, Any]:
    """Options of actors that call shards, on a cluster that was started without these settings."""
    is_set = FAIL_OVER.items() <= os.environ.items()  # this process has started the cluster
    return {} if is_set else {"runtime_env": {"env_vars": FAIL_OVER}}


def _start(actor: Any, name: str | None, *arguments: Any, **options: Any) -> Any:
    """Raises Unavailable when another actor of this Ray cluster has the name."""
    try:
        limited = {"num_cpus": 0, "max_pending_calls": PENDING_CALLS_MAX, **options}
        return actor.options(name=name, **limited).remote(*arguments)
    except ValueError as error:
        raise Unavailable(
            f"this Ray cluster is already serving the index: it runs {name}"
        ) from error


def wait_open(actors: Sequence[Any]) -> None:
    """Until all are open. Raises Unavailable when one fails to, as a build must have all.

    A serving cluster goes on without it instead.
    """
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    while time.monotonic() < deadline:
        answers = _answer([actor.status.remote() for actor in actors], SHARDS) or []
        statuses = statuses_of(answers)
        for status in statuses:
            if status.state == "FAILED":
                raise Unavailable(f"shard {status.shard} cannot be opened: {status.reason}")
        if statuses and all(status.state == "READY" for status in statuses):
            return
        time.sleep(POLL_S)
    raise Unavailable(f"the shards did not open in {OPEN_TIMEOUT_S:.0f} s")


def _answer(references: Any, callee: Callee) -> Any:
    """The answer, None where there is none now. Raises Unavailable where there never will be."""
    try:
        return asked(references, callee, OPEN_TIMEOUT_S)
    except BitsiftError as error:
        if is_gone(error):
            raise
        return None


def stop_shards(actors: Sequence[Any]) -> None:
    """Close every shard, then end its process."""
    with contextlib.suppress(BitsiftError):
        asked([actor.close.remote() for actor in actors], SHARDS, STOP_TIMEOUT_S)
    end_actors(actors)


def end_actors(actors: Sequence[Any]) -> None:
    """End processes, and wait for Ray to say that they are gone: then their names are free."""
    for actor in actors:
        ray.kill(actor)
    calls = [actor.__ray_ready__.remote() for actor in actors]  # fail, once they are gone
    if calls:
        ray.wait(calls, num_returns=len(calls), timeout=STOP_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Serving:
    """A served index: its address, its actors, and the cleanup of their start, in reverse order."""

    url: str
    router: Any
    writer: Any
    shards: list[Any]
    started: contextlib.ExitStack
    admin_url: str | None = None
    """Where the admin routes are, if they have a port of their own."""
    others: OtherIndexesOwner | None = None

    def stop(self) -> None:
        """Stop listening, finish what is in flight, release the shard directories."""
        with shielded():
            self.started.close()

    def loaded(self) -> None:
        """Tell the router that the load has finished. Raises BitsiftErrors."""
        asked(self.router.loading.remote(None), ROUTER, OPEN_TIMEOUT_S)

    def abandon(self) -> None:
        """Leave the actors to whoever ends their processes: ``stop`` has nothing to do then."""
        if self.others is not None:
            self.others.abandon()
        self.started.pop_all()

    def names(self) -> dict[str, str]:
        """How people name each actor, by its id in Ray's table of actors."""
        names = {self.router._actor_id.hex(): "the router"}
        names |= StartedIndex(self.shards, self.writer).names()
        return names if self.others is None else names | self.others.names()

    def tell_others(self) -> None:
        """Have the router answer for the other indexes. Raises BitsiftErrors."""
        if self.others is not None:
            placing = sent(self.router.place_others, ROUTER, self.others.told())
            asked(placing, ROUTER, OPEN_TIMEOUT_S)

    def listen_again(self) -> Any:
        """A reference to the router's pid, once it listens on its addresses.

        A router that died is started again by Ray, and is told again where to listen.
        """
        address = urllib.parse.urlsplit(self.url)
        admin_port = urllib.parse.urlsplit(self.admin_url or "").port
        return sent(self.router.listen_again, ROUTER, address.hostname, address.port, admin_port)

    def tell(self, events: Sequence[dict[str, str]]) -> None:
        """Have the router say in /v1/cluster what was healed; a router that is away does not."""
        with contextlib.suppress(BitsiftError):
            sent(self.router.heal, ROUTER, list(events))

    def wait_ready(self, timeout_s: float = OPEN_TIMEOUT_S, on_step: OnStep = quiet) -> None:
        """Until /readyz says yes; what it says until then goes to ``on_step``.

        Raises Unavailable with what it said last; before the time is over when the encoder cannot
        be loaded, the router is gone, or another process has a shard open.
        """
        import httpx

        deadline, said = time.monotonic() + timeout_s, "nothing"
        # Never through a proxy: the environment's are for other machines. It sends no secret, and
        # the certificate names the host that others use.
        with httpx.Client(
            base_url=self.url, timeout=ASK_TIMEOUT_S, trust_env=False, verify=False
        ) as client:
            told = set[str]()
            while time.monotonic() < deadline:
                for failed in self._check_start() - told:
                    told.add(failed)
                    on_step(failed)
                with contextlib.suppress(httpx.TransportError):
                    response = client.get("/readyz")
                    if response.is_success:
                        return
                    before, said = said, response.json().get("detail", response.text)
                    if said != before:
                        on_step(f"not ready yet: {said}")
                time.sleep(POLL_S)
        raise Unavailable(f"not ready after {timeout_s:.0f} s: {said}")

    def _check_start(self) -> set[str]:
        """Which shards cannot be opened, and why. Raises Unavailable where waiting is of no use."""
        _answer(self.listen_again(), ROUTER)  # None while it starts again, or its port is taken
        failure = _answer(self.router.encoder_failure.remote(), ROUTER)
        if failure is not None:
            raise Unavailable(f"the encoder cannot be loaded: {failure}")
        calls = [shard.status.remote() for shard in self.shards]
        answered = ray.wait(calls, num_returns=len(calls), timeout=POLL_S)[0]
        return set(filter(None, map(_failure, answered)))


def _failure(status_call: Any) -> str | None:
    """Why a shard cannot be opened, if so. Raises Unavailable when another process has it open:
    only an operator can fix that.
    """
    try:
        (status,) = statuses_of([asked(status_call, SHARDS, ASK_TIMEOUT_S)])
    except BitsiftError:
        return None  # it starts again by itself
    if status.state != "FAILED":
        return None
    said = f"shard {status.shard} cannot be opened: {status.reason}"
    if (status.reason or "").startswith(f"{Unavailable.__name__}:"):
        raise Unavailable(said)
    return said


def serve(
    index: Path,
    host: str,
    port: int,
    *,
    backend: str = DEFAULTS.model.backend,
    query_cache: int = DEFAULTS.serve.query_cache,
    shadow: ShadowSettings = ShadowSettings(),  # noqa: B008 (frozen)
    min_ready_shards: int | None = None,
    settings: ShardSettings = ShardSettings(),  # noqa: B008 (frozen)
    loading: bool = False,
    access: AccessSettings = AccessSettings(),  # noqa: B008 (frozen)
    others: OtherIndexesOwner | None = None,
    on_step: OnStep = quiet,
) -> Serving:
    """Serve an index on the connected Ray cluster: a finished one, unless it is ``loading``.

    A caller that says ``loading`` fills the shards itself, and calls ``Serving.loaded`` at the end.
    ``query_cache`` is how many vectors of queries the router caches; 0 is none. ``shadow`` says how
    many searches are asked again to measure recall; by default none.
    ``min_ready_shards`` is what /readyz waits for; None: until every shard was opened or failed.
    A shard that cannot be opened is named in every answer's coverage; it does not stop the rest.
    ``access`` says who may ask for what. ``others`` are indexes that the same router answers for.
    Raises NotFound, Unavailable, FormatMismatch, or
    InvalidRequest when the port is taken, or when other machines could ask without a key; then
    everything it started has been stopped.
    """
    access.check(host)
    manifest = read_manifest(index) if loading else open_manifest(index)[0]
    if others is not None:
        manifest = replace(manifest, name=index.resolve().name)
    check_free(index, manifest)
    started = contextlib.ExitStack()
    try:
        if others is not None:
            started.callback(others.stop)
            others.start()
        on_step(f"starting {manifest.shards} shards")
        one = start_index(started, index, manifest, settings, backend)
        router = _start_router(
            started, manifest, one, backend, query_cache, shadow, access, min_ready_shards,
            others is not None,
        )  # fmt: skip
        if loading:
            router.loading.remote(manifest.records)
        serving = Serving("", router, one.writer, one.shards, started, None, others)
        serving.tell_others()
        on_step(f"listening on {host}:{port}")
        url, admin_url = _listen(started, router, host, port, access.admin_port)
        return replace(serving, url=url, admin_url=admin_url)
    except BaseException:
        with shielded():
            started.close()
        raise


def start_index(
    started: contextlib.ExitStack,
    index: Path,
    manifest: Manifest,
    settings: ShardSettings,
    backend: str,
) -> StartedIndex:
    """The shards and the writer of an index; ``started`` ends them. Raises Unavailable."""
    from bitsift.router.http.limits import CONNECTIONS_MAX
    from bitsift.router.write.writer import WriterActor

    shards: list[Any] = []
    started.callback(stop_shards, shards)
    for number in range(manifest.shards):
        name = f"{manifest.uuid}/shard-{number:05d}"
        shards.append(_start_shard(index, manifest, number, settings, name))
    options = {"max_concurrency": CONNECTIONS_MAX, **failing_over()}
    writer = _start(
        WriterActor, f"{manifest.uuid}/writer", manifest.describe(), ReplicaTable.of(shards),
        manifest.encoder(backend), WriteAcks.MAJORITY, "", settings.log_format, **options,
    )  # fmt: skip
    started.callback(end_actors, [writer])
    return StartedIndex(shards, writer)


def _start_router(
    started: contextlib.ExitStack,
    manifest: Manifest,
    one: StartedIndex,
    backend: str,
    query_cache: int,
    shadow: ShadowSettings,
    access: AccessSettings,
    min_ready_shards: int | None,
    several: bool,
) -> Any:
    """The router of an index; ``started`` ends it."""
    from bitsift.router.actor import RouterActor
    from bitsift.router.http.limits import CONNECTIONS_MAX

    options = {"max_concurrency": CONNECTIONS_MAX, **failing_over()}
    router = _start(
        RouterActor, f"{manifest.uuid}/router", manifest.describe(), one.table, one.writer,
        manifest.encoder(backend), query_cache, shadow, access, min_ready_shards,
        WriteAcks.MAJORITY, "", several, **options,
    )  # fmt: skip
    started.callback(end_actors, [router])
    return router


def _listen(
    started: contextlib.ExitStack, router: Any, host: str, port: int, admin_port: int | None
) -> tuple[str, str | None]:
    """The addresses; ``started`` has the router finish what is in flight before it ends."""
    listening = router.listen.remote(host, port, admin_port)
    url, admin_url = asked(listening, ROUTER, OPEN_TIMEOUT_S)
    started.callback(_drain, router)
    return url, admin_url


def _drain(router: Any) -> None:
    with contextlib.suppress(BitsiftError):
        asked(router.stop.remote(), ROUTER, STOP_TIMEOUT_S)
