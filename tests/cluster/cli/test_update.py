"""bitsift update against a real gateway in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from bitsift.client import Client
from bitsift.cluster.cli.main import app
from tests.gateways import running_empty

DIMENSION = 64


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_empty(tmp_path_factory.mktemp("cli"), DIMENSION) as running:
        with Client(running.url) as client:
            client.add({"id": f"d{n}", "text": "x", "metadata": {"n": n}} for n in range(6))
        yield running.url


def update(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["update", *arguments])


def test_one_document_and_what_passes_are_changed(url: str) -> None:
    with Client(url) as client:
        one = update('{"old": true, "n": null}', "--id", "d0", "--url", url)
        assert one.exit_code == 0, one.output
        version = client.get("d0").version
        assert f"updated, version {version}" in one.output
        assert client.get("d0").metadata == {"old": True}
        late = update('{"old": 1}', "--id", "d0", "--if-version", "7", "--url", url)
        assert late.exit_code != 0
        done = update(
            '{"old": 1}', "--id", "d0", "--if-version", version or "", "--url", url, "--json"
        )
        assert json.loads(done.stdout)["status"] == "updated"
        some = update('{"high": true}', "--filter", "n >= 3", "--url", url)
        assert (some.exit_code, some.output.strip()) == (0, "3 updated")
        again = update('{"high": true}', "--filter", "n >= 3", "--url", url, "--json")
        assert json.loads(again.stdout)["unchanged"] == 3
        assert client.count("high = true") == 3


@pytest.mark.parametrize(
    "wrong",
    [
        ["{", "--id", "a"],
        ["[1]", "--id", "a"],
        ["{}"],
        ["{}", "--id", "a", "--filter", "n = 1"],
        ["{}", "--filter", "n = 1", "--if-version", "7"],
        ["{}", "--id", "nobody"],
    ],
)
def test_what_cannot_be_is_refused(url: str, wrong: list[str]) -> None:
    assert update(*wrong, "--url", url).exit_code != 0
