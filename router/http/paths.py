"""One path for each route: without what a proxy puts before it, and without a slash behind it."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bitsift.router.http.routes import methods_of, route_of

_DESCRIBED = ("/docs", "/docs/oauth2-redirect", "/openapi.json")
"""What names other paths, with all that a proxy puts before them."""


class OnePath:
    """Around all other middleware, which knows routes by their paths.

    A proxy may take ``root_path`` off or leave it.
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
            if root and path.startswith(f"{root}/"):
                path = path[len(root) :]
            path = route_of(scope["method"], path)
            if path != scope["path"]:
                scope = {**scope, "path": path}
        await self._app(scope, receive, send)


class Described:
    """Inside of all other middleware: pages about the API say where a proxy has it."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in _DESCRIBED:
            path = f"{self._root_path}{scope['path']}"
            scope = {**scope, "root_path": self._root_path, "path": path}
        await self._app(scope, receive, send)


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
