"""The token of one call that writes (bitsift/write_token.py)."""

from __future__ import annotations

from bitsift.write_token import WriteToken


class CallToken:
    """Gathers what a call has written, part by part."""

    def __init__(self) -> None:
        self._token: WriteToken | None = None

    def add(self, written: WriteToken | None) -> None:
        """A part was acknowledged; None: nothing of it."""
        if written is not None:
            self._token = written if self._token is None else self._token.joined(written)

    @property
    def text(self) -> str | None:
        """None where nothing was acknowledged."""
        return None if self._token is None else self._token.text()
