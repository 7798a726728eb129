"""The scope that each route and method needs, and which of them change nothing."""

from __future__ import annotations

import re
from typing import Final

from bitsift.router.http.keys import Scope

ROUTE_SCOPES: Final[dict[str, Scope | None]] = {
    "GET /": None,  # the page itself asks for a key, so it is served without one
    "GET /static/": None,
    "GET /livez": None,  # process supervisors have no key
    "GET /readyz": None,
    "GET /v1/search": Scope.READ,
    "POST /v1/search": Scope.READ,
    "POST /v1/search/batch": Scope.READ,
    "GET /v1/documents/": Scope.READ,
    "GET /v1/index": Scope.READ,
    "GET /v1/indexes": Scope.READ,
    "GET /v1/cluster": Scope.READ,
    "GET /metrics": Scope.READ,
    "GET /docs": Scope.READ,
    "GET /docs/oauth2-redirect": Scope.READ,
    "GET /static-offline-docs/": Scope.READ,
    "GET /openapi.json": Scope.READ,
    "POST /v1/documents/get": Scope.READ,
    "POST /v1/documents/count": Scope.READ,
    "POST /v1/documents/list": Scope.READ,
    "POST /v1/documents": Scope.WRITE,
    "POST /v1/documents/file": Scope.WRITE,
    "POST /v1/documents/delete": Scope.WRITE,
    "POST /v1/documents/update": Scope.WRITE,
    "PATCH /v1/documents/": Scope.WRITE,
    "DELETE /v1/documents/": Scope.WRITE,
    "POST /v1/indexes": Scope.ADMIN,
    "DELETE /v1/indexes/": Scope.ADMIN,
    "PUT /v1/aliases/": Scope.ADMIN,
    "DELETE /v1/aliases/": Scope.ADMIN,
    "POST /v1/admin/backup": Scope.ADMIN,
    "POST /v1/admin/compact": Scope.ADMIN,
    "POST /v1/admin/verify": Scope.ADMIN,
    "POST /v1/admin/repair": Scope.ADMIN,
}
"""The scope that a route needs; None: it needs no key. One that ends with / stands for all paths
below it. What is not here needs an admin key, and a test asks for a line for every route."""
_BELOW = tuple(
    (route, scope) for route, scope in ROUTE_SCOPES.items() if route[-1] == "/" and route != "GET /"
)

_PATHS = frozenset(route.split(" ", 1)[1] for route in ROUTE_SCOPES)
_STARTS = tuple(dict.fromkeys(route.split(" ", 1)[1] for route, _ in _BELOW))


ROOT_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
"""What a proxy may put before a path."""
_OF_INDEXES = "/v1/indexes"
_OF_SERVER = ("indexes", "aliases", "")
"""What lies below no index: there would be no end."""


def split_index(method: str, path: str) -> tuple[str | None, str]:
    """The name of the index that ``path`` names, and the route to ask it: that of
    ``/v1/indexes/a/search`` is ``/v1/search``. No name where it names none.
    """
    if path == f"{_OF_INDEXES}/":
        return None, _OF_INDEXES
    name, slash, rest = path.removeprefix(f"{_OF_INDEXES}/").partition("/")
    if not path.startswith(f"{_OF_INDEXES}/"):
        return None, path
    if rest:
        is_one = rest.partition("/")[0] not in _OF_SERVER
        return (name, f"/v1/{rest}") if is_one else (None, path)
    if method in ("GET", "HEAD"):
        return name, "/v1/index"
    return None, path.removesuffix(slash)


def is_of_index(path: str) -> bool:
    """Whether ``path`` is a route that asks an index, and not one of the server."""
    return path.startswith("/v1/") and path.split("/")[2] not in _OF_SERVER


def needed_scope(method: str, path: str) -> Scope | None:
    """The scope of a key that a request needs; None where it needs no key."""
    route = f"{'GET' if method == 'HEAD' else method} {path}"
    if route in ROUTE_SCOPES:
        return ROUTE_SCOPES[route]
    for start, scope in _BELOW:
        if route.startswith(start):
            return scope
    return Scope.ADMIN


def route_of(method: str, path: str) -> str:
    """``path`` without a slash behind it, unless that belongs to what is below a route."""
    bare = path[:-1]
    if path[-1:] != "/" or bare == "/" or bare not in _PATHS:
        return path
    known = f"{'GET' if method == 'HEAD' else method} {path}"
    return path if any(known.startswith(start) for start, _ in _BELOW) else bare


def template_of(path: str) -> str | None:
    """The route of ``path``, with * for what differs below it; None for no route."""
    if path in _PATHS:
        return path
    return next((f"{start}*" for start in _STARTS if path.startswith(start)), None)


def methods_of(path: str) -> set[str]:
    """What ``path`` may be asked with; empty where nothing is known of it."""
    routes = [route.split(" ", 1) for route in ROUTE_SCOPES]
    found = {
        method
        for method, known in routes
        if path == known or (known.endswith("/") and known != "/" and path.startswith(known))
    }
    if not found:
        return found
    return found | ({"HEAD", "OPTIONS"} if "GET" in found else {"OPTIONS"})


def is_read(method: str, path: str) -> bool:
    """Whether a request changes nothing: whatever becomes of it, it was not done."""
    return needed_scope(method, path) in (None, Scope.READ)
