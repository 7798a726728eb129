"""A command that fails under --json says so in JSON: the last line on standard error."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bitsift.cluster.cli.main import name_temporary_folder
from bitsift.router.http.schema import Problem
from tests.commands import bitsift


@pytest.mark.parametrize(
    ("arguments", "kind", "status"),
    [
        (["status", "--index", "nowhere"], "NotFound", 1),
        (["search", "x", "--index", "nowhere"], "NotFound", 1),
        (["status"], "InvalidRequest", 2),
        (["status", "--nonsense"], "InvalidRequest", 2),
        (["search"], "InvalidRequest", 2),
        (["status", "--url", "http://127.0.0.1:9"], "Unavailable", 1),
    ],
)
def test_a_failure_is_a_problem_document_and_nothing_is_on_standard_output(
    tmp_path: Path, arguments: list[str], kind: str, status: int
) -> None:
    arguments = [str(tmp_path / part) if part == "nowhere" else part for part in arguments]
    done = bitsift(*arguments, "--json", check=False)
    assert (done.returncode, done.stdout) == (status, "")
    found = json.loads(done.stderr.splitlines()[-1])
    assert found.keys() == Problem.model_fields.keys()
    assert (found["type"], found["outcome"]) == (f"bitsift:{kind}", "not_done")
    assert found["detail"]


def test_a_failure_without_json_is_a_line_for_people(tmp_path: Path) -> None:
    done = bitsift("status", "--index", tmp_path / "nowhere", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    done = bitsift("search", "--index", tmp_path, "--", "--json", check=False)
    assert not done.stderr.startswith("{")


@pytest.mark.parametrize(
    ("given", "named"), [("", None), ("short", "{here}/short"), ("/var/tmp", "/var/tmp")]
)
def test_a_temporary_folder_has_an_absolute_path_or_is_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, named: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, given)
    name_temporary_folder()
    expected = None if named is None else named.format(here=tmp_path)
    assert [os.environ.get(name) for name in ("TMPDIR", "RAY_TMPDIR")] == [expected] * 2
