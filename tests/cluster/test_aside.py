from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.aside import written_aside
from shard_worker.errors import InvalidRequest, Unavailable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_the_block_made_gets_its_name_at_the_end(tmp_path: Path) -> None:
    with written_aside(tmp_path / "new") as aside:
        aside.mkdir()
        (aside / "file").write_text("whole")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "file").read_text() == "whole"
    assert names(tmp_path) == ["new"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), written_aside(tmp_path / "new") as aside:
        aside.write_text(f"half {1 / 0}" if aside.write_text("half") else "")
    assert names(tmp_path) == []


def test_what_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("dear")
    with (
        pytest.raises(InvalidRequest, match="exists"),
        written_aside(tmp_path / "old"),
    ):
        raise AssertionError
    assert (tmp_path / "old").read_text() == "dear"


KILLED = """
import os, sys
from pathlib import Path
from cluster.aside import written_aside
with written_aside(Path(sys.argv[1])) as aside:
    aside.mkdir()
    (aside / "half").write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "new")], check=False)
    assert done.returncode == -9
    assert "new.partial" in names(tmp_path)
    with written_aside(tmp_path / "new") as aside:
        aside.write_text("whole")
    assert names(tmp_path) == ["new"]
    assert (tmp_path / "new").read_text() == "whole"


def test_a_run_beside_a_run_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with written_aside(tmp_path / "new") as aside:
        aside.write_text("first")
        with pytest.raises(Unavailable, match="wait"), written_aside(tmp_path / "new"):
            raise AssertionError
    assert (tmp_path / "new").read_text() == "first"
