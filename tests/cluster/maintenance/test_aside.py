from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bitsift.cluster.maintenance.aside import written_aside
from bitsift.errors import InvalidRequest, RequestOutcome, Unavailable


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
from bitsift.cluster.maintenance.aside import written_aside
with written_aside(Path(sys.argv[1])) as aside:
    aside.mkdir()
    (aside / "half").write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "new")], check=False, timeout=120
    )
    assert done.returncode == -9
    (left,) = names(tmp_path)
    assert re.fullmatch(r"new\.bitsift-.{8}", left)
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


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_name_that_is_taken_in_the_meantime_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    def make() -> None:
        with written_aside(tmp_path / "new") as aside:
            aside.write_text("ours") if kind == "file" else aside.mkdir()
            (tmp_path / "new").write_text("dear")

    with pytest.raises(InvalidRequest, match="exists"):
        make()
    assert (tmp_path / "new").read_text() == "dear"
    assert names(tmp_path) == ["new"]


def test_names_that_look_like_leftovers_are_left_as_they_are(tmp_path: Path) -> None:
    like_ours = ["new.partial", "new.partial.lock", "new.bitsift-abcdefgh", "new.bitsift-zzzzzzzz"]
    for name in like_ours[:3]:
        (tmp_path / name).write_text("dear")
    (tmp_path / like_ours[3]).mkdir()
    (tmp_path / like_ours[3] / "lock").write_text("mine")
    (tmp_path / "other.bitsift-abcdefgh").mkdir()
    before = names(tmp_path)
    with written_aside(tmp_path / "new") as aside:
        aside.write_text("whole")
    assert names(tmp_path) == sorted([*before, "new"])
    assert (tmp_path / like_ours[3] / "lock").read_text() == "mine"


def test_a_link_that_leads_nowhere_is_something(tmp_path: Path) -> None:
    (tmp_path / "new").symlink_to(tmp_path / "nothing")
    with pytest.raises(InvalidRequest, match="exists"), written_aside(tmp_path / "new"):
        raise AssertionError
    assert os.readlink(tmp_path / "new") == str(tmp_path / "nothing")


@pytest.mark.parametrize("fails_at", ["made", "named"])
def test_a_disk_that_fails_at_the_end_says_whether_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    """Before it has its name nothing is left; after that it is whole, but perhaps not durable."""
    failed: list[Path] = []

    def sync(path: Path) -> None:
        if (path == tmp_path) == (fails_at == "named"):
            failed.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("bitsift.cluster.maintenance.aside.sync_folder", sync)
    with pytest.raises(Unavailable) as raised, written_aside(tmp_path / "new") as place:
        place.write_text("whole")
    assert failed
    if fails_at == "named":
        assert "is complete, but a power failure may lose it" in raised.value.message
        assert raised.value.outcome is RequestOutcome.UNKNOWN
        assert names(tmp_path) == ["new"]
    else:
        assert "new cannot be created (" in raised.value.message
        assert raised.value.outcome is RequestOutcome.NOT_DONE
        assert names(tmp_path) == []
