"""The options of `bitsift serve` that say who may ask for what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from bitsift.cluster.cli.access import checked_access
from bitsift.cluster.serving.key_store import editing
from bitsift.config.tree import Settings
from bitsift.errors import BitsiftError, InvalidRequest
from bitsift.router.http.keys import Scope, new_key


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A key file, a certificate and its key."""
    certificate = trustme.CA().issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "key.pem").chmod(0o600)
    with editing(tmp_path / "keys.json") as keys:
        keys.append(new_key("", Scope.READ, None)[0])
    return tmp_path


def checked(host: str, **options: Any) -> None:
    """Check the access settings of a server on ``host``; ``admin_…`` ones are its own."""
    serve = {name: options.pop(name) for name in tuple(options) if name.startswith("admin")}
    checked_access(Settings.model_validate({"serve": {"host": host, **serve}, "access": options}))


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_insecure_is_said_once_and_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidRequest, match="--insecure"):
        checked("0.0.0.0")
    assert said(capsys) == []
    checked("0.0.0.0", insecure=True)
    (line,) = said(capsys)
    assert "Anyone who can reach this server can read, change and delete" in line
    checked("127.0.0.1", insecure=True)
    assert said(capsys) == []


def test_any_host_without_keys_is_warned_of(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked("127.0.0.1", allowed_hosts=["*"])
    (line,) = said(capsys)
    assert "web page" in line
    checked("127.0.0.1", allowed_hosts=["*"], keys=place / "keys.json")
    assert said(capsys) == []


def test_keys_without_tls_and_an_open_tls_key_are_warned_of(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, tls = place / "keys.json", {"tls_cert": place / "cert.pem", "tls_key": place / "key.pem"}
    checked("0.0.0.0", keys=keys)
    (line,) = said(capsys)
    assert "unencrypted" in line and "--tls-cert" in line
    checked("0.0.0.0", keys=keys, **tls)
    assert said(capsys) == []
    (place / "key.pem").chmod(0o644)
    checked("0.0.0.0", keys=keys, **tls)
    (line,) = said(capsys)
    assert "chmod 600" in line


def test_unusable_settings_are_refused_with_their_remedy(place: Path) -> None:
    cert, key, none = place / "cert.pem", place / "key.pem", place / "none"
    other = trustme.CA().issue_cert("localhost").private_key_pem
    other.write_to_path(str(place / "other.pem"))
    locked = load_pem_private_key(other.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    (place / "locked.pem").write_bytes(locked)
    (place / "open.json").write_bytes((place / "keys.json").read_bytes())
    (place / "open.json").chmod(0o644)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("both", {"tls_cert": cert}),
        ("both", {"tls_key": key}),
        ("KEY_VALUES_MISMATCH", {"tls_cert": cert, "tls_key": place / "other.pem"}),
        ("cannot be read", {"tls_cert": none, "tls_key": key}),
        ("cannot be read", {"tls_cert": cert, "tls_key": none}),
        ("not a certificate", {"tls_cert": key, "tls_key": cert}),
        ("passphrase", {"tls_cert": cert, "tls_key": place / "locked.pem"}),
        ("chmod 600", {"keys": place / "open.json"}),
        ("key file .* does not exist", {"keys": none}),
        ("not a key file", {"keys": cert}),
        ("not both", {"keys": place / "keys.json", "insecure": True}),
        ("--cors", {"cors_origins": ["*"]}),
        ("--allowed-host", {"allowed_hosts": ["a:1"]}),
        ("--backup-root", {"backup_root": "http://127.0.0.1/"}),
        ("--insecure", {"admin_host": "0.0.0.0", "admin_port": 0}),
        ("are the same", {"admin_port": 8000}),
    ]
    (place / "cert.pem").chmod(0o600)
    for expected, options in cases:
        with pytest.raises(BitsiftError, match=expected):
            checked("127.0.0.1", **options)
