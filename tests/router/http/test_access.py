"""Who may ask a gateway for what: real keys, real HTTP, and what browsers send (B3, B15)."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route

from bitsift.client import Client
from bitsift.errors import Forbidden, InvalidRequest, Unauthorized
from bitsift.router.http.access import AccessSettings
from bitsift.router.http.gate import HOSTS_REMEMBERED_MAX
from bitsift.router.http.gateway import create_admin_app, create_app
from bitsift.router.http.keys import RECHECK_S, Scope, key_file_bytes, new_key
from bitsift.router.http.routes import ROUTE_SCOPES, needed_scope
from bitsift.router.shards.local import LocalLink
from tests.fakes import make_service, make_shards, make_writer
from tests.gateways import Running, running_empty

JSON = {"content-type": "application/json"}
# verify=False below: plain HTTP, and loading the certificates costs 30 ms a call.
SITE, EVIL = "https://app.example.com", "http://evil.example"


class Guarded:
    """A gateway with a key of every scope, and one that has expired."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.json"
        made = {scope.value: new_key(f"the {scope} key", scope, None) for scope in Scope}
        made["expired"] = new_key("", Scope.ADMIN, datetime.now(UTC))
        self.kept = {name: key for name, (key, _) in made.items()}
        self.keys = {name: text for name, (_, text) in made.items()}
        self.keep(*self.kept)
        self.access = AccessSettings(keys=self.path, cors_origins=(SITE,))
        self.url = ""

    def keep(self, *names: str) -> None:
        """Leave these keys in the file."""
        aside = self.path.with_name("aside")
        aside.write_bytes(key_file_bytes([self.kept[name] for name in names]))
        aside.chmod(0o600)
        aside.replace(self.path)

    def ask(self, method: str, path: str, key: str | None, **more: Any) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        headers |= JSON | more.pop("headers", {})
        return httpx.request(method, f"{self.url}{path}", headers=headers, verify=False, **more)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    found = Guarded(folder)
    with running_empty(folder, 32, found.access) as gateway:
        found.url = gateway.url
        yield found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Without keys, as on loopback."""
    with running_empty(tmp_path_factory.mktemp("open"), 32) as running:
        yield running


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[tuple[FastAPI, FastAPI]]:
    """The application with all routes on one port, and that of the admin port."""
    shards, calibration = make_shards(tmp_path, np.empty((0, 32), np.float32), 32, 1)
    links = [LocalLink(shard) for shard in shards]
    service = make_service(links, calibration)
    writer = make_writer(links, calibration)
    yield create_app(service, writer), create_admin_app(service, AccessSettings())
    shards[0].close()


# --- scopes -----------------------------------------------------------------------------------


def routes_of(app: FastAPI) -> set[str]:
    """Every route as ROUTE_SCOPES names it; a path with a parameter up to the parameter."""
    found = set()
    for route in app.routes:
        assert isinstance(route, (Route, Mount)), f"{route} is of a kind that no key guards"
        methods = {"GET"} if isinstance(route, Mount) else (route.methods or set()) - {"HEAD"}
        path = f"{route.path}/" if isinstance(route, Mount) else route.path.partition("{")[0]
        found |= {f"{method} {path}" for method in methods}
    return found


def test_every_route_says_which_scope_it_needs(apps: tuple[FastAPI, FastAPI]) -> None:
    app, admin = apps
    assert routes_of(app) == set(ROUTE_SCOPES)  # a new route needs a line there
    assert routes_of(admin) <= set(ROUTE_SCOPES)


@pytest.mark.parametrize(("route", "scope"), ROUTE_SCOPES.items())
def test_every_route_refuses_all_keys_but_those_of_its_scope(
    guarded: Guarded, route: str, scope: Scope | None
) -> None:
    method, path = route.split()
    path += "a" if path.endswith("/") and path != "/" else ""
    for name in (None, "expired", *Scope, "unknown"):
        text = (
            new_key("", Scope.ADMIN, None)[1] if name == "unknown" else guarded.keys.get(name or "")
        )
        answer = guarded.ask(method, path, text, content=b"{" if method == "POST" else None)
        if scope is None:
            expected = None
        elif name in (None, "expired", "unknown"):
            expected = 401
        else:
            expected = None if Scope(name).includes(scope) else 403
        if expected is None:
            assert answer.status_code not in (401, 403) or path == "/v1/admin/backup"
            continue
        assert answer.status_code == expected, (name, answer.text)
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["type"] == (
            "bitsift:Unauthorized" if expected == 401 else "bitsift:Forbidden"
        )
        assert (answer.headers.get("www-authenticate") == "Bearer") == (expected == 401)
        assert text is None or text.rpartition("_")[2] not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/nothing"), ("POST", "/v1/admin/new"), ("GET", "/v1/"), ("GET", "/docs/x"),
     ("GET", "/staticx"), ("GET", "//")],
)  # fmt: skip
def test_a_route_that_nobody_declared_needs_an_admin_key(
    guarded: Guarded, method: str, path: str
) -> None:
    assert needed_scope(method, path) is Scope.ADMIN
    assert guarded.ask(method, path, None).status_code == 401
    assert guarded.ask(method, path, guarded.keys["write"]).status_code == 403
    assert guarded.ask(method, path, guarded.keys["admin"]).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "/v1/search", "GET, HEAD, OPTIONS, POST"), ("PUT", "/v1/documents", "OPTIONS, POST"),
     ("DELETE", "/v1/index", "GET, HEAD, OPTIONS"), ("TRACE", "/", "GET, HEAD, OPTIONS"),
     ("POST", "/v1/documents/a", "DELETE, GET, HEAD, OPTIONS, PATCH"),
     ("GET", "/v1/admin/backup", "OPTIONS, POST")],
)  # fmt: skip
def test_a_method_that_a_path_does_not_have_is_a_405_for_every_key(
    guarded: Guarded, method: str, path: str, allowed: str
) -> None:
    assert guarded.ask(method, path, None).status_code == 401
    for scope in Scope:
        answer = guarded.ask(method, path, guarded.keys[scope])
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.json()["outcome"] == "not_done"


@pytest.mark.parametrize(
    "path",
    ["/v1/admin/../livez", "/static/../v1/index", "/static/..%2fv1/index", "//livez", "/v1/index/"],
)
def test_no_detour_leads_past_the_key(guarded: Guarded, path: str) -> None:
    """Sent as it stands: clients that tidy a path up would hide the detour."""
    address = urlsplit(guarded.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        status = int(raw.recv(4096).split()[1])
    assert status in (401, 404)


def test_head_needs_what_get_needs() -> None:
    assert needed_scope("HEAD", "/openapi.json") is Scope.READ
    assert needed_scope("HEAD", "/static/app.js") is None
    assert needed_scope("HEAD", "/v1/documents/a/b") is Scope.READ


# --- keys in requests ---------------------------------------------------------------------------


def test_both_headers_carry_a_key_and_a_proxys_password_is_none(guarded: Guarded) -> None:
    read, write = guarded.keys["read"], guarded.keys["write"]
    for headers in (
        {"x-api-key": read},
        {"authorization": f"bearer  {read}"},
        {"authorization": f"Bearer {read}", "x-api-key": read},
        {"authorization": "Basic dXNlcjpwYXNzd29yZA==", "x-api-key": read},
    ):
        assert guarded.ask("GET", "/v1/index", None, headers=headers).status_code == 200
    wrong: list[dict[str, Any]] = [
        {"authorization": f"Bearer {read}", "x-api-key": write},
        {"authorization": f"Basic {read}"},
        {"authorization": "Bearer"},
        {"authorization": read},
        {"x-api-key": ""},
        {"x-api-key": "é".encode("latin-1")},
        {"cookie": f"api_key={read}"},
        {"x-api-key": f"{read}, {read}"},
    ]
    for refused in wrong:
        answer = guarded.ask("GET", "/v1/index", None, headers=refused)
        assert answer.status_code == 401, refused


@pytest.mark.parametrize("path", ["/v1/search?q=a", "/", "/v1/index?x=1"])
@pytest.mark.parametrize("name", ["api_key", "API-Key", "x-api-key", "access_token", "q", "k"])
def test_a_key_in_the_url_is_refused_even_with_one_in_the_header(
    guarded: Guarded, path: str, name: str
) -> None:
    read = guarded.keys["read"]
    for shown in (read, read.replace("_", "%5F")):
        mark = "&" if "?" in path else "?"
        answer = guarded.ask("GET", f"{path}{mark}{name}={shown}", read)
        assert answer.status_code == 401
        assert "header" in answer.json()["detail"]
        assert read not in answer.text


def test_a_revoked_key_is_refused_within_seconds_while_the_server_runs(guarded: Guarded) -> None:
    assert guarded.ask("GET", "/v1/index", guarded.keys["write"]).status_code == 200
    guarded.keep("read", "admin", "expired")
    try:
        deadline = RECHECK_S + 2
        statuses = []
        for _ in range(int(deadline / 0.1)):
            statuses.append(guarded.ask("GET", "/v1/index", guarded.keys["write"]).status_code)
            if statuses[-1] == 401:
                break
            asyncio.run(asyncio.sleep(0.1))
        assert statuses[-1] == 401
        assert guarded.ask("GET", "/v1/index", guarded.keys["read"]).status_code == 200
    finally:
        guarded.keep(*guarded.kept)
        asyncio.run(asyncio.sleep(RECHECK_S))
    assert guarded.ask("GET", "/v1/index", guarded.keys["write"]).status_code == 200


def test_no_key_appears_in_a_log(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(0):
        for name, text in guarded.keys.items():
            guarded.ask("GET", "/v1/index", text)
            guarded.ask("POST", "/v1/admin/backup", text, content=f'{{"dest": "/{name}"}}')
            guarded.ask("GET", f"/v1/search?q={text}", text)
    ours = [record for record in caplog.records if not record.name.startswith(("http", "h11"))]
    for text in guarded.keys.values():
        assert text.rpartition("_")[2] not in str([record.getMessage() for record in ours])


def test_the_client_takes_a_key_and_raises_what_the_gateway_says(guarded: Guarded) -> None:
    with Client(guarded.url, guarded.keys["read"]) as client:
        assert client.index()["documents"] == 0
        with pytest.raises(Forbidden, match="write"):
            client.delete("a")
    with Client(guarded.url) as nobody, pytest.raises(Unauthorized, match="API key"):
        nobody.index()


def answer_to(url: str, head: str) -> tuple[int, dict[str, Any]]:
    """The status and the problem for a request of which only the head is ever sent."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
        raw.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
        data = b""
        while b'"detail"' not in data:
            more = raw.recv(65_536)
            assert more, data
            data += more
    return int(data.split()[1]), json.loads(data[data.index(b"{") :])


@pytest.mark.parametrize(
    ("line", "status"),
    [("host: evil.example", 421), (f"origin: {EVIL}", 403), ("content-type: text/plain", 415),
     ("content-type: application/json", 401)],
)  # fmt: skip
def test_a_request_is_refused_before_its_body_is_read(
    guarded: Guarded, line: str, status: int
) -> None:
    host = "" if line.startswith("host") else "host: localhost\n"
    key = guarded.keys["admin"] if status == 415 else "x"
    head = (
        f"POST /v1/documents HTTP/1.1\n{host}{line}\nx-api-key: {key}\ncontent-length: 60000000\n"
    )
    assert answer_to(guarded.url, head)[0] == status


# --- hosts and origins: B15 -----------------------------------------------------------------------


def test_another_page_cannot_start_a_compaction(gateway: Running) -> None:
    """Any web page could start a compaction once: each of its three marks alone is refused."""
    url = f"{gateway.url}/v1/admin/compact"
    own = {"host": urlsplit(gateway.url).netloc, **JSON}
    assert httpx.post(url, headers=own).status_code == 200
    for mark, status in (
        ({"content-type": "text/plain"}, 415),
        ({"origin": EVIL}, 403),
        ({"host": "evil.example"}, 421),
    ):
        answer = httpx.post(url, headers=own | mark)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert httpx.post(url).status_code == 415  # no body, no type: a form can do that


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.3.4.5:99", "[::1]:8", "LOCALHOST."]
)
def test_loopback_is_answered_to_under_its_names(gateway: Running, host: str) -> None:
    assert httpx.get(f"{gateway.url}/livez", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/livez", "/v1/index", "/static/app.js", "/nothing"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "10.0.0.1", "localhost.evil"]
)
def test_a_rebound_name_reaches_nothing(gateway: Running, path: str, host: str) -> None:
    answer = httpx.get(f"{gateway.url}{path}", headers={"host": host})
    assert answer.status_code == 421
    assert "--allowed-host" in answer.json()["detail"]


@pytest.mark.parametrize("line", ["", "host:\n", "host: a b\n", "host: localhost\nhost: evil\n"])
def test_one_host_header_is_needed(gateway: Running, line: str) -> None:
    assert answer_to(gateway.url, f"GET /livez HTTP/1.1\n{line}")[0] == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/documents/a", "/v1/documents", "/livez", "/", "/nothing"])
@pytest.mark.parametrize("origin", [EVIL, "null", "https://127.0.0.1", "http://localhost:1", ""])
def test_a_foreign_origin_is_refused_on_every_method(
    gateway: Running, method: str, path: str, origin: str
) -> None:
    headers = {"origin": origin, **JSON, "access-control-request-method": "POST"}
    answer = httpx.request(method, f"{gateway.url}{path}", headers=headers, verify=False)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("fetched", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": EVIL}, 403),
    ],
)  # fmt: skip
def test_a_browser_says_which_page_asks(
    gateway: Running, fetched: dict[str, str], status: int
) -> None:
    """An image or a script of another page sends no Origin, but says that it is of another site."""
    assert httpx.get(f"{gateway.url}/v1/index", headers=fetched).status_code == status


def test_the_servers_own_page_may_ask(gateway: Running) -> None:
    for host in (urlsplit(gateway.url).netloc, "localhost:8000"):
        headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        assert httpx.post(
            f"{gateway.url}/v1/search", json={"query": "a"}, headers=headers
        ).is_success


def test_more_hosts_than_are_remembered_are_told_apart(gateway: Running) -> None:
    with httpx.Client() as client:
        for number in range(HOSTS_REMEMBERED_MAX + 1):
            for host, status in ((f"evil{number}.example", 421), (f"127.0.0.{number + 1}", 200)):
                answer = client.get(f"{gateway.url}/livez", headers={"host": host})
                assert answer.status_code == status


# --- CORS -----------------------------------------------------------------------------------------


def test_a_site_that_is_allowed_is_told_so_before_and_after(guarded: Guarded) -> None:
    asks = {"origin": SITE, "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type"}  # fmt: skip
    before = guarded.ask("OPTIONS", "/v1/search", None, headers=asks)
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == SITE
    assert "POST" in before.headers["access-control-allow-methods"]
    assert "authorization" in before.headers["access-control-allow-headers"].lower()
    assert "Origin" in before.headers["vary"]
    assert "access-control-allow-credentials" not in before.headers
    for key, status in ((guarded.keys["read"], 200), (None, 401)):
        found = guarded.ask("GET", "/v1/index", key, headers={"origin": SITE})
        assert found.status_code == status
        assert found.headers["access-control-allow-origin"] == SITE
        assert "Origin" in found.headers["vary"]


@pytest.mark.parametrize(
    "origin", [EVIL, f"{SITE}.evil.example", f"{SITE}:444", "http://app.example.com"]
)
def test_a_site_that_is_not_allowed_gets_no_preflight(guarded: Guarded, origin: str) -> None:
    asks = {"origin": origin, "access-control-request-method": "POST"}
    answer = guarded.ask("OPTIONS", "/v1/search", None, headers=asks)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_without_cors_no_answer_speaks_of_it(gateway: Running) -> None:
    asks = {"origin": gateway.url, "access-control-request-method": "POST"}
    answer = httpx.options(f"{gateway.url}/v1/search", headers=asks)
    assert answer.status_code == 204
    assert not [name for name in answer.headers if name.startswith("access-control")]


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "", "search.example.invalid"])
def test_an_open_door_needs_a_key_or_a_word(host: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"--keys FILE.*--insecure"):
        AccessSettings().check(host)
    with pytest.raises(InvalidRequest, match=r"--keys FILE.*--insecure"):
        AccessSettings(admin_port=0, admin_host=host).check("127.0.0.1")
    settings = AccessSettings(insecure=True)
    settings.check(host)
    (warning,) = settings.warnings(host)
    assert "no key is asked for" in warning
    guarded = Guarded(tmp_path).access
    guarded.check(host)
    assert ["unencrypted" in warning for warning in guarded.warnings(host)] == [True]


def test_loopback_needs_nothing_and_is_warned_of_nothing() -> None:
    for settings in (AccessSettings(), AccessSettings(insecure=True)):
        settings.check("127.0.0.1")
        assert settings.warnings("127.0.0.1") == []


def test_settings_that_contradict_or_mean_nothing_are_refused(tmp_path: Path) -> None:
    keys = Guarded(tmp_path).path
    bad = {
        "not both": AccessSettings(keys=keys, insecure=True),
        "--allowed-host": AccessSettings(allowed_hosts=("a:1",)),
        "--backup-root": AccessSettings(backup_root="http://x"),
    }
    for match, settings in bad.items():
        with pytest.raises(InvalidRequest, match=match):
            settings.check("127.0.0.1")
    for origin in (
        "*",
        "null",
        "app.example.com",
        f"{SITE}/",
        f"{SITE}/x",
        "https://A.example",
        "ftp://a",
    ):
        with pytest.raises(InvalidRequest, match=re.escape(origin)):
            AccessSettings(cors_origins=(origin,)).check("127.0.0.1")
    keys.chmod(0o644)
    with pytest.raises(InvalidRequest, match="chmod 600"):
        AccessSettings(keys=keys).check("127.0.0.1")


# --- the admin routes on a port of their own ------------------------------------------------------


def test_with_an_admin_port_the_admin_routes_are_there_only(tmp_path: Path) -> None:
    access = AccessSettings(admin_port=0, backup_root=str(tmp_path))
    with running_empty(tmp_path, 32, access) as main:
        for path in ("/v1/admin/compact", "/v1/admin/backup"):
            assert httpx.post(f"{main.url}{path}", json={"dest": "/x"}).status_code == 404
        assert "/v1/admin/compact" not in httpx.get(f"{main.url}/openapi.json").text

        async def ask(method: str, path: str) -> int:
            app = create_admin_app(main.service, access)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                answer = await client.request(method, path, headers=JSON)
                return answer.status_code

        assert asyncio.run(ask("POST", "/v1/admin/compact")) == 200
        assert asyncio.run(ask("POST", "/v1/admin/backup")) == 422
        assert asyncio.run(ask("GET", "/livez")) == 200
        for path in (
            "/",
            "/v1/index",
            "/v1/search?q=a",
            "/docs",
            "/openapi.json",
            "/static/app.js",
        ):
            assert asyncio.run(ask("GET", path)) == 404


def test_the_admin_port_asks_for_admin_keys_too(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    access = replace(guarded.access, admin_port=0)
    with running_empty(tmp_path / "index", 32, access) as main:

        async def ask(name: str) -> int:
            transport = httpx.ASGITransport(create_admin_app(main.service, access))
            headers = {**JSON, "x-api-key": guarded.keys[name]}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                return (await client.post("/v1/admin/compact", headers=headers)).status_code

        assert [asyncio.run(ask(name)) for name in ("read", "write", "admin")] == [403, 403, 200]
