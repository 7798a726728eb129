"""What shards and routers are told, by the settings of `bitsift serve` or by a cluster's spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitsift.config.tree import PORT_MAX, Access, Serve, Shards
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.logs import Form
from bitsift.shard_worker.types import ShardSettings

if TYPE_CHECKING:
    from bitsift.router.http.access import AccessSettings
    from bitsift.router.shadow.settings import ShadowSettings

SEARCH_PORTS = 1_000
"""More than a machine has shards, for the firewalls between machines."""


def shard_settings(shards: Shards, log_format: Form = "text") -> ShardSettings:
    """What each shard is told."""
    return ShardSettings(
        exact_budget_ms=shards.exact_budget_ms,
        compact_share=shards.compact_above,
        store_bytes_max=shards.store_max,
        tombstone_grace_s=shards.tombstone_days * 86_400,
        search_ports=_search_ports(shards.search_port),
        log_format=log_format,
    )


def _search_ports(first: int) -> range:
    return range(first, min(first + SEARCH_PORTS, PORT_MAX + 1)) if first else range(1)


def _root_path(given: str | None) -> str:
    from bitsift.router.http.routes import ROOT_PATH

    if given is not None and ROOT_PATH.fullmatch(given) is None:
        raise InvalidRequest(
            f"--root-path {given!r} is not a path: write it as /search, without a slash at its end"
        )
    return given or ""


def shadow_settings(serve: Serve) -> ShadowSettings:
    """How many searches a router asks again."""
    from bitsift.router.shadow.settings import ShadowSettings

    return ShadowSettings(serve.shadow_share, serve.shadow_cpu)


def access_settings(given: Access, serve: Serve) -> AccessSettings:
    """Who may ask a router for what; ``check`` says whether it may start like this.

    Raises InvalidRequest where two settings contradict each other.
    """
    from bitsift.router.http.access import AccessSettings
    from bitsift.router.http.tls import TlsFiles
    from bitsift.router.logs import LogSettings

    cert, key = given.tls_cert, given.tls_key
    if (cert is None) != (key is None):
        raise InvalidRequest("give both --tls-cert and --tls-key, or neither")
    if serve.port and serve.admin_port == serve.port:
        raise InvalidRequest("--admin-port and --port are the same; choose another")
    files = None if cert is None or key is None else TlsFiles(cert.absolute(), key.absolute())
    root = given.backup_root
    if root is not None and "://" not in root:
        root = str(Path(root).absolute())
    return AccessSettings(
        keys=given.keys and given.keys.absolute(),
        insecure=given.insecure,
        allowed_hosts=given.allowed_hosts,
        cors_origins=given.cors_origins,
        backup_root=root,
        tls=files,
        admin_host=serve.admin_host,
        admin_port=serve.admin_port,
        root_path=_root_path(serve.root_path),
        log=LogSettings(serve.log_format, serve.access_log),
        otlp_endpoint=serve.otlp_endpoint,
    )
