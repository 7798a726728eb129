"""Answers as JSON, made and sent in pieces, so that a large one never stops the event loop.

orjson keeps Python's lock while it writes: 16 MiB in one call would stop the loop for 10 ms or
more, whatever thread it runs in. Piece by piece others have their turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from fastapi import Response
from starlette.types import Receive, Scope, Send

from bitsift.results import Answer, Timings
from bitsift.router.answer_bytes import AnswerBytes, check_answer_bytes
from bitsift.router.heap import give_back

log = logging.getLogger(__name__)

SMALL_BYTES = 64 << 10
"""What is written in one call in the event loop: 0.1 ms."""
PIECE_BYTES = 256 << 10
TRIMMED_BYTES_MIN = 1 << 20
"""Answers over which freed memory is given back. That takes 1 to 2 ms, in which no other thread
gets memory of the same heap: too much after each answer of 200 KiB, which leaves little behind."""
SEND_TIMEOUT_S = 60.0
"""How long a client may take to receive an answer of several pieces."""
Result = Answer | Mapping[str, Any]
"""What a search came to: an answer, or a problem document."""
_HIT_BYTES = 400
"""About what a hit takes besides its document: names, score, explanation."""


def json_response(data: Any, status: int = 200) -> Response:
    """``data`` may hold dataclasses; lone surrogates cannot occur, the border refuses them."""
    return Response(as_json(data), status, media_type="application/json")


def as_json(data: Any) -> bytes:
    """``data`` with the vectors in it, of which no digit is written that float32 does not have."""
    return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)


async def answer_response(answers: list[Result], held: AnswerBytes, *, several: bool) -> Response:
    """The answer to one query, or to ``several``, of which some may have problem documents in their
    places; ``held`` is given back when it has been sent.

    A large one takes ``answers`` out of their list: a thread lets go of each as it is written.
    Raises InvalidRequest when the whole is over ``ANSWER_BYTES_MAX``.
    """
    good = [answer for answer in answers if isinstance(answer, Answer)]
    hits = sum(len(answer.hits) for answer in good)
    timings = None if several else good[0].timings_ms
    if held.used_bytes + _HIT_BYTES * hits <= SMALL_BYTES:
        held.close()
        return _timed(json_response({"results": answers} if several else answers[0]), timings)
    pieces = await asyncio.to_thread(_pieces, answers, several=several)
    check_answer_bytes(sum(map(len, pieces)))
    return _timed(_Pieces(pieces, held), timings)


def _timed(response: Response, timings: Timings | None) -> Response:
    """With the times of its stages for whoever looks at the network in a browser."""
    if timings is not None:
        said = (
            f"encode;dur={timings.encode}, fan_out;dur={timings.fan_out}, "
            f"rescore;dur={timings.rescore}, texts;dur={timings.texts}, total;dur={timings.total}"
        )
        response.raw_headers.append((b"server-timing", said.encode()))
    return response


def _pieces(answers: list[Result], *, several: bool) -> list[bytes]:
    """The JSON of ``answers``, in pieces of ``PIECE_BYTES`` or so; their list is empty then.

    To free the thousand hits of a hundred answers at once would stop the event loop for 0.5 ms.
    """
    pieces, gathered, size = [], list[bytes](), 0
    for part in _parts(answers, several=several):
        gathered.append(part)
        size += len(part)
        if size >= PIECE_BYTES:
            pieces.append(b"".join(gathered))
            gathered, size = [], 0
    return [*pieces, b"".join(gathered)]


def _parts(answers: list[Result], *, several: bool) -> Iterator[bytes]:
    """What ``orjson.dumps`` of the whole gives, a hit at a time."""
    if several:
        yield b'{"results":['
    answers.reverse()
    separator = b""
    while answers:
        answer = answers.pop()
        yield separator
        separator = b","
        if not isinstance(answer, Answer):
            yield orjson.dumps(answer)
            continue
        yield b'{"hits":['
        for place, hit in enumerate(answer.hits):
            yield b"," if place else b""
            yield as_json(hit)
        rest = {
            "coverage": answer.coverage,
            "timings_ms": answer.timings_ms,
            "partial": answer.partial,
            "filter": answer.filter,
            "total": answer.total,
            "facets": answer.facets,
            "cursor": answer.cursor,
        }
        yield b"]," + orjson.dumps(rest)[1:]
    if several:
        yield b"]}"


class _Pieces(Response):
    """Sends one piece when the client has taken the one before."""

    def __init__(self, pieces: list[bytes], held: AnswerBytes) -> None:
        self._pieces = pieces
        self._reader = held
        self._size_bytes = sum(map(len, pieces))
        super().__init__(media_type="application/json")
        self.headers["content-length"] = str(self._size_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Gives up on a client that takes longer than ``SEND_TIMEOUT_S``: its connection is
        closed.
        """
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._send(send)
        except TimeoutError:
            log.warning("a client did not take its answer in %.0f s", SEND_TIMEOUT_S)
        finally:
            self._reader.close()
            if self._size_bytes > TRIMMED_BYTES_MIN:
                await asyncio.to_thread(give_back)

    async def _send(self, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._pieces.reverse()
        while self._pieces:
            body = self._pieces.pop()
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
