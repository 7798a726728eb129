"""The token of a write: what a later read must see. It comes with the answer to the write, and goes
with a search or a get as ``read_your_writes``.

It names the index, and for each shard that was written to the version (shard_worker/clock.py) up to
which its writes must have been applied. A caller takes it as it is and looks at nothing in it:

    byte 0            format, 1
    bytes 1 … 8       BLAKE2b-64 of the index's uuid
    varint            epoch of the replica table under which was written; 0 where there is none
    8 bytes           the least of the versions, little-endian
    varint, varint    for each shard, ascending: its number less that of the one before, and by how
                      much its version is greater than the least
    last 6 bytes      BLAKE2b-48 of all that

as base64url. That is some 35 characters, and 3 to 8 more for each shard. The digest finds what was
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

TOKEN_CHARACTERS_MAX = 65_536
"""More than the token of an index of 4,096 shards that were all written to."""
SHARDS_MAX = 4_096
"""As many as an index may have (cluster/manifest.py). A token that somebody made up could name six
times as many in its characters, and be remembered with all of them."""
REMEMBERED_MAX = 32
"""Tokens as they were read; of the largest, 13 MiB."""
_FORMAT = 1
_INDEX_BYTES = 8
_VERSION_BYTES = 8
_DIGEST_BYTES = 6
_BROKEN = "this is no token from the answer to a write: send it unchanged, or leave it out"


def index_mark(uuid: str) -> bytes:
    """What a token says of the index with this uuid."""
    return hashlib.blake2b(uuid.encode(), digest_size=_INDEX_BYTES).digest()


@dataclass(frozen=True, slots=True)
class WriteToken:
    """Which writes a read must see. ``index`` is an ``index_mark``, ``versions`` are by shard, at
    least one.
    """

    index: bytes
    epoch: int
    versions: Mapping[int, int]

    def text(self) -> str:
        """As it is sent."""
        least = min(self.versions.values())
        parts = [bytes([_FORMAT]), self.index, _varint(self.epoch)]
        parts.append(least.to_bytes(_VERSION_BYTES, "little"))
        before = 0
        for shard, version in sorted(self.versions.items()):
            parts += [_varint(shard - before), _varint(version - least)]
            before = shard
        body = b"".join(parts)
        return base64.urlsafe_b64encode(body + _digest(body)).decode().rstrip("=")

    def of(self, shard: int) -> WriteToken | None:
        """The part that ``shard`` must know; None where it was not written to."""
        version = self.versions.get(shard)
        return None if version is None else WriteToken(self.index, self.epoch, {shard: version})

    def joined(self, other: WriteToken) -> WriteToken:
        """What sees both. Of two indexes that of the later table: a reshard has made it of the
        other, with all that was acknowledged.
        """
        if self.index != other.index:
            return max(self, other, key=lambda token: token.epoch)
        shards = self.versions.keys() | other.versions.keys()
        versions = {it: max(self.versions.get(it, 0), other.versions.get(it, 0)) for it in shards}
        return WriteToken(self.index, max(self.epoch, other.epoch), versions)


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
    epoch, place = _read_varint(body, place)
    least = int.from_bytes(body[place : place + _VERSION_BYTES], "little")
    place += _VERSION_BYTES
    versions, shard = dict[int, int](), 0
    while place < len(body):
        gap, place = _read_varint(body, place)
        more, place = _read_varint(body, place)
        shard += gap
        if (versions and not gap) or shard >= SHARDS_MAX:
            raise ValueError(_BROKEN)
        versions[shard] = least + more
    if not versions or max(versions.values()) >> (8 * _VERSION_BYTES):
        raise ValueError(_BROKEN)
    return WriteToken(index, epoch, MappingProxyType(versions))


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
