"""Who may ask a gateway for what: the operator's settings, and the middleware that enforces
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from bitsift.errors import InvalidRequest
from bitsift.router import tracing
from bitsift.router.http.authorization import Authorization
from bitsift.router.http.destinations import BackupRoot
from bitsift.router.http.gate import Gate, JsonOnly
from bitsift.router.http.hosts import ANY_HOST, HostList, is_loopback
from bitsift.router.http.keys import KeyRing, read_keys
from bitsift.router.http.paths import Allow
from bitsift.router.http.tls import TlsFiles
from bitsift.router.indexes import Indexes
from bitsift.router.logs import LogSettings

CORS_MAX_AGE_S = 600
_CORS_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_CORS_HEADERS = ("authorization", "content-type", "traceparent", "x-api-key", "x-request-id")
_CORS_SHOWN = ("Retry-After", "Server-Timing", "WWW-Authenticate", "X-Request-Id")


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may ask a gateway for what, and what is noted of it. Without ``keys``, anyone who can
    reach it may do everything.
    """

    keys: Path | None = None
    insecure: bool = False
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    backup_root: str | None = None
    tls: TlsFiles | None = None
    admin_host: str = "127.0.0.1"
    admin_port: int | None = None
    root_path: str = ""
    log: LogSettings = field(default_factory=LogSettings)
    otlp_endpoint: str | None = None

    def check(self, host: str) -> None:
        """Raises InvalidRequest (or as ``read_keys`` does) if a gateway must not start like
        this.
        """
        if self.insecure and self.keys is not None:
            raise InvalidRequest("pass --keys or --insecure, not both")
        for address in self.addresses(host):
            if not (self.keys or self.insecure or is_loopback(address)):
                raise InvalidRequest(
                    f"other machines can reach {address!r}: give --keys FILE (bitsift keys new "
                    "makes one), or --insecure to let anyone who reaches it read, change and "
                    "delete everything"
                )
        if self.keys is not None:
            read_keys(self.keys)
        if self.tls is not None:
            self.tls.check()
        if self.backup_root is not None:
            BackupRoot.parse(self.backup_root)
        if self.otlp_endpoint is not None:
            _check_endpoint(self.otlp_endpoint)
        HostList(host, self.allowed_hosts)
        for origin in self.cors_origins:
            _check_origin(origin)

    def addresses(self, host: str) -> list[str]:
        """The addresses to listen on, including ``host``."""
        return [host] if self.admin_port is None else [host, self.admin_host]

    def warnings(self, host: str) -> list[str]:
        """Warnings for the operator of a gateway bound to ``host``."""
        found = []
        is_far = not all(map(is_loopback, self.addresses(host)))
        if is_far and self.insecure:
            found.append(
                "--insecure: no key is asked for. Anyone who can reach this server can read, "
                "change and delete every document"
            )
        if is_far and self.keys is not None and self.tls is None:
            found.append(
                "keys and documents travel unencrypted: give --tls-cert and --tls-key, or let "
                "nothing but a proxy that speaks TLS reach this server"
            )
        if self.keys is None and ANY_HOST in self.allowed_hosts:
            found.append(
                "--allowed-host * without keys: a web page that anyone on this machine or network "
                "opens can read, change and delete every document"
            )
        if self.tls is not None and self.tls.is_key_open:
            found.append(f"other users can read the TLS key {self.tls.key}: chmod 600 it")
        return found


def _check_endpoint(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise InvalidRequest(
            f"--otlp-endpoint {url!r} is not the address of a collector: write it as "
            "http://localhost:4318"
        )
    if not tracing.is_installed():
        raise InvalidRequest(f"--otlp-endpoint needs OpenTelemetry: {tracing.INSTALL}")


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if (
        parts.scheme not in ("http", "https")
        or origin != f"{parts.scheme}://{parts.netloc}".lower()
    ):
        raise InvalidRequest(
            f"--cors {origin!r} is not an origin: write it as browsers do, https://app.example.com"
        )


def add_access(
    app: FastAPI,
    access: AccessSettings,
    host: str,
    indexes: Indexes,
    other_types: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Surround ``app``, served on ``host``, with what the settings ask for. Raises as ``check``.

    From outside to inside: host and origin, CORS, OPTIONS, key, type of the body.
    ``other_types`` maps paths to what they take besides JSON.
    """
    app.add_middleware(JsonOnly, also=other_types)
    if access.keys is not None:
        app.add_middleware(Authorization, keys=KeyRing(access.keys), indexes=indexes)
    app.add_middleware(Allow)
    if access.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.cors_origins,
            allow_methods=_CORS_METHODS,
            allow_headers=_CORS_HEADERS,
            expose_headers=_CORS_SHOWN,
            max_age=CORS_MAX_AGE_S,
        )
    hosts = HostList(host, access.allowed_hosts)
    app.add_middleware(Gate, hosts=hosts, origins=access.cors_origins)
