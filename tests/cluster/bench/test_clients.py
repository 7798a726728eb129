"""The clients against a gateway that is fake, and says so: it answers as it was told to."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from bitsift.cluster.bench.clients import (
    _read_wrk,
    ask,
    recall,
    require_answers,
    text_bodies,
    throughput,
    vector_bodies,
)
from bitsift.errors import Unavailable

HITS = [{"id": str(number)} for number in range(10)]
WRK = """Running 1s test
  1 threads and 2 connections
  Socket errors: connect 1, read 2, write 0, timeout 3
  Non-2xx or 3xx responses: 4
Requests/sec:    123.45
"""


class FakeGateway(http.server.BaseHTTPRequestHandler):
    """Hits of the text that was asked; "partial", "few", "error" and "hang up" as they say."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = str(body.get("query"))
        if asked == "hang up":
            self.close_connection = True
            return
        answer: dict[str, Any] = {"hits": HITS, "partial": asked == "partial"}
        if asked == "few":
            answer["hits"] = HITS[:9]
        if asked == "error":
            answer = {"detail": "the shards are asleep", "status": 503}
        data = orjson.dumps(answer)
        self.send_response(503 if asked == "error" else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeGateway)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_question_is_asked_once_and_answers_stand_in_their_order(url: str) -> None:
    replies = ask(url, text_bodies(["good", "few", "good"] * 20), clients=4)
    assert [len(hits) for hits in replies.hits] == [10, 9, 10] * 20
    assert len(replies.seconds) == 60
    assert min(replies.seconds) > 0


@pytest.mark.parametrize("loss", ["partial", "few", "error", "hang up"])
def test_an_incomplete_answer_is_a_lost_question(url: str, loss: str) -> None:
    replies = ask(url, text_bodies(["good", loss, "good"]))
    assert replies.lost == 1


def test_the_reason_of_a_loss_is_told(url: str) -> None:
    with pytest.raises(Unavailable, match="1 of 2 queries failed: the shards are asleep"):
        require_answers(url, text_bodies(["good", "error"]))


def test_a_vector_is_sent_as_numbers_that_read_back_the_same() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    bodies = [orjson.loads(body) for body in vector_bodies(vectors, mode="exact")]
    assert np.array_equal(np.array([body["vector"] for body in bodies], np.float32), vectors)
    assert all(body["mode"] == "exact" for body in bodies)


def test_recall_is_the_mean_share_of_the_exact_hits() -> None:
    exact = [("a", "b"), ("c", "d")]
    assert recall(exact, [("b", "a"), ("c", "x")]) == 0.75


def test_what_wrk_counts_as_failed_is_read_from_its_report() -> None:
    found = _read_wrk(WRK, "")
    assert (found.per_second, found.failed) == (123.45, 10)


def test_wrk_that_fails_says_why() -> None:
    with pytest.raises(Unavailable, match="wrk failed: unable to connect"):
        _read_wrk("", "unable to connect to 127.0.0.1:1")


def test_without_wrk_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match="apt-get install wrk"):
        throughput("http://127.0.0.1:1", [b"{}"], 1, 1)
