"""Limits of the HTTP server, per peer and for all of them."""

from __future__ import annotations

import resource
from dataclasses import dataclass

CONNECTIONS_MAX = 1_000
FILES_RESERVED = 256
"""Files and sockets that are no HTTP connections: Ray's, the shards', libraries'."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits per peer, and for all of them."""

    connections_max: int = CONNECTIONS_MAX
    url_bytes_max: int = 32 << 10
    """An id of 8,192 bytes, each as %XX, fits in."""
    head_bytes_max: int = 64 << 10
    headers_max: int = 128
    handshake_timeout_s: float = 10.0
    """From the connection to the end of TLS's handshake."""
    head_timeout_s: float = 10.0
    """From the connection (with TLS, its handshake), or the first byte after an answer, to the end
    of the headers.
    """
    silent_bytes_max: int = 64 << 10
    """Bytes of a body's framing (chunk extensions, trailers) without a byte of the body itself."""
    pipelined_max: int = 16
    """Requests that wait for the answers to earlier ones of their connection."""
    searches_min: int = 64
    """Requests for searches that are answered at a time, at least. More stay unread, unless as many
    are answered in a second. With 128 a server that encoded 80 texts a second read many that it
    could but refuse.
    """
    searches_max: int = 384
    """And at most."""
    unread_s: float = 2.5
    """How long, before they are refused: half the time that a search has."""
    place_s: float = 2.0
    """How long one that is answered takes a place: slow ones hold up no others for longer."""
    linger_s: float = 10.0
    """How long the rest of a body is read, and dropped, that was answered before it had come."""
    stalled_s: float = 60.0
    """How long a peer may take nothing of an answer that is being sent."""
    sweep_s: float = 1.0
    """How often the times are looked at, for all connections together."""

    @property
    def unread_max(self) -> int:
        """How many searches may be unread: other callers find a connection."""
        return self.connections_max // 2

    @classmethod
    def of_this_process(cls) -> HttpLimits:
        """The defaults, with no more connections than this process may have files open."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else soft - FILES_RESERVED
        return cls(connections_max=max(16, min(CONNECTIONS_MAX, files)))
