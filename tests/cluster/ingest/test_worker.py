"""What a loading process sends, and how long it waits for a shard that is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bitsift.cluster.ingest import worker
from bitsift.cluster.ingest.worker import BATCHES_AHEAD, Loader, PatientLoading, Work, load_vectors
from bitsift.cluster.sources.documents import SCHEMA
from bitsift.errors import ShardUnavailable, StorageFull
from bitsift.router.model.blank import NO_VECTOR
from bitsift.shard_worker.operations import Delete, Insert, Operation
from bitsift.write_status import WriteStatus
from tests.shard_worker.small_shard import CALIBRATION

OPERATION = Delete(["a"])
WORK = Work(CALIBRATION.to_json(), (), None, resuming=False)


@dataclass
class AwayLink:
    """A shard that fails the first ``fails`` times, alternately when it is asked and after."""

    fails: int
    error: Exception = field(default_factory=lambda: ShardUnavailable("shard 0 is loading"))
    sent: list[Operation] = field(default_factory=list)
    read: int = 0

    def load(self, operation: Operation) -> Any:
        self.sent.append(operation)
        if len(self.sent) <= self.fails and len(self.sent) % 2:
            raise self.error
        return self

    def statuses(self) -> list[WriteStatus]:
        self.read += 1
        if len(self.sent) <= self.fails:
            raise self.error
        return [WriteStatus.CREATED]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SEND_AGAIN_S", 0.01)


@pytest.mark.parametrize("fails", [0, 1, 2, 5])
def test_what_was_sent_to_a_shard_that_is_away_is_sent_again(fails: int) -> None:
    link = AwayLink(fails)
    loading = PatientLoading(link, OPERATION)  # type: ignore[arg-type]
    assert loading.statuses() == [WriteStatus.CREATED]
    assert link.sent == [OPERATION] * (fails + 1)


def test_a_shard_is_waited_for_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SHARD_AWAY_S", 0.2)
    link, begun_s = AwayLink(10**9), time.monotonic()
    with pytest.raises(ShardUnavailable, match="shard 0 is loading"):
        PatientLoading(link, OPERATION).statuses()  # type: ignore[arg-type]
    assert time.monotonic() - begun_s >= 0.2
    assert len(link.sent) > 2


def test_what_does_not_pass_by_itself_is_not_waited_for() -> None:
    link = AwayLink(2, StorageFull("no room"))
    link.sent.append(OPERATION)  # the next is refused after it was sent
    with pytest.raises(StorageFull):
        PatientLoading(link, OPERATION).statuses()  # type: ignore[arg-type]
    assert link.read == 1


def test_a_process_that_reads_is_so_many_batches_ahead_of_the_shards_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, stored = list[int](), list[int]()

    class CountingLoader:
        """Each batch is stored when its summary is asked for."""

        calibration = CALIBRATION

        def __init__(self, work: Work) -> None:
            assert work is WORK

        def send(self, table: pa.Table, vectors: Any) -> CountingLoader:
            return self

        def summary(self, records: int) -> pa.Table:
            stored.append(len(read))
            return pa.table({})

    def tables() -> Iterator[pa.Table]:
        for number in range(10):
            read.append(number)
            yield pa.table({})

    monkeypatch.setattr(worker, "Loader", CountingLoader)
    assert len(list(load_vectors(tables(), WORK))) == 10
    assert stored[:8] == [before + BATCHES_AHEAD + 1 for before in range(8)]


def test_a_record_without_a_vector_is_rejected_and_its_neighbours_are_sent() -> None:
    names = ["id", "title", "text", "metadata"]
    columns: dict[str, Any] = {name: ["a", "b", "c"] for name in names}
    columns |= {"position": [0, 1, 2], "file": ["f"] * 3, "line": [1, 2, 3],
                "vector": [None] * 3, "reject": [None] * 3}  # fmt: skip
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in SCHEMA})
    found = np.ones((3, CALIBRATION.dimension), dtype=np.float32)
    found[1] = np.nan
    loader, link = Loader(Work(CALIBRATION.to_json(), (None,), None, resuming=False)), AwayLink(0)
    loader._links = [link]  # type: ignore[list-item]
    sent = loader.send(table, lambda _: found)
    assert sent.rejects == [{"file": "f", "line": 2, "reason": NO_VECTOR}]
    (insert,) = link.sent
    assert isinstance(insert, Insert)
    assert (insert.ids, len(insert.codes)) == (["a", "c"], 2)
