"""API keys: what one is, the file that holds their hashes, and the keys that a gateway knows.

A key is ``bitsift_<id>_<secret>``. The id, 8 hex digits, names it in lists and messages; the secret
is 256 random bits. The file holds the SHA-256 of the whole key. A slow hash makes it expensive to
guess a password that people chose; nobody guesses 256 random bits, and a slow hash would cost every
request some milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from bitsift.errors import BitsiftError, Corrupt, InvalidRequest, NotFound, Unavailable

log = logging.getLogger(__name__)

KEYS_MAX = 100
NAME_CHARACTERS_MAX = 100
KEY_INDEXES_MAX = 8
KEY_FILE_BYTES_MAX = 128 << 10
RECHECK_S = 1.0
"""How long a revoked key may keep working: the first request after this time checks the file."""
KEY_PATTERN = re.compile(r"bitsift_([0-9a-f]{8})_[0-9a-f]{64}")
KEY_CHARACTERS = len("bitsift_") + 8 + 1 + 64


class Scope(StrEnum):
    """What a key allows. Each scope includes those before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        """Whether a key of this scope may do what needs ``other``."""
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER = tuple(Scope)


_IndexName = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARACTERS_MAX)]


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key; ``sha256`` is in hex. The key itself is kept nowhere.

    ``indexes`` are the names or aliases of those that it is for; none: all, and the server itself.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, StringConstraints(max_length=NAME_CHARACTERS_MAX)]
    scope: Scope
    created: AwareDatetime
    expires: AwareDatetime | None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = field(repr=False)
    indexes: Annotated[tuple[_IndexName, ...], Field(max_length=KEY_INDEXES_MAX)] = ()

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over at ``now``, which has a time zone."""
        return self.expires is not None and now >= self.expires


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The content of a key file; ``bitsift_keys`` is the version of its format."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    bitsift_keys: Literal[1]
    keys: tuple[Key, ...]


_FILE = TypeAdapter(KeyFile)
_Fingerprint = tuple[int, int, int, int, int]


def new_key(
    name: str, scope: Scope, expires: datetime | None, indexes: Sequence[str] = ()
) -> tuple[Key, str]:
    """A key to keep, and its text, which is to be shown once. Raises InvalidRequest."""
    if len(indexes) > KEY_INDEXES_MAX:
        raise InvalidRequest(f"a key is for at most {KEY_INDEXES_MAX} indexes, or for all")
    if not all(0 < len(one) <= NAME_CHARACTERS_MAX and one.isprintable() for one in indexes):
        raise InvalidRequest(
            f"the name of an index has 1 to {NAME_CHARACTERS_MAX} characters, all printable"
        )
    if len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise InvalidRequest(f"a name has at most {NAME_CHARACTERS_MAX} characters, all printable")
    key_id = secrets.token_hex(4)
    text = f"bitsift_{key_id}_{secrets.token_hex(32)}"
    created = datetime.now(UTC).replace(microsecond=0)
    return Key(key_id, name, scope, created, expires, _digest(text), tuple(indexes)), text


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in ``path``.

    Raises NotFound, Corrupt (damaged, or no key file), or InvalidRequest where others than its
    owner may read or write it.
    """
    return _read(path)[0]


def key_file_bytes(keys: Sequence[Key]) -> bytes:
    """The content of a file that holds ``keys``. Raises InvalidRequest for too many.

    Keys for all indexes are written as they were before there were others.
    """
    if len(keys) > KEYS_MAX:
        raise InvalidRequest(f"a key file holds at most {KEYS_MAX} keys; revoke one first")
    data = _FILE.dump_json(KeyFile(1, tuple(keys)), indent=2, exclude_defaults=True) + b"\n"
    if len(data) > KEY_FILE_BYTES_MAX:
        raise InvalidRequest("the names of the indexes of all keys are too long for a key file")
    return data


class KeyRing:
    """The keys of a file, which is read again when it changes. For one event loop.

    A file that can no longer be read is logged once, and the keys read before stay valid.
    """

    def __init__(self, path: Path) -> None:
        """Raises as ``read_keys`` does."""
        self._path = path
        keys, seen = _read(path)
        self._keys = {key.id: key for key in keys}
        self._seen: _Fingerprint | None = seen
        self._checked_s = time.monotonic()

    def find(self, text: str) -> Key | None:
        """The key whose text this is, expired or not; None where there is none.

        Takes as long for an id that is known as for one that is not, and as long for a secret that
        is wrong in its first digit as for one that is wrong in its last.
        """
        self._refresh()
        if len(text) != KEY_CHARACTERS:
            return None
        key = self._keys.get(text[8:16], _NOBODY)
        is_right = hmac.compare_digest(_digest(text), key.sha256)
        return key if is_right else None

    def _refresh(self) -> None:
        now_s = time.monotonic()
        if now_s - self._checked_s < RECHECK_S:
            return
        self._checked_s = now_s
        seen = _fingerprint_of(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            keys, self._seen = _read(self._path)
        except BitsiftError as error:
            log.error("%s; the keys read before stay valid", error.message)
            return
        self._keys = {key.id: key for key in keys}
        log.info("%s was read again: %d keys", self._path, len(keys))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_NOBODY = Key("00000000", "", Scope.READ, datetime.now(UTC), None, _digest(secrets.token_hex(32)))
"""Compared with when an id is unknown, so that this takes as long as a known one."""


def _fingerprint_of(path: Path) -> _Fingerprint | None:
    try:
        return _fingerprint(path.stat())
    except OSError:
        return None


def _fingerprint(found: os.stat_result) -> _Fingerprint:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read(path: Path) -> tuple[tuple[Key, ...], _Fingerprint]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # never waits for a pipe's writer
    except FileNotFoundError as error:
        raise NotFound(
            f"the key file {path} does not exist; bitsift keys new --keys {path} "
            "--scope read creates one"
        ) from error
    except OSError as error:
        raise Unavailable(f"the key file {path} cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidRequest(f"{path} is not a file: name the key file")
        if others_may_use(found):
            raise InvalidRequest(
                f"the key file {path} has mode {found.st_mode & 0o777:04o}: users other than "
                f"its owner can use it; chmod 600 {path}, and replace its keys if others may have "
                "seen them"
            )
        data = os.read(descriptor, KEY_FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    return _parsed(path, data), _fingerprint(found)


def others_may_use(found: os.stat_result) -> bool:
    """Whether users other than the owner may. Kubernetes gives the files of a Secret to root, and
    lets a group of the pod's own read them (fsGroup): that is no other user.
    """
    is_given = found.st_uid == 0 != os.geteuid() and found.st_gid in os.getgroups()
    return bool(found.st_mode & (0o037 if is_given else 0o077))


def _parsed(path: Path, data: bytes) -> tuple[Key, ...]:
    if len(data) > KEY_FILE_BYTES_MAX:
        raise Corrupt(
            f"{path} is too large for a key file: it has over {KEY_FILE_BYTES_MAX:,} bytes"
        )
    try:
        keys = _FILE.validate_json(data).keys
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        raise Corrupt(
            f"{path} is damaged or not a key file ({place}: {first['msg']}); "
            "name another, or restore it"
        ) from None  # the cause would show the content
    if len(keys) > KEYS_MAX or len({key.id for key in keys}) < len(keys):
        raise Corrupt(f"{path} is damaged: over {KEYS_MAX} keys, or two with one id; restore it")
    return keys
