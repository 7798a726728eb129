"""A server that is configured by bitsift.toml, a variable and a flag at once."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.sources.synthetic import SyntheticSpec
from tests.commands import COMMAND, answering

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


def test_a_server_is_what_the_file_the_variable_and_the_flag_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_index(tmp_path / "index", SyntheticSpec(400, 64), 1)
    (tmp_path / "bitsift.toml").write_text(FILE)
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"bitsift_keys": 1, "keys": []}))
    keys.chmod(0o600)
    monkeypatch.setenv("BITSIFT_SERVE_HOST", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    command = [*COMMAND, "serve", "index", "--allowed-host", "c.example", "--json"]
    with answering(command) as (url, process):
        address = httpx.URL(url)
        assert address.host == "127.0.0.1"  # the variable's; the file's port, a free one
        assert address.port not in (0, 8000)
        assert httpx.get(f"{url}/v1/index").status_code == 401  # the file's keys
        for host, status in {"a.example": 421, "c.example": 401}.items():  # the flag's list
            answer = httpx.get(f"{url}/v1/index", headers={"host": host})
            assert answer.status_code == status, host
        assert httpx.get(f"{url}/v1/admin/backup").status_code == 401
        assert process.stderr is not None
        assert process.stderr.readline() == f"settings file: {tmp_path}/bitsift.toml\n"
        assert process.stderr.readline() == "settings from variables: BITSIFT_SERVE_HOST\n"
