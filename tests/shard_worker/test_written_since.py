"""What was written to a shard since a version, read while it is written to and compacted."""

from __future__ import annotations

import random
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bitsift.errors import FormatMismatch, RequestOutcome, ShardUnavailable, Unavailable
from bitsift.shard_worker import written_since as module
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.layout import MANIFEST_FILE, read_identity, read_json, shard_folder
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import ShardSettings
from bitsift.shard_worker.written_since import Changes, Mark
from tests.golden.make import golden_index
from tests.shard_worker.small_shard import batch, new_shard, open_shard
from tests.writing import written


def one_pass(shard: Shard, since: int, mark: Mark | None = None) -> tuple[list[str], Changes]:
    """The ids of a whole pass, those of deletions with a minus; and its end."""
    ids: list[str] = []
    while True:
        found = shard.written_since(since, mark)
        for operation in found.operations:
            sign = "-" if isinstance(operation, Delete) else ""
            ids += [f"{sign}{name}" for name in operation.ids]
        mark = found.mark
        if mark.is_ended:
            return ids, found


def put(shard: Shard, *ids: str, text: str = "one") -> None:
    written(shard, batch(ids, [text] * len(ids)))


def test_a_pass_brings_all_and_a_later_one_what_is_new(tmp_path: Path) -> None:
    with closing(new_shard(tmp_path / "a")) as shard:
        put(shard, "a", "b", "c")
        written(shard, Delete(["b"]))
        ids, first = one_pass(shard, 0)
        assert ids == ["a", "c", "-b"]
        assert (first.documents, first.mark.version) == (2, shard.newest_version)
        put(shard, "d", text="two")
        put(shard, "a", text="two")
        written(shard, Delete(["c"]))
        ids, second = one_pass(shard, first.mark.version, first.mark)
        assert ids == ["d", "a", "-b", "-c"]  # the version that was the newest comes twice
        ids, _ = one_pass(shard, second.mark.version, second.mark)
        assert ids == ["-c"]


@pytest.mark.parametrize("how", ["compacted", "opened again"])
def test_what_is_new_is_known_by_its_version_where_rows_have_other_numbers(
    tmp_path: Path, how: str
) -> None:
    shard = new_shard(tmp_path / "a")
    put(shard, "a", "b", "c", "d")
    written(shard, Delete(["b"]))
    _, first = one_pass(shard, 0)
    put(shard, "e")
    if how == "compacted":
        assert shard.compact()
    else:
        shard.close()
        shard = open_shard(tmp_path / "a")
    ids, _ = one_pass(shard, first.mark.version, first.mark)
    assert ids == ["e", "-b"]
    shard.close()


def test_a_compaction_in_the_midst_of_a_pass_has_it_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS_MAX", 2)
    with closing(new_shard(tmp_path / "a")) as shard:
        put(shard, "a", "b", "c", "d", "e")
        written(shard, Delete(["a"]))
        begun = shard.written_since(0, None)
        assert [list(one.ids) for one in begun.operations] == [["b"]]
        assert shard.compact()
        ids, end = one_pass(shard, 0, begun.mark)
        assert ids == ["b", "c", "d", "e", "-a"]
        assert end.mark.opened != begun.mark.opened


def test_all_comes_again_after_a_replica_was_given_something_older_than_its_newest(
    tmp_path: Path,
) -> None:
    """Of another replica, which had it before: its version does not say that it is new here."""
    with closing(new_shard(tmp_path / "a")) as shard:
        put(shard, "a", "b")
        early = shard.newest_version
        written(shard, replace(batch(["c"], ["one"]), version=early + 2))  # not of the same instant
        _, first = one_pass(shard, 0)
        written(shard, Delete(["a"], early + 1))
        written(shard, replace(batch(["d"], ["one"]), version=early + 1))
        assert shard.newest_version == first.mark.version
        ids, second = one_pass(shard, first.mark.version, first.mark)
        assert sorted(ids) == ["-a", "b", "c", "d"]
        written(shard, Delete(["a"], early + 1))  # the second time it changes nothing
        ids, _ = one_pass(shard, second.mark.version, second.mark)
        assert ids == []


def test_what_is_written_during_a_pass_is_left_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS_MAX", 2)
    with closing(new_shard(tmp_path / "a")) as shard:
        put(shard, "a", "b", "c")
        begun = shard.written_since(0, None)
        put(shard, "d")
        put(shard, "a", text="two")
        ids, end = one_pass(shard, 0, begun.mark)
        assert ids == ["c"]
        ids, _ = one_pass(shard, end.mark.version, end.mark)
        assert ids == ["d", "a"]


def test_a_batch_of_large_documents_has_fewer_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 256 << 10)
    with closing(new_shard(tmp_path / "a")) as shard:
        for number in range(20):
            text = random.Random(number).randbytes(32 << 10).hex()
            written(shard, batch([str(number)], [text]))
        first = shard.written_since(0, None)
        assert 1 <= sum(len(operation) for operation in first.operations) < 10
        ids, _ = one_pass(shard, 0)
        assert ids == [str(number) for number in range(20)]


def test_forgotten_deletions_are_said_and_not_left_out(tmp_path: Path) -> None:
    forgetful = ShardSettings(tombstone_grace_s=-1.0)
    with closing(new_shard(tmp_path / "a", forgetful)) as shard:
        put(shard, "a", "b")
        _, first = one_pass(shard, 0)
        written(shard, Delete(["a"]))
        assert shard.compact()
        with pytest.raises(Unavailable, match="has forgotten deletions"):
            shard.written_since(first.mark.version, first.mark)
        ids, _ = one_pass(shard, 0)
        assert ids == ["b"]


def test_format_1_keeps_no_versions(tmp_path: Path) -> None:
    index = Path(shutil.copytree(golden_index(1), tmp_path / "old"))
    folder = shard_folder(index, 0)
    calibration = Calibration.from_json(read_json(index / MANIFEST_FILE)["calibration"])
    with (
        closing(Shard(folder, calibration, read_identity(folder))) as shard,
        pytest.raises(FormatMismatch, match="keeps no versions: compact the index"),
    ):
        shard.written_since(0, None)


def test_a_shard_refuses_writes_for_a_while_and_answers(tmp_path: Path) -> None:
    with closing(new_shard(tmp_path / "a")) as shard:
        put(shard, "a")
        shard.refuse_writes(60.0)
        for operation in (batch(["b"], ["one"]), Delete(["a"])):
            with pytest.raises(ShardUnavailable, match="others take over") as refused:
                written(shard, operation)
            assert refused.value.outcome is RequestOutcome.NOT_DONE
        assert shard.document("a").text == "one"
        shard.refuse_writes(0.0)
        put(shard, "b")
        assert shard.document("b").text == "one"
