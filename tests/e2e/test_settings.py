"""A server that is configured by bitsift.toml, a variable and a flag at once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.sources.synthetic import SyntheticSpec
from tests.commands import COMMAND, answering, bitsift
from tests.faults.support import ROOT

PROXIES = ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy")

FILE = """
[serve]
host = "127.0.0.2"
port = 0
admin_port = 0

[access]
keys = "keys.json"
allowed_hosts = ["a.example", "b.example"]

[shards]
store_max = "2G"
"""


@dataclass(frozen=True)
class Configured:
    url: str
    folder: Path
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    """Its environment says to ask through a proxy that is not there."""
    folder = tmp_path_factory.mktemp("configured")
    write_index(folder / "index", SyntheticSpec(400, 64), 1)
    (folder / "bitsift.toml").write_text(FILE)
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"bitsift_keys": 1, "keys": []}))
    keys.chmod(0o600)
    command = [*COMMAND, "serve", "index", "--allowed-host", "c.example", "--json"]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("BITSIFT_SERVE_HOST", "127.0.0.1")
        patched.setenv("PYTHONPATH", str(ROOT))
        for name in PROXIES:
            patched.setenv(name, "socks5h://127.0.0.1:9")
        with answering(command) as (url, process):
            patched.undo()
            yield Configured(url, folder, process)
    assert process.returncode == 0


def test_a_server_is_what_the_file_the_variable_and_the_flag_say(configured: Configured) -> None:
    url, process = configured.url, configured.process
    address = httpx.URL(url)
    assert address.host == "127.0.0.1"  # the variable's; the file's port, a free one
    assert address.port not in (0, 8000)
    assert httpx.get(f"{url}/v1/index").status_code == 401  # the file's keys
    for host, status in {"a.example": 421, "c.example": 401}.items():  # the flag's list
        answer = httpx.get(f"{url}/v1/index", headers={"host": host})
        assert answer.status_code == status, host
    assert httpx.get(f"{url}/v1/admin/backup").status_code == 401
    assert process.stderr is not None
    assert process.stderr.readline() == f"settings file: {configured.folder}/bitsift.toml\n"
    assert process.stderr.readline() == "settings from variables: BITSIFT_SERVE_HOST\n"


def test_probes_of_its_own_use_no_proxy_and_a_second_server_says_at_once_who_has_the_index(
    configured: Configured,
) -> None:
    second = bitsift("serve", configured.folder / "index", "--port", 0, check=False)
    assert second.returncode == 1
    assert "open in another process (pid " in second.stderr
    assert "starting" not in second.stderr  # no cluster is started for it
    assert httpx.get(f"{configured.url}/readyz").is_success
