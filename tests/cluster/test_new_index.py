"""Which folders an index may be made in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from bitsift.cluster.new_index import REJECT_BYTES_MAX, check_new
from bitsift.errors import InvalidRequest


def test_the_first_of_the_rejects_that_are_left_over_has_so_many_bytes_at_most(
    tmp_path: Path,
) -> None:
    reject = {"file": "a.jsonl", "line": 1, "reason": ""}
    room = REJECT_BYTES_MAX - len(orjson.dumps(reject))
    for more in (0, 1):
        line = orjson.dumps(reject | {"reason": "x" * (room + more)})
        (tmp_path / "rejects.jsonl").write_bytes(line + b"\n")
        if more:
            with pytest.raises(InvalidRequest, match="exists and is not an index"):
                check_new(tmp_path)
        else:
            check_new(tmp_path)


def test_a_folder_of_others_is_refused_without_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def rglob(folder: Path, pattern: str) -> Iterator[Path]:
        read.append(folder.name)
        for number in range(1_000_000):
            assert number < 3, "it is read on"
            yield folder / ("store-00000" if number == 0 else f"{number}.txt")

    monkeypatch.setattr(Path, "rglob", rglob)
    for name, wanted in (("home", []), ("shard-00000", ["shard-00000"])):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(InvalidRequest, match="exists and is not an index"):
            check_new(tmp_path / name)
        assert read == wanted
