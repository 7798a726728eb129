"""One path for each route: without what a proxy puts before it, without the name of an index, and
without a slash behind it.
"""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bitsift.errors import BitsiftError
from bitsift.router.http.gate import values_of
from bitsift.router.http.problems import problem_of
from bitsift.router.http.routes import ROOT_PATH, methods_of, route_of, split_index
from bitsift.router.indexes import Indexes

_DESCRIBED = ("/docs", "/docs/oauth2-redirect", "/openapi.json")
"""What names other paths, with all that a proxy puts before them."""


class OnePath:
    """Around all other middleware, which knows routes by their paths.

    A proxy may take ``root_path`` off or leave it. ``scope["index"]`` is the index that is named.
    """

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path, root = scope["path"], self._root_path
            if root and path == root:  # what the page names lies below it
                await RedirectResponse(f"{root}/")(scope, receive, send)
                return
            index, path = split_path(scope["method"], path, root)
            if path != scope["path"]:
                scope = {**scope, "path": path, "index": index}
        await self._app(scope, receive, send)


def split_path(method: str, path: str, root_path: str) -> tuple[str | None, str]:
    """The name of the index in ``path``, if there is one, and the route."""
    if root_path and path.startswith(f"{root_path}/"):
        path = path[len(root_path) :]
    index, path = split_index(method, path)
    return index, route_of(method, path)


class ByIndex:
    """Inside of all other middleware: the routes are asked of the index that is named."""

    def __init__(self, app: ASGIApp, indexes: Indexes) -> None:
        self._app = app
        self._indexes = indexes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        index = scope.get("index")
        if index is None:
            await self._app(scope, receive, send)
            return
        try:
            found = self._indexes.find(index)
        except BitsiftError as error:
            await problem_of(error)(scope, receive, send)
            return
        with found.asked():
            await self._app(scope, receive, send)


class Described:
    """Inside of all other middleware: pages about the API say where a proxy has it: where
    ``root_path`` says, or else a header of the proxy. What a caller puts there changes what it is
    answered itself.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in _DESCRIBED:
            root = self._root_path or _forwarded(scope)
            scope = {**scope, "root_path": root, "path": f"{root}{scope['path']}"}
        await self._app(scope, receive, send)


def _forwarded(scope: Scope) -> str:
    """The path that a proxy says it has taken off; "" where it says none."""
    given = "".join(values_of(scope["headers"], b"x-forwarded-prefix")[:1]).rstrip("/")
    return given if ROOT_PATH.fullmatch(given) else ""


class Allow:
    """Answers OPTIONS with what may be asked, which is no secret. Of browsers that ask for pages of
    other sites CORS has taken care before.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            methods = methods_of(scope["path"])
            if methods:
                allow = {"Allow": ", ".join(sorted(methods))}
                await Response(status_code=204, headers=allow)(scope, receive, send)
                return
        await self._app(scope, receive, send)
