"""Both clients against real HTTP servers that fail in every way: what is raised, what repeated."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from bitsift import errors
from bitsift.client import AsyncClient, Client
from bitsift.client.received import SHOWN_CHARACTERS_MAX
from bitsift.client.retries import ATTEMPTS_MAX
from bitsift.errors import (
    BitsiftError,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestOutcome,
    RequestTooLarge,
    ShardUnavailable,
    StorageFull,
    Unauthorized,
    Unavailable,
    WritesStopped,
)
from tests.threads import ended

NOT_DONE, UNKNOWN, DONE = RequestOutcome
HTML = b"<html>\n<h1>proxy says no</h1></html>"
WRITTEN = {
    "results": [{"id": "a", "status": "created", "error": None}],
    "created": 1, "updated": 0, "unchanged": 0, "rejected": 0, "failed": 0,
}  # fmt: skip
DOCUMENT = {"id": "a", "text": "t"}
Behaviour = Callable[[BaseHTTPRequestHandler], None]


def answers(status: int, body: bytes | dict[str, Any], **headers: str) -> Behaviour:
    """Reads the whole request, then answers."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return behave


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    """After the whole request arrived."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def breaks_off(handler: BaseHTTPRequestHandler) -> None:
    """In the middle of the answer."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
    handler.close_connection = True


def garbles(handler: BaseHTTPRequestHandler) -> None:
    """An answer that says it is gzip and is not."""
    answers(200, b"no gzip", content_encoding="gzip")(handler)


def says_nothing(handler: BaseHTTPRequestHandler) -> None:
    server: Any = handler.server
    server.released.wait(30)


def problem(kind: str, status: int, **more: Any) -> dict[str, Any]:
    return {"type": f"bitsift:{kind}", "title": "", "status": status, "detail": "said so", **more}


class Server(ThreadingHTTPServer):
    """Behaves as told, request by request, the last one for ever; keeps what was asked."""

    daemon_threads = True

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.released = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the head's acknowledgement
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((f"{self.command} {self.path}", headers, body))
        left = self.server.behaviours
        (left.pop(0) if len(left) > 1 else left[0])(self)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: Any) -> None: ...


@contextlib.contextmanager
def serving(*behaviours: Behaviour) -> Iterator[Server]:
    server = Server(*behaviours)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        ended(thread)
        server.server_close()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clients wait between two attempts; the tests do not."""
    waited: list[float] = []
    pause = asyncio.sleep

    async def waited_for(wait_s: float) -> None:
        waited.append(wait_s)
        await pause(0)

    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(asyncio, "sleep", waited_for)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "BITSIFT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return waited


class Sync:
    """A Client and an AsyncClient in one skin: every test is of both."""

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous

    def __call__(self, url: str, method: str, *args: Any, key: str | None = None, **kw: Any) -> Any:
        timeout_s = kw.pop("timeout_s", 10.0)
        if not self.asynchronous:
            with Client(url, key, timeout_s=timeout_s) as client:
                return getattr(client, method)(*args, **kw)

        async def scenario() -> Any:
            async with AsyncClient(url, key, timeout_s=timeout_s) as client:
                return await getattr(client, method)(*args, **kw)

        return asyncio.run(scenario())


@pytest.fixture(params=[False, True], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Sync:
    return Sync(request.param)


# --- what came back ------------------------------------------------------------------------

LOST = {
    "hangs up": (hangs_up, Unavailable),
    "breaks off": (breaks_off, Unavailable),
    "garbles": (garbles, Unavailable),
    "says nothing": (says_nothing, DeadlineExceeded),
    "502 of a proxy": (answers(502, HTML), Unavailable),
    "503 of a proxy": (answers(503, HTML), Unavailable),
    "504 of a proxy": (answers(504, HTML), DeadlineExceeded),
    "a shard that died": (
        answers(503, problem("ShardUnavailable", 503, outcome="unknown"), retry_after="0"),
        ShardUnavailable,
    ),
    "an older gateway": (answers(504, problem("DeadlineExceeded", 504)), DeadlineExceeded),
}


@pytest.mark.parametrize("name", LOST)
def test_a_write_that_may_have_arrived_is_sent_once_and_its_outcome_is_unknown(
    ask: Sync, name: str
) -> None:
    """B7: sent again, it would undo what others wrote to the same id in between."""
    behaviour, kind = LOST[name]
    calls: list[tuple[Any, ...]] = [
        ("add", [DOCUMENT]),
        ("delete", "a"),
        ("compact",),
        ("backup", "/dest"),
    ]
    for method, *arguments in calls:
        with serving(behaviour) as server:
            short = 0.3 if behaviour is says_nothing and method in ("compact", "backup") else 10.0
            if behaviour is says_nothing and short == 10.0:
                continue  # a write waits 600 s for its answer: see below
            with pytest.raises(kind) as raised:
                ask(server.url, method, *arguments, timeout_s=short)
            assert len(server.asked) == 1
            assert type(raised.value) is kind
            assert raised.value.outcome is UNKNOWN


def test_a_write_whose_answer_does_not_come_is_sent_once(
    ask: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsift.client.calls.WRITE_TIMEOUT_S", 0.3)
    for method, argument in (("add", [DOCUMENT]), ("delete", "a")):
        with serving(says_nothing) as server:
            with pytest.raises(DeadlineExceeded, match="broke off its answer") as raised:
                ask(server.url, method, argument)
            assert (len(server.asked), raised.value.outcome) == (1, UNKNOWN)


@pytest.mark.parametrize("name", [name for name in LOST if name != "says nothing"])
def test_a_read_that_may_have_arrived_is_sent_again(ask: Sync, name: str) -> None:
    with serving(LOST[name][0]) as server:
        with pytest.raises(LOST[name][1]):
            ask(server.url, "index")
        assert len(server.asked) == ATTEMPTS_MAX
    with serving(LOST[name][0], answers(200, {"name": "n"})) as server:
        assert ask(server.url, "index") == {"name": "n"}
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    "refusal",
    [
        answers(429, problem("Overloaded", 429, outcome="not_done"), retry_after="1"),
        answers(429, HTML),
        answers(503, problem("ShardUnavailable", 503, outcome="not_done")),
        answers(503, problem("Unavailable", 503)),
    ],
)
def test_a_write_that_was_refused_is_sent_again(ask: Sync, refusal: Behaviour) -> None:
    with serving(refusal, refusal, answers(200, WRITTEN)) as server:
        assert ask(server.url, "add", [DOCUMENT]).created == 1
        assert len(server.asked) == 3
        assert len({body for _, _, body in server.asked}) == 1
    with serving(refusal) as server:
        with pytest.raises(BitsiftError) as raised:
            ask(server.url, "delete", "a")
        assert (len(server.asked), raised.value.outcome) == (ATTEMPTS_MAX, NOT_DONE)


def test_nothing_was_done_where_nobody_listens(ask: Sync, waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(Unavailable, match=rf"^{url} cannot be reached") as raised:
        ask(url, "add", [DOCUMENT])
    assert raised.value.outcome is NOT_DONE
    assert len(waits) == ATTEMPTS_MAX - 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest), (401, Unauthorized), (403, Forbidden), (404, NotFound),
        (405, InvalidRequest), (408, InvalidRequest), (413, RequestTooLarge),
        (415, InvalidRequest), (422, InvalidRequest), (429, Overloaded), (301, BitsiftError),
        (500, BitsiftError), (502, Unavailable), (503, Unavailable), (504, DeadlineExceeded),
        (507, StorageFull), (599, BitsiftError),
    ],
)  # fmt: skip
def test_an_answer_of_anything_between_says_what_it_is(
    ask: Sync, status: int, kind: type[BitsiftError]
) -> None:
    for body in (HTML, b'{"type": "about:blank", "detail": "x"}'):
        with serving(answers(status, body, location="https://else.where/")) as server:
            with pytest.raises(kind, match=f"{server.url} answered HTTP {status}") as raised:
                ask(server.url, "add", [DOCUMENT])
            assert type(raised.value) is kind
            refused = 400 <= status < 500
            assert raised.value.outcome is (NOT_DONE if refused else UNKNOWN)
            assert "\n" not in raised.value.message
            assert "to https://else.where/" in raised.value.message


def test_a_long_answer_of_anything_between_is_shown_in_part(ask: Sync) -> None:
    body = b"z" * (SHOWN_CHARACTERS_MAX + 1)
    with serving(answers(502, body)) as server, pytest.raises(BitsiftError) as raised:
        ask(server.url, "add", [DOCUMENT])
    assert raised.value.message.count("z") == SHOWN_CHARACTERS_MAX


@pytest.mark.parametrize("body", [HTML, b"", b"[]", b'{"hits": 5}', b"\xff", b"null"])
def test_a_good_status_with_an_answer_of_something_else_is_an_error(ask: Sync, body: bytes) -> None:
    with serving(answers(200, body)) as server:
        for method, argument in (("search", "x"), ("search_many", ["x"]), ("add", [DOCUMENT])):
            with pytest.raises(BitsiftError, match="not as Bitsift does") as raised:
                ask(server.url, method, argument)
            assert raised.value.outcome is UNKNOWN
        assert len(server.asked) == 3


KINDS = [
    kind for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, BitsiftError)
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_comes_back_as_it_was_raised(ask: Sync, kind: type[BitsiftError]) -> None:
    for outcome in RequestOutcome:
        said = problem(kind.__name__, kind.status, outcome=outcome)
        with serving(answers(kind.status, said)) as server:
            with pytest.raises(kind, match=r"^said so$") as raised:
                ask(server.url, "add", [DOCUMENT])
            assert (type(raised.value), raised.value.outcome) == (kind, outcome)


def test_a_problem_of_a_class_that_is_not_known_is_what_its_status_says(ask: Sync) -> None:
    for kind in ("InternalError", "reason", "RequestOutcome", "Nobody"):
        with serving(answers(500, problem(kind, 500, outcome="done"))) as server:
            with pytest.raises(BitsiftError, match="said so") as raised:
                ask(server.url, "add", [DOCUMENT])
            assert (type(raised.value), raised.value.outcome) == (BitsiftError, DONE)
    with serving(answers(413, problem("HTTPError", 413, outcome="what?"))) as server:
        with pytest.raises(RequestTooLarge) as raised:
            ask(server.url, "add", [DOCUMENT])
        assert raised.value.outcome is NOT_DONE


def test_the_gateway_says_how_long_to_wait(ask: Sync, waits: list[float]) -> None:
    busy = problem("Overloaded", 429)
    date = "Wed, 21 Oct 2015 07:28:00 GMT"  # long ago
    for value, low, high in (("7", 7, 12), ("0", 0, 5), (date, 0, 5), ("soon", 1, 6)):
        waits.clear()
        with serving(answers(429, busy, retry_after=value), answers(200, WRITTEN)) as server:
            ask(server.url, "add", [DOCUMENT])
        (wait_s,) = waits
        assert low <= wait_s <= high, value
    with serving(answers(429, busy, retry_after="3600")) as server:
        with pytest.raises(Overloaded) as raised:
            ask(server.url, "add", [DOCUMENT])
        assert (len(server.asked), raised.value.retry_after_s) == (1, 3600)


def test_writes_stopped_needs_the_operator_and_is_not_sent_again(ask: Sync) -> None:
    with serving(answers(503, problem("WritesStopped", 503, outcome="not_done"))) as server:
        with pytest.raises(WritesStopped):
            ask(server.url, "add", [DOCUMENT])
        assert len(server.asked) == 1


def test_what_failed_of_a_batch_says_whether_it_was_done(ask: Sync) -> None:
    said = {"type": "ShardUnavailable", "detail": "shard 1 is loading"}
    results = [
        {"id": "a", "status": "failed", "error": {**said, "outcome": "not_done"}},
        {"id": "b", "status": "failed", "error": {**said, "outcome": "unknown"}},
        {"id": "c", "status": "failed", "error": said},
    ]
    with serving(answers(200, {"results": results, "failed": 3})) as server:
        for answer in (ask(server.url, "add", [DOCUMENT]), ask(server.url, "delete", "a")):
            found = [result.error.outcome for result in answer.results]
            assert found == [NOT_DONE, UNKNOWN, UNKNOWN]
        assert len(server.asked) == 2


# --- what is asked -------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("method", "arguments", "options", "said"),
    [
        ("search", ("x",), {"vector": [1.0]}, "exactly one"),
        ("search", (), {}, "exactly one"),
        ("search", (["a", "b"],), {}, "search_many"),
        ("search", (5,), {}, "a text, not a int"),
        ("search", (np.ones(3),), {}, "vector=…"),
        ("search", (), {"vector": [1.0, NAN]}, "NaN"),
        ("search", (), {"vector": np.array([1.0, np.inf])}, "infinity"),
        ("search", (), {"vector": "abc"}, "not a sequence of numbers"),
        ("search", (), {"vector": np.ones((2, 2))}, r"shape \(2, 2\)"),
        ("search", (), {"vector": [[1.0], [2.0]]}, "not a sequence of numbers"),
        ("search", (), {"vector": 5}, "not a sequence of numbers"),
        ("search", ("x",), {"top_k": object()}, "cannot be written as JSON"),
        ("search_many", ("ab",), {}, "several texts"),
        ("search_many", (5,), {}, "a int is not a list"),
        ("search_many", ([b"x"],), {}, "cannot be written as JSON"),
        ("add", (["a"],), {}, "a document is a mapping"),
        ("add", ("abc",), {}, "a document is a mapping"),
        ("add", (5,), {}, "a int is not a list"),
        ("add", (None,), {}, "a NoneType is not a list"),
        ("delete", (None,), {}, "a NoneType is not a list"),
        ("delete", ([b"x"],), {}, "cannot be written as JSON"),
        ("get", (True,), {}, "is not a valid id"),
        ("get", (b"x",), {}, "is not a valid id"),
        ("get", (2.0**53,), {}, "write such ids as strings"),
        ("get", ("\ud800",), {}, "is not a valid id"),
        ("backup", (object(),), {}, "cannot be written as JSON"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_said_before_anything_is_sent(
    ask: Sync, method: str, arguments: tuple[Any, ...], options: dict[str, Any], said: str
) -> None:
    with serving(answers(200, {})) as server:
        with pytest.raises(InvalidRequest, match=said):
            ask(server.url, method, *arguments, **options)
        assert server.asked == []


def test_one_document_may_be_added_without_a_list(ask: Sync) -> None:
    with serving(answers(200, WRITTEN)) as server:
        assert ask(server.url, "add", DOCUMENT).created == 1
        assert json.loads(server.asked[0][2]) == {"documents": [DOCUMENT]}


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:y", 5])
def test_what_is_no_url_is_said_at_once(ask: Sync, url: Any) -> None:
    with pytest.raises(InvalidRequest, match="gateway URL"):
        ask(url, "index")


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def public(kind: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: list(inspect.signature(value).parameters.values())
            for name, value in vars(kind).items()
            if callable(value) and not name.startswith("_")
        }

    assert public(Client) == public(AsyncClient)
    constructors = [inspect.signature(kind).parameters for kind in (Client, AsyncClient)]
    assert constructors[0] == constructors[1]
    assert {"index", "cluster", "backup", "compact"} <= public(AsyncClient).keys()


def test_the_asynchronous_client_asks_the_same(ask: Sync) -> None:
    with serving(answers(200, {"a": 1})) as server:
        for method in ("index", "cluster"):
            assert ask(server.url, method) == {"a": 1}
        assert ask(server.url, "backup", "/d") == {"a": 1}
    with serving(answers(200, b'[{"shard": 0}]')) as compacting:
        assert ask(compacting.url, "compact") == [{"shard": 0}]
    paths = [path for path, _, _ in (*server.asked, *compacting.asked)]
    assert paths == [
        "GET /v1/index", "GET /v1/cluster", "POST /v1/admin/backup", "POST /v1/admin/compact"
    ]  # fmt: skip


# --- keys and proxies ----------------------------------------------------------------------

KEY = "bs_Secret-123"


def test_the_key_comes_from_the_argument_or_the_environment(
    ask: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answers(200, {})) as server:
        ask(server.url, "index")
        monkeypatch.setenv("BITSIFT_API_KEY", f"{KEY}\n")
        ask(server.url, "index")
        ask(server.url, "index", key="other")
        ask(server.url, "index", key="")
        monkeypatch.setenv("BITSIFT_API_KEY", "")
        ask(server.url, "index")
    sent = [headers.get("authorization") for _, headers, _ in server.asked]
    assert sent == [None, f"Bearer {KEY}", "Bearer other", None, None]


def test_no_message_holds_the_key(
    ask: Sync, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("BITSIFT_API_KEY", KEY)
    for behaviour in (hangs_up, breaks_off, answers(401, HTML), answers(200, HTML)):
        with serving(behaviour) as server, pytest.raises(BitsiftError) as raised:
            ask(server.url, "index")
        assert KEY not in "".join(map(repr, (raised.value, raised.value.__cause__)))
    assert KEY not in repr(vars(Client("http://127.0.0.1:1")))
    assert KEY not in caplog.text
    for wrong in (f"{KEY} two", f"{KEY}\nx", f"{KEY}é", f"{KEY}\x00"):
        with pytest.raises(InvalidRequest, match="API key") as refused:
            ask("http://127.0.0.1:1", "index", key=wrong)
        assert KEY not in str(refused.value)


def test_a_proxy_on_the_way_is_named_without_its_password(
    ask: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answers(502, HTML)) as proxy:
        address = proxy.url.removeprefix("http://")
        monkeypatch.setenv("http_proxy", f"http://me:hidden@{address}")
        with pytest.raises(Unavailable) as raised:
            ask("http://gateway.example:8000", "add", [DOCUMENT])
        assert proxy.asked[0][0] == "POST http://gateway.example:8000/v1/documents"
    with pytest.raises(Unavailable, match="cannot be reached") as gone:
        ask("http://gateway.example:8000", "add", [DOCUMENT])
    for error in (raised.value, gone.value):
        assert error.message.startswith(
            f"http://gateway.example:8000, through the proxy {proxy.url} from the environment,"
        )
        assert "hidden" not in error.message
    assert (raised.value.outcome, gone.value.outcome) == (UNKNOWN, NOT_DONE)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(answers(200, {"direct": 1})) as server:
        assert ask(server.url, "index") == {"direct": 1}


@pytest.mark.parametrize("proxy", ["socks5h://127.0.0.1:1", "gopher://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_named(
    ask: Sync, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(InvalidRequest, match=rf"through the proxy {proxy} from the environment"):
        ask("http://127.0.0.1:1", "index")


@pytest.mark.parametrize(
    ("name", "value"), [("http_proxy", ":::"), ("no_proxy", "[::1"), ("https_proxy", "gopher://x")]
)
def test_a_variable_of_a_proxy_that_cannot_be_read_is_said(
    ask: Sync, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest, match="as the environment names proxies"):
        ask("http://127.0.0.1:1", "index")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_certificates_are_read_for_https_only(
    monkeypatch: pytest.MonkeyPatch, kind: type[Client | AsyncClient]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/authorities.pem")
    kind("http://gateway.example:8000")
    with pytest.raises(InvalidRequest, match="No such file"):
        kind("https://gateway.example:8000")
