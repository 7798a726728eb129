"""Keys, TLS and the admin port by the real command line; what is refused before anything starts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trustme

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from tests.commands import COMMAND, answering, bitsift, free_port, in_process, wait_until

SPEC = SyntheticSpec(400, 64)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index, an authority, and a certificate with its key."""
    folder = tmp_path_factory.mktemp("guarded")
    write_index(folder / "index", SPEC, 1)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(folder / "cert.pem"), append=number > 0)
    (folder / "key.pem").chmod(0o600)
    (folder / "backups").mkdir()
    return folder


def new_key(place: Path, scope: str) -> dict[str, str]:
    made = in_process("keys", "new", "--keys", place / "keys.json", "--scope", scope, "--json")
    return dict(json.loads(made))


@dataclass(frozen=True)
class Served:
    url: str
    admin_url: str
    keys: dict[str, dict[str, str]]
    place: Path
    session: int

    def ask(self, method: str, url: str, scope: str | None, **more: Any) -> httpx.Response:
        headers = {} if scope is None else {"authorization": f"Bearer {self.keys[scope]['key']}"}
        trusted = ssl.create_default_context(cafile=str(self.place / "ca.pem"))
        return httpx.request(method, url, headers=headers, verify=trusted, **more)

    def answers(self, *asked: Any, **more: Any) -> bool:
        """Whether it does, and well."""
        with contextlib.suppress(httpx.TransportError):
            return self.ask(*asked, **more).is_success
        return False


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[Served]:
    admin_port = free_port()
    keys = {scope: new_key(place, scope) for scope in ("read", "write", "admin")}
    options = {
        "--port": 0, "--keys": place / "keys.json", "--tls-cert": place / "cert.pem",
        "--tls-key": place / "key.pem", "--admin-port": admin_port,
        "--backup-root": place / "backups",
    }  # fmt: skip
    flat = [part for option in options.items() for part in option]
    command = [*COMMAND, "serve", place / "index", *flat, "--json"]
    with answering(command) as (url, process):
        yield Served(url, f"https://127.0.0.1:{admin_port}", keys, place, process.pid)


def test_the_gateway_speaks_tls_and_asks_for_keys(served: Served) -> None:
    assert served.url.startswith("https://127.0.0.1:")
    assert served.ask("GET", f"{served.url}/readyz", None).json()["shards"] == ["READY"]
    search = {"vector": synthetic_queries(SPEC, 1)[0].tolist()}
    assert served.ask("POST", f"{served.url}/v1/search", None, json=search).status_code == 401
    found = served.ask("POST", f"{served.url}/v1/search", "read", json=search)
    assert len(found.json()["hits"]) == 10
    change = {"ids": ["nobody"]}
    path = f"{served.url}/v1/documents/delete"
    statuses = [served.ask("POST", path, scope, json=change).status_code for scope in served.keys]
    assert statuses == [403, 200, 200]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_nothing_below_tls_1_2_and_no_plain_http_is_answered(served: Served) -> None:
    port = int(served.url.rpartition(":")[2])
    with pytest.raises(httpx.TransportError):
        httpx.get(served.url.replace("https", "http") + "/livez")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        pytest.raises(ssl.SSLError, match="EOF|ALERT_PROTOCOL_VERSION"),  # what the server did
    ):
        old.wrap_socket(raw)
    new = ssl.create_default_context(cafile=str(served.place / "ca.pem"))
    new.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        new.wrap_socket(raw, server_hostname="127.0.0.1") as spoken,
    ):
        assert spoken.version() == "TLSv1.2"
        assert (spoken.cipher() or ("",))[0].startswith("ECDHE")


def test_the_admin_routes_are_on_their_own_port_only_and_write_below_the_root(
    served: Served,
) -> None:
    for url, scope, dest, status in (
        (served.url, "admin", "mine", 404),
        (served.admin_url, "write", "mine", 403),
        (served.admin_url, None, "mine", 401),
        (served.admin_url, "admin", "../outside", 403),
        (served.admin_url, "admin", "mine", 200),
    ):
        body = {"dest": str(served.place / "backups" / dest)}
        answer = served.ask("POST", f"{url}/v1/admin/backup", scope, json=body, timeout=60)
        assert answer.status_code == status, answer.text
    assert [path.name for path in (served.place / "backups").iterdir()] == ["mine"]
    assert not (served.place / "outside").exists()
    assert served.ask("GET", f"{served.admin_url}/v1/index", "admin").status_code == 404


def test_the_command_line_takes_its_key_from_the_environment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(served.place / "ca.pem"))
    done = bitsift("status", "--url", served.url, check=False)
    assert done.returncode == 1
    assert "API key" in done.stderr
    monkeypatch.setenv("BITSIFT_API_KEY", served.keys["read"]["key"])
    facts = json.loads(bitsift("status", "--url", served.url, "--json").stdout)
    assert facts["index"]["documents"] == SPEC.rows
    done = bitsift("delete", "nobody", "--url", served.url, check=False)
    assert done.returncode == 1
    assert "scope write" in done.stderr
    assert served.keys["read"]["key"] not in done.stderr


def test_a_key_made_while_it_runs_is_good_and_one_revoked_is_refused(served: Served) -> None:
    made = new_key(served.place, "read")
    served.keys["later"] = made

    def becomes(status: int) -> bool:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if served.ask("GET", f"{served.url}/v1/index", "later").status_code == status:
                return True
            time.sleep(0.2)
        return False

    assert becomes(200)
    in_process("keys", "revoke", "--keys", served.place / "keys.json", made["id"])
    assert becomes(401)
    assert served.ask("GET", f"{served.url}/v1/index", "read").status_code == 200


def test_neither_a_log_nor_a_command_line_of_the_server_holds_a_key(served: Served) -> None:
    """Ray keeps logs of its processes; the key file's path may be in them, its keys may not."""
    secrets = [key["key"].rpartition("_")[2].encode() for key in served.keys.values()]
    logs = list(Path("/tmp/ray").glob(f"session_*_{served.session}/logs/*.*"))
    assert len(logs) > 5
    texts = [path.read_bytes() for path in logs if path.is_file()]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            texts += [(folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()]
        except OSError:  # ended, or another user's
            continue
    assert not any(secret in text for secret in secrets for text in texts)


def test_a_router_that_died_comes_back_with_its_keys_its_tls_and_its_admin_port(
    served: Served,
) -> None:
    (router,) = [
        process for process in psutil.process_iter(["cmdline"])
        if "ray::RouterActor" in "".join(process.info["cmdline"] or [])
        and os.getsid(process.pid) == served.session
    ]  # fmt: skip
    router.kill()
    assert wait_until(lambda: served.answers("GET", f"{served.url}/readyz", None), 120)
    assert served.ask("GET", f"{served.url}/v1/index", None).status_code == 401
    assert served.ask("GET", f"{served.url}/v1/index", "read").status_code == 200
    admin = f"{served.admin_url}/v1/admin/compact"
    assert wait_until(lambda: served.answers("POST", admin, "admin", json={}), 60)
    assert served.ask("POST", admin, "write", json={}).status_code == 403


# --- refused before anything is started ---------------------------------------------------------


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_an_address_that_others_reach_needs_keys_or_insecure(place: Path, command: str) -> None:
    """B3: it was accepted without a word."""
    index = [place / "index"] if command == "serve" else ["--index", place / "none"]
    done = bitsift(command, *index, "--host", "0.0.0.0", "--port", 0, check=False)
    assert done.returncode == 2
    assert "--keys FILE" in done.stderr and "--insecure" in done.stderr
    assert "starting" not in done.stderr
    assert not (place / "none").exists()
