"""`bitsift model fetch`, against a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import COMMAND, in_process
from tests.hub import Hub, serving
from tests.tiny_model import build_tiny_model

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Two states of a model; the second is the newest."""
    folders = {
        commit: build_tiny_model(tmp_path_factory.mktemp("model"), dimension)
        for commit, dimension in ((FIRST, 64), (SECOND, 128))
    }
    with serving(Hub("some/model", folders, SECOND)) as served:
        yield served


def run(hub: Hub, cache: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    given = hub.environment(cache) | {"XDG_CACHE_HOME": str(cache / "compiled")} | more
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], env=os.environ | given,
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def facts(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_newest_state_or_the_one_that_is_named_is_fetched(hub: Hub, tmp_path: Path) -> None:
    newest = facts(run(hub, tmp_path, "model", "fetch", "some/model", "--json"))
    assert (newest["commit"], newest["dimension"]) == (SECOND, 128)
    assert newest["query_prompt"] == "query: "
    assert newest["bytes"] > 1_000
    named = facts(run(hub, tmp_path, "model", "fetch", f"some/model@{FIRST}", "--json"))
    assert (named["commit"], named["dimension"]) == (FIRST, 64)
    assert named["revision"] != newest["revision"]
    said = run(hub, tmp_path, "model", "fetch", f"some/model@{FIRST}", HF_HUB_OFFLINE="1")
    assert "64 dimensions, reads 64 tokens" in said.stdout
    assert f"commit {FIRST}" in said.stdout


def test_an_index_is_made_by_a_state_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    name, offline = f"some/model@{FIRST}", {"HF_HUB_OFFLINE": "1"}
    refused = run(hub, tmp_path, "create", tmp_path / "none", "--model", name, **offline)
    assert (refused.returncode, "bitsift model fetch" in refused.stderr) == (2, True)
    facts(run(hub, tmp_path, "model", "fetch", name, "--json"))
    hub.asked.clear()
    made = run(hub, tmp_path, "create", tmp_path / "index", "--model", name, **offline)
    assert made.returncode == 0, made.stderr
    assert not hub.asked
    shown = facts(run(hub, tmp_path, "status", "--index", tmp_path / "index", "--json"))
    assert (shown["index"]["model"]["name"], shown["index"]["dimension"]) == (name, 64)


def test_a_state_that_never_changes_is_not_asked_for_once_it_is_here(
    hub: Hub, tmp_path: Path
) -> None:
    """Libraries ask for listings though every file is cached, and wait for a hub that is away."""
    fetch = "model", "fetch", f"some/model@{FIRST}", "--json"
    first = facts(run(hub, tmp_path, *fetch))
    hub.asked.clear()
    assert facts(run(hub, tmp_path, *fetch)) == first
    anew = {"XDG_CACHE_HOME": str(tmp_path / "nothing compiled")}
    assert facts(run(hub, tmp_path, *fetch, **anew)) == first
    assert not hub.asked
    (Path(first["folder"]) / "model.safetensors").unlink()  # a download that was cut off
    again = {"XDG_CACHE_HOME": str(tmp_path / "nor here")}
    assert facts(run(hub, tmp_path, *fetch, **again))["revision"] == first["revision"]
    assert hub.asked


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("some/other", "the hub has no model of that name for you"),
        (f"some/model@{'3' * 40}", "no such branch, tag or commit of it"),
        ("some/model@", "it is no NAME and no NAME@COMMIT"),
        ("./nowhere", "is no folder"),
    ],
)
def test_what_is_not_there_is_said(hub: Hub, tmp_path: Path, name: str, reason: str) -> None:
    done = run(hub, tmp_path, "model", "fetch", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_the_installed_model_is_tried() -> None:
    found = json.loads(in_process("model", "fetch", "minilm", "--json"))
    assert (found["model"], found["commit"], found["dimension"]) == ("minilm", None, 384)
