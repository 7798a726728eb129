"""A search and its answer on a connection of their own, outside Ray: greeting and envelopes.

    request     uint32 length of what follows, uint8 length of the call's name, the name, a frame
    answer      uint32 length of what follows, uint8 of what kind it is (``Answer``), then a frame,
                an ErrorPart, or why it failed (UTF-8)

All numbers are little-endian; the frames are those that Ray carries, too (frames.py). Before the
first request both sides prove that they know the secret of this process of the shard, which goes
through Ray only: the shard sends 32 random bytes, the router 32 of its own and its proof, and the
shard its proof. A proof is HMAC-SHA256 over all of them, so it is good for this connection only.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import time
from enum import IntEnum
from typing import NamedTuple

import msgspec

from bitsift.errors import BitsiftError, Corrupt, reason
from bitsift.shard_worker.wire.structures import ErrorPart, encode, error_of, error_part

_VERSION = b"bitsift searches 1 "
"""In each proof: two sides that do not understand each other never get to the first request."""
_NONCE_BYTES = _PROOF_BYTES = 32
_REQUEST, _ANSWER = struct.Struct("<IB"), struct.Struct("<IB")
HEAD_BYTES = _ANSWER.size
_NO_TIME_S = 1e-3
"""None at all would mean that it never blocks."""
BYTES_MAX = 64 << 20
"""Of a request, or of an answer: an answer has at most 16 MiB of documents."""
_error = msgspec.msgpack.Decoder(ErrorPart)


class Answer(IntEnum):
    """What an answer is."""

    FRAME = 0
    ERROR = 1
    """A BitsiftError that the call raised."""
    FAILED = 2
    """Any other exception, as text."""


class SearchAddress(NamedTuple):
    """Where a process of a shard takes searches, and what proves that a caller may ask."""

    host: str
    port: int
    secret: bytes


def new_secret() -> bytes:
    """Of one process."""
    return secrets.token_bytes(32)


def admit(connection: socket.socket, secret: bytes, within_s: float) -> None:
    """The shard's side of the greeting. Raises OSError where the caller does not prove itself, or
    not ``within_s``, however many bytes it sends. ``connection`` has no timeout then.
    """
    ours = secrets.token_bytes(_NONCE_BYTES)
    connection.sendall(ours)
    said = _exactly(connection, _NONCE_BYTES + _PROOF_BYTES, within_s)
    nonces = ours + said[:_NONCE_BYTES]
    _check(said[_NONCE_BYTES:], secret, b"router", nonces)
    connection.sendall(_proof(secret, b"shard", nonces))


def introduce(connection: socket.socket, secret: bytes) -> None:
    """The router's side. Raises OSError where whoever listens does not prove itself."""
    theirs, ours = _exactly(connection, _NONCE_BYTES), secrets.token_bytes(_NONCE_BYTES)
    connection.sendall(ours + _proof(secret, b"router", theirs + ours))
    _check(_exactly(connection, _PROOF_BYTES), secret, b"shard", theirs + ours)


def _proof(secret: bytes, side: bytes, nonces: bytes) -> bytes:
    return hmac.digest(secret, _VERSION + side + nonces, "sha256")


def _check(said: bytes, secret: bytes, side: bytes, nonces: bytes) -> None:
    if not hmac.compare_digest(said, _proof(secret, side, nonces)):
        raise ConnectionRefusedError("the other side does not know the secret")


def _exactly(connection: socket.socket, size: int, within_s: float | None = None) -> bytes:
    found = b""
    ends_s = time.monotonic() + (within_s or 0.0)
    while len(found) < size:
        if within_s is not None:  # else the connection's own, for each part
            connection.settimeout(max(_NO_TIME_S, ends_s - time.monotonic()))
        part = connection.recv(size - len(found))
        if not part:
            raise ConnectionAbortedError("the other side hung up")
        found += part
    if within_s is not None:
        connection.settimeout(None)
    return found


def pack_request(call: str, frame: bytes) -> bytes:
    """A whole request."""
    name = call.encode()
    return _REQUEST.pack(len(name) + len(frame) + 1, len(name)) + name + frame


def request_head(head: bytes) -> tuple[int, int]:
    """The length of a call's name, and of its frame, by the ``HEAD_BYTES`` of a request.

    Raises Corrupt.
    """
    size, name = _REQUEST.unpack(head)
    return name, _checked(size) - 1 - name


def answer_head(head: bytes) -> tuple[Answer, int]:
    """What an answer is, and the length of its body. Raises Corrupt."""
    size, kind = _ANSWER.unpack(head)
    try:
        return Answer(kind), _checked(size) - 1
    except ValueError as error:
        raise Corrupt(f"an answer of kind {kind}, which this process does not know") from error


def _checked(size: int) -> int:
    if not 0 < size <= BYTES_MAX:
        raise Corrupt(f"an envelope of {size:,} bytes; at most {BYTES_MAX:,} are sent")
    return size


def answer_of(frame: bytes) -> list[bytes]:
    """The parts of an answer."""
    return [_ANSWER.pack(len(frame) + 1, Answer.FRAME), frame]


def refusal(error: BaseException) -> list[bytes]:
    """The parts of an answer that says what a call raised."""
    own = isinstance(error, BitsiftError)
    body = encode(error_part(error)) if isinstance(error, BitsiftError) else reason(error).encode()
    return [_ANSWER.pack(len(body) + 1, Answer.ERROR if own else Answer.FAILED), body]


def refused(body: bytes) -> BitsiftError:
    """The error of an answer of the kind ERROR."""
    return error_of(_error.decode(body))
