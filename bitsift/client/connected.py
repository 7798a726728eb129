"""What both clients are made of: a connection, and what they remember of their writes."""

from __future__ import annotations

from typing import Generic

from bitsift.client.calls import Http, addressed, connect
from bitsift.client.received import server_name
from bitsift.client.session import Session


class Connected(Generic[Http]):
    """A client of the gateway at ``url``, not connected yet; see ``Client``."""

    _kind: type[Http]

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        read_your_writes: bool = False,
        index: str | None = None,
    ) -> None:
        """Raises InvalidRequest for a malformed URL, key or name of an index."""
        url, self._index = addressed(url, index)
        self._http: Http = connect(self._kind, url, api_key, timeout_s)
        self._session = Session(remembers=read_your_writes)
        self._server = server_name(self._http.base_url)
