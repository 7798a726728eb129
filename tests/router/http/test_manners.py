"""HTTP as people expect it: HEAD, OPTIONS, a slash too many, HTTP/1.0, a proxy's path, ETags. Over
real connections.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.serving.configured import access_settings
from bitsift.config.tree import Access, Serve
from bitsift.errors import InvalidRequest
from bitsift.router.http.access import AccessSettings
from bitsift.router.http.etags import HASHED_BYTES, is_named
from bitsift.router.http.routes import ROUTE_SCOPES, methods_of, route_of
from bitsift.router.shards.local import LocalLink
from tests.fakes import HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
TEXTS = [f"a text about number {i}" for i in range(40)]
READABLE = ["/", "/livez", "/readyz", "/metrics", "/v1/index", "/v1/cluster", "/openapi.json",
            "/docs", "/v1/documents/3", "/v1/search?q=a", "/static/app.js"]  # fmt: skip


@contextlib.contextmanager
def served(
    folder: Path,
    access: AccessSettings = AccessSettings(),  # noqa: B008 (frozen)
) -> Iterator[Running]:
    units = HashEncoder(DIMENSION).encode_documents(TEXTS)
    shards, calibration = make_shards(folder, units, DIMENSION, 2, TEXTS)
    links = [LocalLink(s) for s in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration), access)
    try:
        yield running
    finally:
        running.stop()
        for shard in shards:
            shard.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(tmp_path_factory.mktemp("manners")) as running:
        yield running


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Behind a proxy that has it at /a/b."""
    with served(tmp_path_factory.mktemp("behind"), AccessSettings(root_path="/a/b")) as running:
        yield running


def raw(url: str, request: str) -> tuple[str, dict[str, str], bytes]:
    """The status line, headers and body of the answer to what is sent as it stands, when the peer
    closes the connection.
    """
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as peer:
        peer.sendall(request.encode())
        data = b""
        while part := peer.recv(1 << 16):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    return status, {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


# --- HEAD and OPTIONS -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", READABLE)
def test_head_says_what_get_says_without_its_body(gateway: Running, path: str) -> None:
    got, head = (httpx.request(m, f"{gateway.url}{path}") for m in ("GET", "HEAD"))
    assert got.status_code == head.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if path in ("/", "/livez", "/static/app.js", "/openapi.json", "/v1/documents/3"):
        plain = httpx.get(f"{gateway.url}{path}", headers={"accept-encoding": "identity"})
        assert int(head.headers["content-length"]) == len(plain.content)


@pytest.mark.parametrize("route", ROUTE_SCOPES)
def test_options_says_what_may_be_asked(gateway: Running, route: str) -> None:
    method, path = route.split()
    path = f"{path}x" if path.endswith("/") and path != "/" else path
    answer = httpx.options(f"{gateway.url}{path}")
    assert (answer.status_code, answer.content) == (204, b"")
    allowed = answer.headers["allow"].split(", ")
    assert {method, "OPTIONS"} <= set(allowed)
    assert set(allowed) == methods_of(path)
    refused = httpx.request("PROPFIND", f"{gateway.url}{path}")
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == methods_of(path)


def test_options_of_no_route_is_a_404(gateway: Running) -> None:
    assert httpx.options(f"{gateway.url}/nothing").status_code == 404
    page = {"origin": "https://evil.example"}
    assert httpx.options(f"{gateway.url}/v1/search", headers=page).status_code == 403


# --- a slash too many -----------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTE_SCOPES)
def test_a_slash_behind_a_path_changes_nothing(gateway: Running, route: str) -> None:
    method, path = route.split()
    if path.endswith("/") or path.startswith("/v1/admin"):
        return
    body = {"json": {"query": "a", "ids": [], "documents": []}} if method == "POST" else {}
    one, other = (
        httpx.request(method, f"{gateway.url}{where}", **body)  # type: ignore[arg-type]
        for where in (path, f"{path}/")
    )
    assert one.status_code == other.status_code < 500
    assert one.status_code != 404
    if path != "/v1/search":
        assert one.headers["content-type"] == other.headers["content-type"]


def test_ids_and_roots_keep_their_slashes(gateway: Running) -> None:
    assert route_of("GET", "/v1/documents/delete/") == "/v1/documents/delete/"
    assert route_of("DELETE", "/v1/documents/delete/") == "/v1/documents/delete/"
    assert route_of("HEAD", "/v1/documents/") == "/v1/documents/"
    assert route_of("POST", "/v1/documents/delete/") == "/v1/documents/delete"
    assert route_of("POST", "/v1/documents/") == "/v1/documents"
    assert route_of("GET", "//") == "//"
    assert route_of("GET", "/v1/index//") == "/v1/index//"
    assert route_of("GET", "") == ""
    document = {"documents": [{"id": "a/", "text": "with a slash"}, {"id": "a", "text": "without"}]}
    assert httpx.post(f"{gateway.url}/v1/documents/", json=document).json()["created"] == 2
    found = httpx.get(f"{gateway.url}/v1/documents/a/").json()
    assert (found["id"], found["text"]) == ("a/", "with a slash")


# --- HTTP/1.0 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/v1/documents/3", "/v1/search?q=a", "/metrics"])
@pytest.mark.parametrize("host", ["", "Host: localhost\r\n"])
def test_http_1_0_is_answered_whole_and_its_connection_closed(
    gateway: Running, path: str, host: str
) -> None:
    asked = f"GET {path} HTTP/1.0\r\n{host}Accept-Encoding: gzip\r\n\r\n"
    status, headers, body = raw(gateway.url, asked)
    assert status.split()[1] == "200"
    assert "transfer-encoding" not in headers
    assert "content-encoding" not in headers
    assert int(headers["content-length"]) == len(body)


def test_http_1_0_from_a_foreign_host_or_page_is_refused(gateway: Running) -> None:
    for header, expected in (("Host: evil.example", "421"), ("Origin: http://evil.example", "403")):
        status, _, _ = raw(gateway.url, f"GET /v1/index HTTP/1.0\r\n{header}\r\n\r\n")
        assert status.split()[1] == expected
    status, _, _ = raw(gateway.url, "GET /v1/index HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert status.split()[1] == "400"  # 1.1 has a Host


# --- behind a proxy -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", READABLE)
def test_a_proxy_may_take_its_path_off_or_leave_it(behind: Running, path: str) -> None:
    off, left = (httpx.get(f"{behind.url}{root}{path}") for root in ("", "/a/b"))
    assert off.status_code == left.status_code == 200
    assert off.headers["content-type"] == left.headers["content-type"]


def test_pages_about_the_api_name_its_paths_as_callers_see_them(behind: Running) -> None:
    assert httpx.get(f"{behind.url}/openapi.json").json()["servers"] == [{"url": "/a/b"}]
    page = httpx.get(f"{behind.url}/a/b/docs").text
    assert "/a/b/openapi.json" in page
    for asset in ("/a/b/static-offline-docs/swagger-ui.css",):
        assert asset in page
        assert httpx.get(f"{behind.url}{asset}").status_code == 200


@pytest.mark.parametrize("header", ["/c/d", "/c/d/"])
def test_a_proxy_may_say_the_path_that_it_takes_off(gateway: Running, header: str) -> None:
    said = {"X-Forwarded-Prefix": header}
    page = httpx.get(f"{gateway.url}/docs", headers=said).text
    assert "/c/d/openapi.json" in page
    assert "/c/d/static-offline-docs/swagger-ui.css" in page
    described = httpx.get(f"{gateway.url}/openapi.json", headers=said).json()
    assert described["servers"] == [{"url": "/c/d"}]
    assert "servers" not in httpx.get(f"{gateway.url}/openapi.json").json()  # of other callers


@pytest.mark.parametrize("header", ["c", "//evil.example", "/a'><script>", "/", "/a b", "/a?b"])
def test_a_prefix_that_is_no_path_is_not_heard(gateway: Running, header: str) -> None:
    page = httpx.get(f"{gateway.url}/docs", headers={"X-Forwarded-Prefix": header}).text
    assert page == httpx.get(f"{gateway.url}/docs").text


def test_the_page_lies_below_its_own_address(behind: Running) -> None:
    answer = httpx.get(f"{behind.url}/a/b")
    assert (answer.status_code, answer.headers["location"]) == (307, "/a/b/")
    assert 'src="static/app.js"' in httpx.get(f"{behind.url}/a/b/").text
    assert httpx.get(f"{behind.url}/a/bc").status_code == 404
    assert httpx.get(f"{behind.url}/a/b/v1/index/").status_code == 200


@pytest.mark.parametrize("root", ["search", "/", "/a/", "/a//b", "/a?b", "/a b", "/ä", "//x"])
def test_what_is_no_path_is_refused(root: str) -> None:
    with pytest.raises(InvalidRequest, match="--root-path"):
        access_settings(Access(), Serve(root_path=root))
    assert access_settings(Access(), Serve(root_path="/a/b")).root_path == "/a/b"


# --- ETags ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 2 * HASHED_BYTES])
def test_a_document_that_a_caller_has_is_not_sent_again(gateway: Running, size: int) -> None:
    url, document_id = f"{gateway.url}/v1/documents", f"tagged{size}"

    def write(text: str) -> None:
        body = {"documents": [{"id": document_id, "text": text}]}
        httpx.post(url, json=body).raise_for_status()

    write("x" * size)
    first = httpx.get(f"{url}/{document_id}")
    tag = first.headers["etag"]
    assert tag.startswith('W/"')
    for header in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = httpx.get(f"{url}/{document_id}", headers={"If-None-Match": header})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert httpx.get(f"{url}/{document_id}", headers={"If-None-Match": '"x"'}).status_code == 200
    write("x" * size)  # the same content
    assert httpx.get(f"{url}/{document_id}").headers["etag"] == tag
    write("y" * size)
    other = httpx.get(f"{url}/{document_id}", headers={"If-None-Match": tag})
    assert (other.status_code, other.headers["etag"] == tag) == (200, False)
    assert httpx.get(f"{url}/nobody", headers={"If-None-Match": "*"}).status_code == 404


@given(st.text())
def test_no_header_names_a_tag_by_accident(header: str) -> None:
    named = is_named('W/"abc"', header)
    assert named == ('"abc"' in [one.strip().removeprefix("W/") for one in header.split(",")]) or (
        header.strip() == "*"
    )


ROUTES_OF_BODIES = [
    ("POST", "/v1/search", {"query": "a"}),
    ("POST", "/v1/search/batch", {"searches": [{"query": "a"}]}),
    ("POST", "/v1/documents/get", {"ids": ["3"]}),
    ("POST", "/v1/documents/count", {}),
    ("POST", "/v1/documents/list", {}),
    ("POST", "/v1/documents", {"documents": [{"id": "marked", "text": "a"}]}),
    ("PATCH", "/v1/documents/marked", {"metadata": {"a": 1}}),
    ("POST", "/v1/documents/delete", {"ids": ["marked"]}),
]


def test_a_byte_order_mark_before_a_body_is_left_out(gateway: Running) -> None:
    for method, path, body in ROUTES_OF_BODIES:
        data = json.dumps(body).encode("utf-8-sig")
        headers = {"Content-Type": "application/json"}
        answer = httpx.request(method, gateway.url + path, content=data, headers=headers)
        assert answer.status_code == 200, (path, answer.text)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_body_in_utf_16_is_told_what_it_is(gateway: Running, encoding: str) -> None:
    data = "\N{BYTE ORDER MARK}{}".encode(encoding)
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{gateway.url}/v1/search", content=data, headers=headers)
    assert answer.status_code == 422
    assert "it is in UTF-16" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/search?q=caf%e9"),
        ("GET", "/v1/search?q=%ff%fe"),
        ("GET", "/v1/search?q=a&filter=x%3D%ed%a0%80"),
        ("GET", "/v1/documents/%e9"),
        ("DELETE", "/v1/documents/%e9"),
    ],
)
def test_a_url_that_is_not_utf_8_asks_for_nothing_else(
    gateway: Running, method: str, target: str
) -> None:
    replaced = {"id": "\N{REPLACEMENT CHARACTER}", "text": "another document"}
    httpx.post(f"{gateway.url}/v1/documents", json={"documents": [replaced]})
    status, _, body = raw(gateway.url, f"{method} {target} HTTP/1.0\r\n\r\n")
    assert " 422 " in status
    assert "not UTF-8" in json.loads(body)["detail"]
    assert httpx.get(f"{gateway.url}/v1/documents/%EF%BF%BD").status_code == 200


@pytest.mark.parametrize(
    "kind",
    ["application/x-ndjson", "application/jsonl", "Application/NDJSON; charset=utf-8",
     "application/x-jsonlines"],
)  # fmt: skip
def test_lines_of_json_have_several_names(gateway: Running, kind: str) -> None:
    line = '\ufeff{"id": "lines", "text": "a"}\r\n'.encode()
    headers = {"Content-Type": kind}
    answer = httpx.post(f"{gateway.url}/v1/documents", content=line, headers=headers)
    first, last = map(json.loads, answer.text.splitlines())
    assert (first["line"], first["id"]) == (1, "lines")
    assert last["totals"]["created"] + last["totals"]["unchanged"] == 1


@pytest.mark.parametrize("kind", ["text/csv", "application/vnd.apache.parquet", "text/plain"])
def test_a_table_is_told_what_is_taken(gateway: Running, kind: str) -> None:
    headers = {"Content-Type": kind}
    answer = httpx.post(f"{gateway.url}/v1/documents", content=b"id,text\n", headers=headers)
    assert answer.status_code == 415
    assert "application/json or application/x-ndjson" in answer.json()["detail"]
