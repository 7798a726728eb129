"""Limits of the shell that a local cluster cannot live with."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from bitsift.cluster.serving.process_limits import (
    _NEEDS,
    FILES_MIN,
    TEMPORARY_BYTES_MIN,
    check_files,
    check_process_limits,
    check_sockets,
    check_temporary_folder,
)
from bitsift.errors import StorageFull, Unavailable


@pytest.mark.parametrize(("limit", "option", "least"), [need[:3] for need in _NEEDS])
def test_a_limit_that_is_too_low_is_named(
    limit: int, option: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited_to(size: int) -> None:
        held = {limit: (size, size)}
        monkeypatch.setattr(
            resource, "getrlimit", lambda asked: held.get(asked, (resource.RLIM_INFINITY,) * 2)
        )

    limited_to(least)
    check_process_limits()
    limited_to(least - 1)
    with pytest.raises(Unavailable, match=f"ulimit {option}"):
        check_process_limits()


def test_a_temporary_folder_without_room_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_room(size: int, files: int) -> None:
        room = SimpleNamespace(f_bavail=size, f_frsize=1, f_files=9, f_favail=files)
        monkeypatch.setattr(os, "statvfs", lambda folder: room)

    sessions = str(tmp_path / "ray")
    with_room(TEMPORARY_BYTES_MIN, 1)
    check_temporary_folder(sessions)
    for size, files in ((TEMPORARY_BYTES_MIN - 1, 1), (TEMPORARY_BYTES_MIN, 0)):
        with_room(size, files)
        with pytest.raises(StorageFull, match=f"{tmp_path} has room for 6"):
            check_temporary_folder(sessions)
    monkeypatch.undo()
    check_temporary_folder("/nonexistent/none/ray")


def test_a_temporary_folder_that_is_too_long_for_sockets_is_named() -> None:
    check_sockets("/" + "x" * 42)
    with pytest.raises(Unavailable, match="at most 43 bytes: set TMPDIR or RAY_TMPDIR"):
        check_sockets("/" + "x" * 43)


def test_a_limit_of_open_files_that_ray_cannot_start_with_is_said() -> None:
    for enough in (FILES_MIN, 1_024, resource.RLIM_INFINITY):
        check_files(enough)
    with pytest.raises(Unavailable, match="may open 127 files, and Ray needs 128"):
        check_files(FILES_MIN - 1)
