"""What is refused before a request is read: foreign hosts, foreign pages, bodies that are not JSON.

A browser sends requests for any page, also to 127.0.0.1. What it says of the page cannot be forged
by it: Host, Origin, Sec-Fetch-Site. Programs send no Origin, and pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bitsift.errors import Forbidden, InvalidRequest, UnsupportedMediaType
from bitsift.router.http.hosts import HostList, host_of
from bitsift.router.http.media_types import JSON, media_type
from bitsift.router.http.problems import problem, problem_of

HOSTS_REMEMBERED_MAX = 64
_SHOWN_CHARACTERS = 100


class Gate:
    """Refuses a Host that is not in ``hosts`` (421) and an Origin that is not in ``origins`` (403).

    A page that the gateway serves itself is no foreign one.
    """

    def __init__(self, app: ASGIApp, hosts: HostList, origins: Collection[str]) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = frozenset(origins)
        self._host_problem = lru_cache(HOSTS_REMEMBERED_MAX)(self._look_at_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem, or go on."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        hosts = values_of(scope["headers"], b"host")
        if hosts or scope["http_version"] != "1.0":  # which has no such header; browsers speak 1.1
            wrong = self._host_problem(hosts[0] if len(hosts) == 1 else "")
            if wrong is not None:
                return _invalid(*wrong)
        origins = values_of(scope["headers"], b"origin")
        if origins:
            return None if self._is_known(origins, "".join(hosts)) else _foreign(", ".join(origins))
        site = values_of(scope["headers"], b"sec-fetch-site")
        if site in ([], ["same-origin"], ["none"]) or _follows_link(scope):
            return None
        return _foreign("another site")

    def _look_at_host(self, header: str) -> tuple[int, str] | None:
        host = host_of(header)
        if host is None:
            return 400, "exactly one Host header with a name or an address is required"
        if host in self._hosts:
            return None
        return 421, f"this server does not answer to {host}; bitsift serve --allowed-host adds it"

    def _is_known(self, origins: list[str], host: str) -> bool:
        (origin, *more) = origins
        is_own = origin.partition("://")[2] == host.lower()
        return not more and (is_own or origin in self._origins)


class JsonOnly:
    """Refuses a POST of another type with 415.

    A page of another site may post text/plain unasked, but for JSON, and for other methods, a
    browser asks first. So this holds without a body too. ``also`` maps a path to another type that
    it takes.
    """

    def __init__(self, app: ASGIApp, also: Mapping[str, str]) -> None:
        self._app = app
        self._wanted = {path: (JSON, kind) for path, kind in also.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem, or go on."""
        if scope["type"] == "http" and scope["method"] == "POST":
            wanted = self._wanted.get(scope["path"], (JSON,))
            given = values_of(scope["headers"], b"content-type")
            if len(given) != 1 or media_type(given[0]) not in wanted:
                said = f"the content type must be {' or '.join(wanted)}"
                await problem_of(UnsupportedMediaType(said))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def values_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """All values of a header, whose ``name`` is in lower case."""
    return [value.decode("latin-1") for key, value in headers if key == name]


def _follows_link(scope: Scope) -> bool:
    """Whether a reader follows a link: the page that holds it does not see the answer."""
    mode = values_of(scope["headers"], b"sec-fetch-mode")
    destination = values_of(scope["headers"], b"sec-fetch-dest")
    return scope["method"] == "GET" and (mode, destination) == (["navigate"], ["document"])


def _invalid(status: int, detail: str) -> Response:
    return problem(status, InvalidRequest.__name__, InvalidRequest.title, detail)


def _foreign(origin: str) -> Response:
    return problem(
        Forbidden.status,
        Forbidden.__name__,
        Forbidden.title,
        f"a page of {origin[:_SHOWN_CHARACTERS]} may not use this server; "
        "bitsift serve --cors ORIGIN allows it",
    )
