"""Every answer has an id, by which the log can be searched, and the log says nothing that it must
not.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bitsift.cluster.serving.key_store import editing
from bitsift.router.http.access import AccessSettings
from bitsift.router.http.keys import Scope, new_key
from bitsift.router.http.observing import REQUEST_ID_CHARACTERS_MAX
from bitsift.router.logs import LogSettings, access_log
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.logs import REQUEST_ID, JsonLines
from tests.fakes import HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
TEXTS = [f"a text about number {i}" for i in range(40)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    units = HashEncoder(DIMENSION).encode_documents(TEXTS)
    shards, calibration = make_shards(
        tmp_path_factory.mktemp("observed"), units, DIMENSION, 2, TEXTS
    )
    links = [LocalLink(s) for s in shards]
    access = AccessSettings(log=LogSettings("json", access=True))
    running = Running(make_service(links, calibration), make_writer(links, calibration), access)
    yield running
    running.stop()
    for shard in shards:
        shard.close()


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root of the log, as it was, at the end."""
    found = logging.getLogger()
    before, own = found.handlers, (access_log.level, access_log.handlers, access_log.propagate)
    yield found
    found.handlers = before
    access_log.setLevel(own[0])
    access_log.handlers, access_log.propagate = own[1:]


@pytest.fixture
def lines(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a process with a log in JSON writes."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    LogSettings("json", access=True).apply()
    return stream


def parsed(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_id_that_the_caller_sends_comes_back(gateway: Running) -> None:
    for sent in ("a", "0f8fad5b-d9cb-469f-a165-70867728950e", "x" * REQUEST_ID_CHARACTERS_MAX):
        answer = httpx.get(f"{gateway.url}/livez", headers={"X-Request-Id": sent})
        assert answer.headers["x-request-id"] == sent
        assert len(answer.headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize(
    "sent", ["", "x" * (REQUEST_ID_CHARACTERS_MAX + 1), 'a"b', "a b", "é", "<"]
)
def test_what_is_no_id_is_replaced(gateway: Running, sent: str) -> None:
    headers = {"X-Request-Id": sent.encode()}
    answer = httpx.get(f"{gateway.url}/livez", headers=headers)  # type: ignore[arg-type]
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/nothing", 404),
        ("POST", "/v1/search", 415),
        ("PATCH", "/v1/search", 405),
        ("HEAD", "/v1/documents/nobody", 404),
        ("GET", "/metrics", 200),
    ],
)
def test_every_answer_has_an_id_of_its_own(
    gateway: Running, method: str, path: str, status: int
) -> None:
    answers = [httpx.request(method, f"{gateway.url}{path}") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [status, status]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 2


def test_a_line_of_the_access_log_says_who_asked_what_and_no_texts(
    gateway: Running, lines: io.StringIO
) -> None:
    url = f"{gateway.url}/v1/search"
    httpx.post(url, json={"query": "zebra"}, headers={"X-Request-Id": "first"})
    httpx.get(url, params={"q": "zebra", "api_key": "zebra"})
    httpx.get(f"{gateway.url}/v1/documents/zebra")
    httpx.get(f"{gateway.url}/zebra")
    found = parsed(lines)
    assert "zebra" not in lines.getvalue()
    assert found[0] | {"time": "", "duration_ms": 0} == {
        "time": "", "level": "info", "logger": "bitsift.access", "message": "request",
        "request_id": "first", "method": "POST", "route": "/v1/search", "status": 200,
        "duration_ms": 0,
    }  # fmt: skip
    assert [(line["route"], line["status"]) for line in found[1:]] == [
        ("/v1/search", 422),
        ("/v1/documents/*", 404),
        ("other", 404),
    ]


def test_a_key_is_named_by_its_id(tmp_path: Path, lines: io.StringIO) -> None:
    keys = tmp_path / "keys.json"
    key, text = new_key("", Scope.READ, None)
    with editing(keys) as held:
        held.append(key)
    shards, calibration = make_shards(
        tmp_path / "shards", HashEncoder(DIMENSION).encode_documents(TEXTS), DIMENSION, 1, TEXTS
    )
    links = [LocalLink(shards[0])]
    access = AccessSettings(keys, log=LogSettings("json", access=True))
    running = Running(make_service(links, calibration), make_writer(links, calibration), access)
    try:
        bearer = {"Authorization": f"Bearer {text}"}
        assert httpx.get(f"{running.url}/v1/index", headers=bearer).status_code == 200
        assert httpx.head(f"{running.url}/v1/index", headers=bearer).status_code == 200
        assert httpx.get(f"{running.url}/v1/index").status_code == 401
    finally:
        running.stop()
        shards[0].close()
    first, second, third = parsed(lines)
    assert first["key"] == second["key"] == key.id
    assert "key" not in third
    assert text not in lines.getvalue()


def test_a_line_of_json_is_one_line_whatever_is_said() -> None:
    """Not through a logger: pytest-xdist cannot send a log with a lone surrogate."""
    REQUEST_ID.set("")
    why = ValueError("a\nb \ud800")
    raised = (ValueError, why, None)
    said = "failed:\n%s \ud800"
    record = logging.LogRecord("bitsift", logging.ERROR, "", 0, said, ("x",), raised)
    (line,) = map(json.loads, JsonLines().format(record).splitlines())
    assert line["level"] == "error"
    assert line["message"].startswith("failed:\nx")
    assert "ValueError: a\nb" in line["error"]
    assert "request_id" not in line


def test_an_error_in_the_log_has_the_id_of_its_request() -> None:
    REQUEST_ID.set("abc")
    record = logging.LogRecord("bitsift", logging.ERROR, "", 0, "%s failed", ("it",), None)
    assert json.loads(JsonLines().format(record))["request_id"] == "abc"
    REQUEST_ID.set("")


def test_an_access_log_for_people(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, gateway: Running
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    LogSettings("text", access=True).apply()
    httpx.get(f"{gateway.url}/livez", headers={"X-Request-Id": "me"})
    (line,) = stream.getvalue().splitlines()
    assert re.search(
        r"request method=GET route=/livez status=200 duration_ms=[\d.]+ request_id=me$", line
    )
    LogSettings("text").apply()
    assert not access_log.isEnabledFor(logging.INFO)


def test_the_times_of_an_answer_are_in_its_header(gateway: Running) -> None:
    answer = httpx.post(f"{gateway.url}/v1/search", json={"query": TEXTS[3]})
    parts = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert {name: float(ms) for name, ms in parts.items()} == answer.json()["timings_ms"]
    several = httpx.post(f"{gateway.url}/v1/search", json={"queries": TEXTS[:2]})
    assert "server-timing" not in several.headers
