"""The fuzzer: senders on raw sockets, and what they must never see."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlparse

import httpx

from tests.fuzz.cases import Case, cases
from tests.fuzz.leaks import HANG_S, leaks, settled
from tests.fuzz.targets import Target
from tests.threads import ended

MEANT = {503, 504, 507}
"""Said on purpose: nothing could answer in time, or at all; a full disk."""
ROUNDS = 5
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Fuzzer:
    """Sends cases to ``target`` from ``senders`` threads; ``report`` says what was seen."""

    def __init__(self, target: Target, seed: int, senders: int = 6) -> None:
        self._target = target
        self._seed = seed
        self._senders = senders
        parsed = urlparse(target.url)
        self._address = (parsed.hostname, parsed.port)
        self._statuses: Counter[int] = Counter()
        self._cases = 0
        self._failures: list[dict[str, str]] = []
        self._states: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._files = target.state()["files"]

    def run(self, seconds: float) -> None:
        """In rounds, each of which must leave nothing behind."""
        self._round(0, seconds / ROUNDS / 2)  # caches are filled, threads are started
        for number in range(1, ROUNDS + 1):
            self._round(number, seconds / ROUNDS)
            self._states.append(settled(self._target, self._files))
            if httpx.get(f"{self._target.url}/livez", timeout=30).status_code != 200:
                self._fail("/livez does not answer", b"")

    def report(self) -> dict[str, Any]:
        states = self._states
        return {
            "seed": self._seed,
            "cases": self._cases,
            "answers": {str(status): n for status, n in sorted(self._statuses.items())},
            "server_errors": sum(
                n for s, n in self._statuses.items() if s >= 500 and s not in MEANT
            ),
            "hangs": sum(failure["what"].startswith("hang") for failure in self._failures),
            "leaks": leaks(states),
            "failures": self._failures[:20],
            "states": states,
        }

    def _round(self, number: int, seconds: float) -> None:
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._send, args=(self._seed * 1_000 + number * 50 + i, stop))
            for i in range(self._senders)
        ]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            ended(thread)

    def _send(self, seed: int, stop: threading.Event) -> None:
        row = cases(seed)
        while not stop.is_set():
            case = row.next()
            try:
                found = self._exchange(case)
            except TimeoutError:
                self._fail("hang: neither answered nor closed", b"".join(case.pieces))
                continue
            statuses = [int(status) for status in _STATUS.findall(found)]
            if case.is_whole and not statuses:
                self._fail("a whole request has no answer", b"".join(case.pieces))
            for status in statuses:
                if status >= 500 and status not in MEANT:
                    self._fail(f"{status}: {found[:300]!r}", b"".join(case.pieces))
            with self._lock:
                self._cases += 1
                self._statuses.update(statuses)

    def _exchange(self, case: Case) -> bytes:
        """All that comes back. Raises TimeoutError."""
        with socket.create_connection(self._address, timeout=HANG_S) as peer:
            with contextlib.suppress(ConnectionError):
                for piece in case.pieces:
                    peer.sendall(piece)
            if case.ends_by_reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return b""
            if not case.is_whole:
                peer.settimeout(0.05)
            found, ended = b"", False
            with contextlib.suppress(ConnectionError):
                while not ended:
                    try:
                        part = peer.recv(65_536)
                    except TimeoutError:
                        if case.is_whole:
                            raise
                        break  # what is not whole may wait for its rest, and is closed here
                    found += part
                    ended = not part or (case.is_whole and _is_whole(found))
            return found

    def _fail(self, what: str, sent: bytes) -> None:
        with self._lock:
            self._failures.append({"what": what, "sent": repr(sent[:2_000])})


def _is_whole(answer: bytes) -> bool:
    """Whether an answer to one request is there to its end."""
    head, gap, body = answer.partition(b"\r\n\r\n")
    if not gap:
        return False
    if b"transfer-encoding: chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return length is not None and len(body) >= int(length[1])
