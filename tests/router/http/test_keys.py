from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bitsift.errors import BitsiftError, Corrupt, InvalidRequest, NotFound
from bitsift.router.http.keys import (
    KEY_CHARACTERS,
    KEY_FILE_BYTES_MAX,
    KEY_INDEXES_MAX,
    KEY_PATTERN,
    KEYS_MAX,
    NAME_CHARACTERS_MAX,
    RECHECK_S,
    Key,
    KeyRing,
    Scope,
    key_file_bytes,
    new_key,
    others_may_use,
    read_keys,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def write(path: Path, *keys: Key) -> None:
    """Another file under this name, as `bitsift keys` leaves it."""
    aside = path.with_name("aside")
    aside.write_bytes(key_file_bytes(keys))
    aside.chmod(0o600)
    aside.replace(path)


def expire_recheck(ring: KeyRing) -> None:
    """As if the time after which the file is looked at again were over."""
    ring._checked_s -= RECHECK_S


def test_a_scope_includes_those_before_it() -> None:
    order = [Scope.READ, Scope.WRITE, Scope.ADMIN]
    for place, scope in enumerate(order):
        assert [scope.includes(other) for other in order] == [place >= i for i in range(3)]


def test_keys_are_long_random_and_of_one_form() -> None:
    texts = {new_key("", Scope.READ, None)[1] for _ in range(200)}
    assert len(texts) == 200
    assert all(KEY_PATTERN.fullmatch(text) and len(text) == KEY_CHARACTERS for text in texts)


def test_neither_the_file_nor_a_representation_nor_an_error_holds_a_key(path: Path) -> None:
    key, text = new_key("ci", Scope.WRITE, None)
    write(path, key)
    secret = text.rpartition("_")[2]
    assert secret not in path.read_text()
    assert secret not in repr(key) + repr(KeyRing(path))
    assert key.sha256 not in repr(key)
    path.write_text(path.read_text().replace('"write"', f'"{text}"'))
    with pytest.raises(Corrupt) as damaged:
        read_keys(path)
    assert secret not in str(damaged.value)
    assert damaged.value.__cause__ is None


def test_a_key_is_found_by_its_whole_text_only(path: Path) -> None:
    (key, text), (other, other_text) = (new_key("", Scope.READ, None) for _ in range(2))
    write(path, key, other)
    ring = KeyRing(path)
    assert ring.find(text) == key
    assert ring.find(other_text) == other  # two at once: rotation
    changed = "0" if text[-1] != "0" else "1"
    mixed = other_text[:17] + text[17:]
    for wrong in ("", text[:-1], text + "0", text[:-1] + changed, mixed, "é" * 81, key.sha256):
        assert ring.find(wrong) is None


def test_every_key_is_compared_once_and_whole_known_or_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, text = new_key("", Scope.READ, None)
    write(path, key)
    ring = KeyRing(path)
    compared: list[tuple[int, int]] = []

    def compare(given: str, kept: str) -> bool:
        compared.append((len(given), len(kept)))
        return given == kept

    monkeypatch.setattr("hmac.compare_digest", compare)
    for tried in (text, new_key("", Scope.READ, None)[1], text[:17] + "0" * 64):
        ring.find(tried)
    assert compared == [(64, 64)] * 3


def test_a_revoked_key_is_unknown_at_the_next_look_and_a_new_one_is_known(path: Path) -> None:
    (old, old_text), (new, new_text) = (new_key("", Scope.READ, None) for _ in range(2))
    write(path, old)
    ring = KeyRing(path)
    write(path, new)
    assert ring.find(old_text) == old  # not looked at yet
    expire_recheck(ring)
    assert ring.find(old_text) is None
    assert ring.find(new_text) == new


@pytest.mark.parametrize("damage", ["cut", "gone", "open", "other"])
def test_a_file_damaged_later_is_logged_once_and_the_keys_stay(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    key, text = new_key("", Scope.READ, None)
    write(path, key)
    ring = KeyRing(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "gone":
        path.unlink()
    elif damage == "open":
        path.chmod(0o640)
    else:
        path.write_text("{}")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            expire_recheck(ring)
            assert ring.find(text) == key
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    assert text not in caplog.text
    write(path)
    expire_recheck(ring)
    assert ring.find(text) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_file_that_others_may_use_is_refused_with_the_remedy(path: Path, mode: int) -> None:
    write(path, new_key("", Scope.READ, None)[0])
    path.chmod(mode)
    with pytest.raises(InvalidRequest, match="chmod 600"):
        read_keys(path)


def test_what_is_no_key_file_is_refused_by_name(path: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="bitsift keys new"):
        read_keys(path)
    with pytest.raises(InvalidRequest, match="not a file"):
        read_keys(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InvalidRequest, match="not a file"):
        read_keys(tmp_path / "pipe")


def test_damaged_content_is_refused(path: Path) -> None:
    key = new_key("", Scope.READ, None)[0]
    good = json.loads(key_file_bytes([key]))
    (entry,) = good["keys"]
    bad = [
        b"", b"[]", b"{}", b"\xff", b"{" * 10_000,
        *(
            json.dumps(content).encode()
            for content in (
                {**good, "bitsift_keys": 2},
                {**good, "more": 1},
                {**good, "keys": [{**entry, "id": "../../up"}]},
                {**good, "keys": [{**entry, "scope": "root"}]},
                {**good, "keys": [{**entry, "sha256": ""}]},
                {**good, "keys": [{**entry, "created": "2026-01-01T00:00:00"}]},  # no time zone
                {**good, "keys": [{**entry, "more": 1}]},
                {**good, "keys": [entry, entry]},
            )
        ),
    ]  # fmt: skip
    for content in bad:
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(Corrupt, match="keys.json"):
            read_keys(path)


def test_the_limits_hold_one_beyond(path: Path) -> None:
    most = [new_key("n" * NAME_CHARACTERS_MAX, Scope.READ, None)[0] for _ in range(KEYS_MAX)]
    write(path, *most)
    assert len(read_keys(path)) == KEYS_MAX  # the fullest file is under the limit of bytes
    assert path.stat().st_size <= KEY_FILE_BYTES_MAX
    with pytest.raises(InvalidRequest, match="at most 100"):
        key_file_bytes([*most, new_key("", Scope.READ, None)[0]])
    with pytest.raises(InvalidRequest, match="characters"):
        new_key("n" * (NAME_CHARACTERS_MAX + 1), Scope.READ, None)
    with pytest.raises(InvalidRequest, match="printable"):
        new_key("a\nb", Scope.READ, None)
    path.write_bytes(path.read_bytes() + b" " * KEY_FILE_BYTES_MAX)
    path.chmod(0o600)
    with pytest.raises(Corrupt, match="bytes"):
        read_keys(path)


def test_a_key_expires_at_its_moment() -> None:
    now = datetime.now(UTC)
    key, _ = new_key("", Scope.READ, now)
    assert key.is_expired(now)
    assert not key.is_expired(now - timedelta(seconds=1))
    assert not new_key("", Scope.READ, None)[0].is_expired(now)


def test_a_file_without_keys_opens_for_nobody(path: Path) -> None:
    write(path)
    assert KeyRing(path).find(new_key("", Scope.ADMIN, None)[1]) is None


def test_every_refusal_is_an_error_of_ours(path: Path) -> None:
    path.symlink_to(path)  # a loop
    with pytest.raises(BitsiftError, match="keys.json"):
        read_keys(path)


@pytest.mark.parametrize(
    ("owner", "group", "mode", "is_refused"),
    [
        (0, 10_001, 0o440, False),
        (0, 10_001, 0o400, False),
        (0, 10_001, 0o460, True),
        (0, 10_001, 0o444, True),
        (0, 50, 0o440, True),
        (10_001, 10_001, 0o440, True),
        (10_001, 10_001, 0o400, False),
    ],
)
def test_a_secret_that_kubernetes_mounted_for_the_group_of_a_pod_is_no_file_of_others(
    monkeypatch: pytest.MonkeyPatch, owner: int, group: int, mode: int, is_refused: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 10_001)
    monkeypatch.setattr(os, "getgroups", lambda: [10_001])
    found = os.stat_result((0o100000 | mode, 1, 1, 1, owner, group, 1, 0, 0, 0))
    assert others_may_use(found) == is_refused


def test_a_key_may_be_for_some_indexes_and_a_file_without_them_is_as_before(path: Path) -> None:
    some, _ = new_key("", Scope.READ, None, [f"index-{i}" for i in range(KEY_INDEXES_MAX)])
    every, _ = new_key("", Scope.READ, None)
    assert b"indexes" not in key_file_bytes([every])  # a server of an earlier release reads it
    write(path, some, every)
    assert read_keys(path) == (some, every)
    for wrong in (["a"] * (KEY_INDEXES_MAX + 1), [""], ["a" * (NAME_CHARACTERS_MAX + 1)], ["\n"]):
        with pytest.raises(InvalidRequest):
            new_key("", Scope.READ, None, wrong)
    long = new_key("", Scope.READ, None, ["ü" * NAME_CHARACTERS_MAX] * KEY_INDEXES_MAX)[0]
    with pytest.raises(InvalidRequest, match="too long for a key file"):
        key_file_bytes([long] * KEYS_MAX)
