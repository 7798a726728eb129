"""Clients of a gateway: some that read every answer, and wrk, which costs the machine least."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.errors import Unavailable

TIMEOUT_S = 120.0
WRK_MISSING = (
    "wrk is not installed, so throughput over HTTP is not measured; "
    "on Debian and Ubuntu: apt-get install wrk"
)
_HEADERS = {"Content-Type": "application/json"}


def text_bodies(texts: Sequence[str], **options: Any) -> list[bytes]:
    """The JSON bodies of POST /v1/search for texts."""
    return [orjson.dumps({"query": text, **options}) for text in texts]


def vector_bodies(vectors: NDArray[np.float32], **options: Any) -> list[bytes]:
    """The JSON bodies of POST /v1/search for vectors (n, dimension)."""
    wide = vectors.astype(np.float32)
    numpy = orjson.OPT_SERIALIZE_NUMPY
    return [orjson.dumps({"vector": vector, **options}, option=numpy) for vector in wide]


@dataclass(frozen=True, slots=True)
class Replies:
    """What became of each query, in order. ``hits`` are document ids, best first.

    ``failure`` is the first reason why a query was lost, as the gateway or the socket gave it.
    """

    seconds: tuple[float, ...]
    hits: tuple[tuple[str, ...], ...]
    lost: int
    wall_s: float
    failure: str | None = None


def ask(url: str, bodies: Sequence[bytes], clients: int = 1, top_k: int = 10) -> Replies:
    """Send every body to POST /v1/search of the gateway at ``url``, ``clients`` at a time.

    A query is lost unless it is answered with 200, completely, by ``top_k`` hits.
    """
    raw = [b""] * len(bodies)
    seconds = [0.0] * len(bodies)
    places = iter(range(len(bodies)))
    lock = threading.Lock()

    def client() -> None:
        connection = connect(url)
        for place in _next(places, lock):
            started = time.perf_counter()
            raw[place] = post(connection, bodies[place])
            seconds[place] = time.perf_counter() - started
        connection.close()

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s = time.perf_counter() - started
    return _read(raw, seconds, wall_s, top_k)


def require_answers(url: str, bodies: Sequence[bytes]) -> None:
    """Raises Unavailable with the gateway's reason when a query is lost: errors are fast."""
    replies = ask(url, bodies)
    if replies.lost:
        raise Unavailable(f"{replies.lost} of {len(bodies)} queries failed: {replies.failure}")


def _next(places: Iterator[int], lock: threading.Lock) -> Iterator[int]:
    while True:
        with lock:
            place = next(places, None)
        if place is None:
            return
        yield place


def connect(url: str) -> http.client.HTTPConnection:
    """A connection to the gateway at ``url``, opened by the first query."""
    address = urlsplit(url)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)


def post(connection: http.client.HTTPConnection, body: bytes) -> bytes:
    """What came back, whatever its status; the connection can be used again."""
    try:
        connection.request("POST", "/v1/search", body, _HEADERS)
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()  # the next request opens it again
        return orjson.dumps({"detail": f"{type(error).__name__}: {error}"})


def _read(raw: list[bytes], seconds: list[float], wall_s: float, top_k: int) -> Replies:
    """Read the answers when the clock has stopped. A problem document has no hits."""
    answers = [orjson.loads(answer) for answer in raw]
    lost = [a for a in answers if a.get("partial", True) or len(a["hits"]) < top_k]
    hits = tuple(tuple(hit["id"] for hit in answer.get("hits", ())) for answer in answers)
    failure = None
    if lost:
        failure = str(lost[0].get("detail") or lost[0].get("coverage"))
    return Replies(tuple(seconds), hits, len(lost), wall_s, failure)


def recall(exact: Sequence[tuple[str, ...]], found: Sequence[tuple[str, ...]]) -> float:
    """Mean share of the exact hits that were found, over all queries."""
    shares = [len(set(e) & set(f)) / max(1, len(e)) for e, f in zip(exact, found, strict=True)]
    return round(float(np.mean(shares)), 4)


# --- wrk -----------------------------------------------------------------------------------

_LUA = """
local bodies, place = {}, 0
for line in io.lines("%(bodies)s") do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
function request()
  place = place %% #bodies + 1
  return wrk.format(nil, nil, nil, bodies[place])
end
"""
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKET = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")


@dataclass(frozen=True, slots=True)
class Throughput:
    """Answers per second over all clients, and how many requests failed."""

    per_second: float
    failed: int


def wrk_is_installed() -> bool:
    """Whether ``throughput`` can measure."""
    return shutil.which("wrk") is not None


def throughput(url: str, bodies: Sequence[bytes], clients: int, seconds: int) -> Throughput:
    """Queries per second that ``clients`` connections of wrk get answered, in one thread of it.

    The bodies are sent in order, over and over. Raises Unavailable when wrk fails or is missing.
    """
    if not wrk_is_installed():
        raise Unavailable(WRK_MISSING)
    with tempfile.TemporaryDirectory() as folder:
        lines, script = Path(folder) / "bodies", Path(folder) / "post.lua"
        lines.write_bytes(b"\n".join(bodies) + b"\n")
        script.write_text(_LUA % {"bodies": lines})
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_S:.0f}s"]
        done = subprocess.run(
            [*command, "-s", str(script), f"{url}/v1/search"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    return _read_wrk(done.stdout, done.stderr)


def _read_wrk(output: str, complaints: str) -> Throughput:
    rate = _RATE.search(output)
    if rate is None:
        raise Unavailable(f"wrk failed: {(complaints or output).strip()[:200]}")
    bad, sockets = _BAD.search(output), _SOCKET.search(output)
    failed = int(bad[1]) if bad else 0
    failed += sum(map(int, sockets.groups())) if sockets else 0
    return Throughput(float(rate[1]), failed)
