"""`bitsift keys` by the real command line, and the file that it edits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitsift.cluster.cli.keys import parse_lifetime
from bitsift.cluster.serving import key_store
from bitsift.cluster.serving.key_store import editing
from bitsift.errors import BitsiftError, InvalidRequest, NotFound, Unavailable
from bitsift.router.http.keys import KEY_PATTERN, KeyRing, Scope, new_key, read_keys
from tests.commands import bitsift


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_made_shown_once_listed_and_revoked(path: Path) -> None:
    made = bitsift("keys", "new", "--keys", path, "--scope", "write", "--name", "ci")
    text = made.stdout.strip()
    assert KEY_PATTERN.fullmatch(text)
    assert text not in made.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    found = KeyRing(path).find(text)
    assert found is not None and (found.scope, found.name) == (Scope.WRITE, "ci")
    second = json.loads(
        bitsift(
            "keys", "new", "--keys", path, "--scope", "read", "--expires", "90d", "--json"
        ).stdout
    )
    assert KeyRing(path).find(second["key"]) is not None
    listed = bitsift("keys", "list", "--keys", path)
    assert found.id in listed.stdout and second["id"] in listed.stdout
    table = json.loads(bitsift("keys", "list", "--keys", path, "--json").stdout)["keys"]
    assert [(key["id"], key["scope"]) for key in table] == [
        (found.id, "write"), (second["id"], "read")
    ]  # fmt: skip
    secrets = (text.rpartition("_")[2], found.sha256)
    assert not any(secret in listed.stdout + json.dumps(table) for secret in secrets)
    assert table[0]["expires"] is None and table[1]["expires"] > table[1]["created"]
    bitsift("keys", "revoke", "--keys", path, found.id)
    assert [key.id for key in read_keys(path)] == [second["id"]]


def test_an_unknown_id_revokes_nothing(path: Path) -> None:
    made = json.loads(bitsift("keys", "new", "--keys", path, "--scope", "read", "--json").stdout)
    before = path.read_bytes()
    done = bitsift("keys", "revoke", "--keys", path, made["id"], "00000000", check=False)
    assert done.returncode == 1
    assert "00000000" in done.stderr and made["id"] not in done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{}", '{"my": "settings"}', "secret = 1\n"])
@pytest.mark.parametrize("command", ["new", "revoke"])
def test_a_foreign_file_stays_as_it_is(path: Path, content: str, command: str) -> None:
    path.write_text(content)
    path.chmod(0o600)
    arguments = ["--scope", "read"] if command == "new" else ["00000000"]
    done = bitsift("keys", command, "--keys", path, *arguments, check=False)
    assert done.returncode == 1
    assert "not a key file" in done.stderr
    assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_appears_while_one_is_made_is_not_overwritten(path: Path) -> None:
    with pytest.raises(InvalidRequest, match="just been created"), editing(path):
        path.write_text("mine")
    assert path.read_text() == "mine"
    assert list(path.parent.iterdir()) == [path]


ADD = """
import sys
from pathlib import Path
from bitsift.cluster.serving.key_store import editing
from bitsift.router.http.keys import Scope, new_key
for _ in range(8):
    with editing(Path(sys.argv[1])) as keys:
        keys.append(new_key(sys.argv[2], Scope.READ, None)[0])
"""


def test_commands_at_the_same_time_lose_no_key(path: Path) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", ADD, str(path), str(number)]) for number in range(4)
    ]
    assert [process.wait(60) for process in running] == [0] * 4
    assert sorted(key.name for key in read_keys(path)) == sorted("0123" * 8)
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_held_by_another_command_is_said_after_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_store, "LOCK_TIMEOUT_S", 0.1)
    with editing(path), pytest.raises(Unavailable, match="another command"), editing(path):
        pass


def test_an_edit_that_fails_changes_nothing_and_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with editing(path) as keys:
        keys.append(new_key("", Scope.READ, None)[0])
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space"), editing(path) as keys:
        keys.clear()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_mode_is_0600_under_any_umask_and_a_link_stays_a_link(
    path: Path, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real" / "keys.json")
    before = os.umask(0)
    try:
        for _ in range(2):
            with editing(path) as keys:
                keys.append(new_key("", Scope.READ, None)[0])
    finally:
        os.umask(before)
    assert path.is_symlink()
    assert len(read_keys(path)) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_edited_by_root_stays_that_of_who_serves(path: Path) -> None:
    with editing(path) as keys:
        keys.append(new_key("", Scope.READ, None)[0])
    if os.geteuid() == 0:
        os.chown(path, 12_345, 23_456)
    owner = (path.stat().st_uid, path.stat().st_gid)
    with editing(path) as keys:
        keys.append(new_key("", Scope.READ, None)[0])
    assert (path.stat().st_uid, path.stat().st_gid) == owner
    assert len(read_keys(path)) == 2


def test_a_missing_folder_and_bad_arguments_are_said(tmp_path: Path) -> None:
    with (
        pytest.raises(NotFound, match="cannot hold a key file"),
        editing(tmp_path / "none" / "keys.json"),
    ):
        pass
    for text in ("", "0d", "90", "d", "-1d", "1y", "1e9d", "3651d", "99999999h"):
        with pytest.raises(BitsiftError, match="hours, days or weeks"):
            parse_lifetime(text)
    assert parse_lifetime("2w") == parse_lifetime("14D") == parse_lifetime("336h")
