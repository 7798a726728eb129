"""The frame round every message between processes of a cluster: who sends what, of which version.

    offset  bytes
         0      2  b"Bs"
         2      1  version of the wire
         3      1  kind of the message (``Kind``)
         4      8  milliseconds that are left for it, float64; infinite where nothing waits
        12      8  clock tag: the newest version that the sender knows (clock.py), or 0
        20      8  replica: the copy of the shard that answers, or that is asked; 0 for any
        28     16  boot of the sender's machine
        44      8  when it was sent, seconds on the monotonic clock of that boot, float64
        52         the body: msgpack of the structures in wire.py

All numbers are little-endian. The first three bytes stay what they are in every version, so another
one is refused before anything of it is read. What a version may still gain, and in which order
processes are restarted: ARCHITECTURE, "The wire".
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import msgspec

from bitsift.errors import Corrupt, FormatMismatch
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.deadline import Sent, sent_now

WIRE_VERSION = 1
_MAGIC = b"Bs"
_HEAD = struct.Struct("<2sBBdQQ16sd")
HEAD_BYTES = _HEAD.size
ANY_REPLICA = 0
T = TypeVar("T")


class Kind(IntEnum):
    """What a message is."""

    QUERIES = 1
    CANDIDATES = 2
    READS = 3
    DOCUMENTS = 4
    WRITES = 5
    OUTCOMES = 6
    FACTS = 7
    """One dataclass: what a shard says of itself, or of what it has done."""
    HINTS = 8
    """Operations that are not performed: what would become of them?"""
    LISTING = 9
    LISTED = 10


@dataclass(frozen=True, slots=True)
class Stamp:
    """Of which copy of a shard a message is, and the newest version that its sender knows."""

    replica: int = ANY_REPLICA
    clock: int = NO_VERSION


UNSTAMPED = Stamp()


@dataclass(frozen=True, slots=True)
class Head:
    """What a frame says of its message. ``left_s`` is what was left when it was ``sent``."""

    kind: Kind
    left_s: float
    stamp: Stamp
    sent: Sent


def framed(kind: Kind, body: bytes, left_s: float = math.inf, stamp: Stamp = UNSTAMPED) -> bytes:
    """``body`` in a frame that is sent now."""
    boot, at_s = sent_now()
    head = _HEAD.pack(
        _MAGIC, WIRE_VERSION, kind, left_s * 1e3, stamp.clock, stamp.replica, boot, at_s
    )
    return head + body


def head_of(data: bytes, expected: Kind) -> Head:
    """What the frame of ``data`` says. Raises FormatMismatch, Corrupt."""
    _check_version(data)
    try:
        _, _, kind, left_ms, clock, replica, boot, at_s = _HEAD.unpack_from(data)
        head = Head(Kind(kind), left_ms / 1e3, Stamp(replica, clock), (boot, at_s))
    except (struct.error, ValueError) as error:
        raise Corrupt(f"a message of {len(data)} bytes has no whole frame ({error})") from error
    if head.kind is not expected:
        raise Corrupt(f"expected a message of {expected.name}, got {head.kind.name}")
    return head


def body_of(data: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """The body. Raises FormatMismatch where it holds what this process does not know, Corrupt."""
    try:
        return decoder.decode(memoryview(data)[HEAD_BYTES:])
    except msgspec.ValidationError as error:
        raise FormatMismatch(
            f"a message of wire version {WIRE_VERSION} contains what this process does not know "
            f"({error}): update and restart this process; shards before routers"
        ) from error
    except msgspec.DecodeError as error:
        raise Corrupt(f"a message cannot be read ({error})") from error


def _check_version(data: bytes) -> None:
    if data[:2] != _MAGIC:
        raise FormatMismatch(
            "a message has no wire version, but this process reads version "
            f"{WIRE_VERSION}: update and restart its sender"
        )
    version = data[2]
    if version != WIRE_VERSION:
        behind = "its sender" if version < WIRE_VERSION else "this process"
        raise FormatMismatch(
            f"a message is of wire version {version}, this process reads version {WIRE_VERSION}: "
            f"update and restart {behind}"
        )
