"""The middleware that asks for the key that a request needs (routes.py)."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import parse_qsl

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Request

from bitsift.errors import BitsiftError, Forbidden, Unauthorized
from bitsift.router.http.gate import values_of
from bitsift.router.http.keys import KEY_PATTERN, Key, KeyRing
from bitsift.router.http.problems import problem
from bitsift.router.http.routes import is_of_index, methods_of, needed_scope
from bitsift.router.indexes import Indexes

_URL_NAMES = frozenset({"api_key", "api-key", "apikey", "x-api-key", "access_token"})

_DESCRIPTIONS = ("/docs", "/openapi.json", "/static-offline-docs/")


class Authorization:
    """Lets a request pass if it has a key with the scope that its route needs."""

    def __init__(self, app: ASGIApp, keys: KeyRing, indexes: Indexes) -> None:
        self._app = app
        self._keys = keys
        self._indexes = indexes

    async def __call__(self, scope: Request, receive: Receive, send: Send) -> None:
        """Answer with a problem (401, 403, 405), or go on."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Request) -> Response | None:
        try:
            return self._check(scope)
        except (Unauthorized, Forbidden) as error:
            return _refusal(error)

    def _check(self, scope: Request) -> Response | None:
        """The answer to a method that its path does not have, for callers with any key: an admin
        key would not help. Raises Unauthorized, Forbidden.
        """
        if KEY_PATTERN.search(scope["path"]) or _holds_key(scope["query_string"].decode("latin-1")):
            raise Unauthorized(
                "a key in a URL ends up in logs and histories: send it in the header "
                "Authorization: Bearer KEY, and replace this one"
            )
        needed = needed_scope(scope["method"], scope["path"])
        if needed is None:
            return None
        key = self._key_of(scope)
        methods = methods_of(scope["path"])
        if methods and scope["method"] not in methods:
            allow = {"Allow": ", ".join(sorted(methods))}
            said = HTTPStatus.METHOD_NOT_ALLOWED.phrase
            return problem(405, "HTTPError", "request refused", said, headers=allow)
        if not key.scope.includes(needed):
            raise Forbidden(
                f"this needs a key of scope {needed}; key {key.id} has scope {key.scope}"
            )
        if key.indexes:
            self._check_index(key, scope)
        scope.setdefault("state", {})["key"] = key.id
        return None

    def _check_index(self, key: Key, scope: Request) -> None:
        """Raises Forbidden where a key that is for some indexes asks anything else."""
        listed, path = ", ".join(key.indexes), scope["path"]
        if path.startswith(_DESCRIPTIONS):
            return
        if not is_of_index(path):
            raise Forbidden(f"this is of the whole server; key {key.id} is for {listed} only")
        asked = scope.get("index")
        if asked in key.indexes:
            return
        name = self._indexes.name_of(asked)
        if name not in key.indexes:
            raise Forbidden(f"this asks the index {name}; key {key.id} is for {listed} only")
        scope["index"] = name  # whatever an alias means by the time that the body has come

    def _key_of(self, scope: Request) -> Key:
        presented = _presented(scope)
        if not presented:
            raise Unauthorized(
                "this needs an API key: send it in the header Authorization: Bearer KEY, "
                "or in x-api-key"
            )
        if len(presented) > 1:
            raise Unauthorized("two different API keys were sent; send one")
        key = self._keys.find(presented.pop())
        if key is None:
            raise Unauthorized("this API key is unknown or was revoked; use another")
        if key.is_expired(datetime.now(UTC)):
            raise Unauthorized(f"the API key {key.id} has expired; use another")
        return key


def _presented(scope: Request) -> set[str]:
    """The keys in the headers. A password for a proxy (Authorization: Basic) is none."""
    found = set(values_of(scope["headers"], b"x-api-key"))
    for value in values_of(scope["headers"], b"authorization"):
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() == "bearer":
            found.add(credentials.strip())
    return found


def _holds_key(query: str) -> bool:
    """Whether a query string holds a key: by its name, or by its look."""
    fields = parse_qsl(query, keep_blank_values=True)
    return any(
        name.lower() in _URL_NAMES or KEY_PATTERN.search(value) is not None
        for name, value in fields
    )


def _refusal(error: BitsiftError) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
    return problem(
        error.status, type(error).__name__, error.title, error.message, error.outcome, headers
    )
