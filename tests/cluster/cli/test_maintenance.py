"""A running cluster that never answers is not waited for without an end."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitsift.cluster.cli import main as cli
from bitsift.cluster.cli import maintenance
from bitsift.errors import DeadlineExceeded


@pytest.mark.parametrize("command", ["backup", "compact", "verify", "repair"])
def test_a_job_whose_answer_does_not_come_is_given_up(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "ADMIN_TIMEOUT_S", 0.1)
    dest = [str(tmp_path / "dest")] if command == "backup" else []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = CliRunner().invoke(cli.app, [command, *dest, "--url", url]).exception
    assert isinstance(error, DeadlineExceeded)
    assert f"{url} broke off its answer" in error.message
