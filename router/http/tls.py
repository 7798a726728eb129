"""The certificate that a gateway shows, and whether it can be used."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from bitsift.errors import InvalidRequest

TLS_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2, those with forward secrecy; 1.3 has no others. Python offers nothing below 1.2."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate, the chain to its issuer behind it, and its private key; PEM."""

    cert: Path
    key: Path

    def check(self) -> None:
        """Raises InvalidRequest where the two cannot be used together."""
        for path in (self.cert, self.key):
            try:
                path.read_bytes()
            except OSError as error:
                raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
        self.context()

    def context(self) -> ssl.SSLContext:
        """What a server shakes hands with. Raises InvalidRequest, OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers(TLS_CIPHERS)
        try:
            # A key with a passphrase would be asked for it on the terminal.
            context.load_cert_chain(self.cert, self.key, password=_no_passphrase)
        except ssl.SSLError as error:
            raise InvalidRequest(
                f"{self.cert} and {self.key} are not a certificate and its private key: "
                f"{error.reason or error}"
            ) from error
        return context

    @property
    def is_key_open(self) -> bool:
        """Whether others than its owner may read the private key."""
        return bool(self.key.stat().st_mode & 0o077)


def _no_passphrase() -> str:
    raise InvalidRequest("the TLS key has a passphrase: use one without, readable by its user only")
