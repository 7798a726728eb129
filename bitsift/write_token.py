"""The token of a write: what a later read must see. It comes with the answer to the write, and goes
with a search or a get as ``read_your_writes``.

It names the index, and how far each shard that was written to must be (``Reached``). A caller takes
it as it is and looks at nothing in it:

    byte 0            format, 2
    bytes 1 … 8       BLAKE2b-64 of the index's uuid
    varint            the least of the terms
    8 bytes           the least of the versions, little-endian
    three varints     for each shard, ascending: its number less that of the one before, and by how
                      much its term and its version are greater than the least
    last 6 bytes      BLAKE2b-48 of all that

as base64url. That is some 35 characters, and 4 to 10 more for each shard. The digest finds what was
cut off or mistyped; it keeps no secret, for a token that somebody makes up gives nothing but a wait
or a refusal.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

TOKEN_CHARACTERS_MAX = 65_536
"""More than the token of an index of 4,096 shards that were all written to within ten years."""
SHARDS_MAX = 4_096
"""As many as an index may have (cluster/manifest.py). A token that somebody made up could name six
times as many in its characters, and be remembered with all of them."""
REMEMBERED_MAX = 16
"""Tokens as they were read; of the largest, 11 MiB."""
_FORMAT = 2
_INDEX_BYTES = 8
_VERSION_BYTES = 8
_DIGEST_BYTES = 6
_BROKEN = "this is no token from the answer to a write: send it unchanged, or leave it out"


def index_mark(uuid: str) -> bytes:
    """What a token says of the index with this uuid."""
    return hashlib.blake2b(uuid.encode(), digest_size=_INDEX_BYTES).digest()


class Reached(NamedTuple):
    """How far a shard is: it has all that was acknowledged before ``term``, and all that the
    coordinator of this term wrote up to ``version`` (shard_worker/clock.py).

    A term begins when a coordinator has made the replicas of a shard equal, and is the epoch of its
    replica table; 0 where there is none. Versions of two coordinators say nothing about what a
    replica has: the clock of the earlier one may have been ahead.
    """

    term: int = 0
    version: int = 0


NOTHING = Reached()
"""What every shard has reached."""


@dataclass(frozen=True, slots=True)
class WriteToken:
    """Which writes a read must see. ``index`` is an ``index_mark``, ``reached`` is by shard, at
    least one.
    """

    index: bytes
    reached: Mapping[int, Reached]

    @property
    def term(self) -> int:
        """The latest: no later than the epoch of the replica table, which a reshard raises."""
        return max(it.term for it in self.reached.values())

    def text(self) -> str:
        """As it is sent."""
        term = min(it.term for it in self.reached.values())
        version = min(it.version for it in self.reached.values())
        parts = [bytes([_FORMAT]), self.index, _varint(term)]
        parts.append(version.to_bytes(_VERSION_BYTES, "little"))
        before = 0
        for shard, it in sorted(self.reached.items()):
            parts += map(_varint, (shard - before, it.term - term, it.version - version))
            before = shard
        body = b"".join(parts)
        return base64.urlsafe_b64encode(body + _digest(body)).decode().rstrip("=")

    def of(self, shard: int) -> WriteToken | None:
        """The part that ``shard`` must know; None where it was not written to."""
        it = self.reached.get(shard)
        return None if it is None else WriteToken(self.index, {shard: it})

    def joined(self, other: WriteToken) -> WriteToken:
        """What sees both. Of two indexes that of the later table: a reshard has made it of the
        other, with all that was acknowledged.
        """
        if self.index != other.index:
            return max(self, other, key=lambda token: token.term)
        one, two = self.reached, other.reached
        shards = one.keys() | two.keys()
        both = {it: max(one.get(it, NOTHING), two.get(it, NOTHING)) for it in shards}
        return WriteToken(self.index, both)


@functools.lru_cache(maxsize=REMEMBERED_MAX)
def read_token(text: str) -> WriteToken:
    """The token that ``text`` is. Raises ValueError."""
    with contextlib.suppress(ValueError, IndexError):
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if digest == _digest(body) and body[0] == _FORMAT:
            return _read(body)
    raise ValueError(_BROKEN)


def _read(body: bytes) -> WriteToken:
    place = 1 + _INDEX_BYTES
    index = body[1:place]
    term, place = _read_varint(body, place)
    version = int.from_bytes(body[place : place + _VERSION_BYTES], "little")
    place += _VERSION_BYTES
    reached, shard = dict[int, Reached](), 0
    while place < len(body):
        gap, place = _read_varint(body, place)
        later, place = _read_varint(body, place)
        newer, place = _read_varint(body, place)
        shard += gap
        if (reached and not gap) or shard >= SHARDS_MAX:
            raise ValueError(_BROKEN)
        reached[shard] = Reached(term + later, version + newer)
    if not reached or max(it.version for it in reached.values()) >> (8 * _VERSION_BYTES):
        raise ValueError(_BROKEN)
    return WriteToken(index, MappingProxyType(reached))


def check_token(text: str) -> str:
    """``text``, if it is a token. Raises ValueError."""
    read_token(text)
    return text


def joined_text(texts: Iterable[str | None]) -> str | None:
    """One token that sees all that ``texts`` see; None where none of them is one."""
    tokens = [read_token(text) for text in texts if text is not None]
    return functools.reduce(WriteToken.joined, tokens).text() if tokens else None


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES, person=b"bitsift token").digest()


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have their highest bit set."""
    found = bytearray()
    while number > 0x7F:
        found.append(0x80 | number & 0x7F)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at ``place``, and the place behind it. Raises IndexError, ValueError."""
    number = shift = 0
    while True:
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return number, place
        shift += 7
        if shift > 63:
            raise ValueError(_BROKEN)
