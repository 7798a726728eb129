"""Start and stop Ray, the shard actors of an index and the router in front of them."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from cluster.manifest import Manifest, open_manifest, read_manifest
from router.query_vectors import QUERY_CACHE_DEFAULT
from shard_worker.actor import ShardActor
from shard_worker.errors import InvalidRequest, Unavailable
from shard_worker.layout import shard_folder
from shard_worker.types import ShardSettings

NAMESPACE = "bitsift"
OBJECT_STORE_BYTES = 1 << 30
"""Only batches in flight pass through Ray's object store; answers are small and are inlined."""
OPEN_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """A running Ray cluster at ``address``, or a local one that ends with the block.

    A local one binds to loopback and asks every caller for a random token: who can reach a Ray
    cluster can run code in it. Inside another such block the running one is used.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    _quiet_ray_data()
    settings: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False}
    if address is None:
        _require_token()
        os.environ.setdefault("RAY_worker_niceness", "0")  # workers answer people
        settings |= {
            "num_cpus": os.cpu_count(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
    else:
        settings["address"] = address
    try:
        ray.init(logging_level=logging.ERROR, **settings)
    except (ConnectionError, ValueError) as error:
        raise Unavailable(f"no Ray cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _quiet_ray_data() -> None:
    """The command line shows progress itself."""
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ warns on our standard error
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _require_token() -> None:
    """Make the next local Ray cluster refuse callers without a random token of this process.

    Ray reads the mode once, when it is imported; ``Config.initialize`` reads it again, as Ray's own
    ``enable_token_auth_by_default`` does.
    """
    from ray._raylet import Config  # type: ignore[attr-defined]

    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    Config.initialize("")


def open_shards(index: Path, manifest: Manifest) -> list[Any]:
    """Start one actor per shard, spread over the cluster, and wait until all are open.

    Raises Unavailable when one fails to open or another cluster serves this index.
    """
    actors = [
        _start_shard(index, manifest, shard, detached=False) for shard in range(manifest.shards)
    ]
    try:
        wait_open(actors)
    except BaseException:
        stop_shards(actors)
        raise
    return actors


def _start_shard(
    index: Path,
    manifest: Manifest,
    shard: int,
    settings: ShardSettings | None = None,
    *,
    detached: bool,
) -> Any:
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
    if detached:
        name = f"{manifest.uuid}/shard-{shard:05d}"
        options |= {"name": name, "lifetime": "detached", "namespace": NAMESPACE}
    folder = str(shard_folder(index, shard))
    try:
        return ShardActor.options(**options).remote(  # type: ignore[attr-defined]
            folder, manifest.calibration.to_json(), manifest.identity(shard), settings
        )
    except ValueError as error:  # the name is taken
        raise Unavailable(f"{index} is being served by this Ray cluster already") from error


def wait_open(actors: Sequence[Any]) -> None:
    """Until all are open. Raises Unavailable when one fails to, as a build must have all.

    A serving cluster goes on without it instead.
    """
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    while time.monotonic() < deadline:
        statuses = ray.get([actor.status.remote() for actor in actors])
        for status in statuses:
            if status.state == "FAILED":
                raise Unavailable(f"shard {status.shard} cannot be opened: {status.reason}")
        if all(status.state == "READY" for status in statuses):
            return
        time.sleep(POLL_S)
    raise Unavailable(f"the shards did not open in {OPEN_TIMEOUT_S:.0f} s")


def stop_shards(actors: list[Any]) -> None:
    """Close every shard, then end its process."""
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get([actor.close.remote() for actor in actors], timeout=STOP_TIMEOUT_S)
    for actor in actors:
        ray.kill(actor)


@dataclass(frozen=True, slots=True)
class Serving:
    """A served index: its address, and the actors to stop."""

    url: str
    router: Any
    writer: Any
    shards: list[Any]

    def stop(self) -> None:
        """Stop listening, finish what is in flight, release the shard directories."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.router.stop.remote(), timeout=STOP_TIMEOUT_S)
        ray.kill(self.router)
        ray.kill(self.writer)
        stop_shards(self.shards)

    def loaded(self) -> None:
        """Say that the load that filled the index while it was served has ended."""
        ray.get(self.router.loading.remote(None))

    def wait_ready(self, timeout_s: float = OPEN_TIMEOUT_S) -> None:
        """Until /readyz says yes. Raises Unavailable with what it said last, or the encoder did."""
        import httpx

        deadline, said = time.monotonic() + timeout_s, "nothing"
        while time.monotonic() < deadline:
            failure = ray.get(self.router.encoder_failure.remote())
            if failure is not None:
                raise Unavailable(f"the encoder cannot be loaded: {failure}")
            with contextlib.suppress(httpx.TransportError):
                response = httpx.get(f"{self.url}/readyz", timeout=5.0)
                if response.is_success:
                    return
                said = response.json().get("detail", response.text)
            time.sleep(POLL_S)
        raise Unavailable(f"not ready after {timeout_s:.0f} s: {said}")


def serve(
    index: Path,
    host: str,
    port: int,
    *,
    backend: str = "auto",
    query_cache: int = QUERY_CACHE_DEFAULT,
    settings: ShardSettings = ShardSettings(),  # noqa: B008 (frozen)
    loading: bool = False,
) -> Serving:
    """Serve an index on the connected Ray cluster: a finished one, unless it is ``loading``.

    A caller that says ``loading`` fills the shards itself, and calls ``Serving.loaded`` at the end.
    ``query_cache`` is how many vectors of queries the router remembers; 0 is none.
    A shard that cannot be opened is named in every answer's coverage; it does not stop the rest.
    Raises NotFound, Unavailable, FormatMismatch, or InvalidRequest when the port is taken.
    """
    from router.actor import CONNECTIONS_MAX, RouterActor
    from router.models import ModelSpec
    from router.writer import WriterActor

    manifest = read_manifest(index) if loading else open_manifest(index)[0]
    encoder = None
    if manifest.model is not None:
        spec = ModelSpec.from_json(manifest.model)
        encoder = {"name": spec.name, "backend": backend, "expected": spec}
    shards = [
        _start_shard(index, manifest, shard, settings, detached=True)
        for shard in range(manifest.shards)
    ]
    options = {
        "lifetime": "detached",
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "max_concurrency": CONNECTIONS_MAX,
    }
    writer = WriterActor.options(  # type: ignore[attr-defined]
        name=f"{manifest.uuid}/writer", **options
    ).remote(manifest.describe(), shards, encoder)
    router = RouterActor.options(  # type: ignore[attr-defined]
        name=f"{manifest.uuid}/router", **options
    ).remote(manifest.describe(), shards, writer, encoder, query_cache)
    if loading:
        router.loading.remote(manifest.records)
    try:
        url = ray.get(router.listen.remote(host, port))
    except ray.exceptions.RayTaskError as error:
        Serving("", router, writer, shards).stop()
        raise InvalidRequest(
            f"cannot listen on {host}:{port} ({error.cause}); choose another --port"
        ) from error
    return Serving(url, router, writer, shards)
