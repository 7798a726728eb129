"""A shard against a dict: whatever is done to it, in whatever order, it holds what the dict holds,
and ranks it as a scan of the decoded int8 codes does.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bitsift.cluster.maintenance.restore import restore
from bitsift.cluster.manifest import BuildReport, Manifest, write_complete, write_manifest
from bitsift.errors import NotFound
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.maintenance.backup import Backup, copy_shard
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Document, Query, ShardSettings
from bitsift.write_status import WriteStatus
from tests.crash.documents import CALIBRATION, IDENTITY, codes_of, upserts, vectors_of
from tests.crash.server import contents
from tests.in_ram import ram
from tests.writing import written

IDS = [*map(str, range(30)), "x" * 600, "é", "e\u0301", "../up", "a\x00b"]
ids = st.sampled_from(IDS)
texts = st.integers(0, 40).map(lambda number: f"text {number}")
MANIFEST = Manifest(
    IDENTITY.index_uuid, "machine", "2026-11-24", IDENTITY.shards, CALIBRATION, None, {}, 0
)
SETTINGS = ShardSettings(exact_budget_ms=0.0)
ALL_LISTS = 1 << 19
"""An nprobe that visits every list: then an approximate search finds what an exact one does."""


class ShardMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="bitsift-machine-", dir=ram()))
        self.number = 0
        Shard.create(self.place, IDENTITY)
        write_manifest(self.index, MANIFEST)
        write_complete(self.index, BuildReport(0, 0, 0, 0.0, 0, 0, 0, 0, (0,)))
        self.shard = self.open()
        self.model: dict[str, str] = {}

    @property
    def index(self) -> Path:
        return self.folder / str(self.number)

    @property
    def place(self) -> Path:
        return shard_folder(self.index, 0)

    def open(self) -> Shard:
        return Shard(self.place, CALIBRATION, IDENTITY, SETTINGS)

    def teardown(self) -> None:
        self.shard.close()
        shutil.rmtree(self.folder)

    # --- what is done to it ----------------------------------------------------------------

    @rule(batch=st.dictionaries(ids, texts, min_size=1, max_size=12))
    def upsert(self, batch: dict[str, str]) -> None:
        expected = [
            WriteStatus.CREATED if name not in self.model
            else WriteStatus.UNCHANGED if self.model[name] == text
            else WriteStatus.UPDATED
            for name, text in batch.items()
        ]  # fmt: skip
        assert written(self.shard, upserts(batch)) == expected
        self.model |= batch

    @rule(names=st.lists(ids, min_size=1, max_size=8, unique=True))
    def delete(self, names: list[str]) -> None:
        known = [name in self.model for name in names]
        outcomes = [WriteStatus.DELETED if it else WriteStatus.MISSING for it in known]
        assert written(self.shard, Delete(names)) == outcomes
        for name in names:
            self.model.pop(name, None)

    @rule()
    def compact(self) -> None:
        before = self.shard.status()
        assert self.shard.compact() == (before.rows > before.documents)
        assert self.shard.status().rows == len(self.model)

    @rule()
    def save_bits(self) -> None:
        self.shard.save_bits()

    @precondition(lambda self: self.shard.status().rows > 0)
    @rule()
    def train(self) -> None:
        self.shard.train()

    @rule()
    def crash(self) -> None:
        """What a killed process leaves is what is on the disk: that is opened, not the original."""
        before = self.index
        self.number += 1
        shutil.copytree(before, self.index)
        self.shard.close()
        shutil.rmtree(before)
        self.shard = self.open()

    @rule()
    def restart(self) -> None:
        self.shard.close()
        self.shard = self.open()

    @rule()
    def back_up_and_restore(self) -> None:
        """What is written after a backup is not in what is made of it."""
        before, dest = self.index, str(self.folder / "backup")
        backup = Backup(dest, IDENTITY.index_uuid)
        backup.finish([copy_shard(self.shard, dest)])
        written(self.shard, upserts({"after": "the backup"}))
        self.shard.close()
        shutil.rmtree(before)
        self.number += 1
        restore(dest, self.index)
        self.shard = self.open()

    # --- what must hold --------------------------------------------------------------------

    @rule(text=texts, mode=st.sampled_from(list(Mode)))
    def search(self, text: str, mode: Mode) -> None:
        (vector,) = vectors_of([text])
        (found,) = self.shard.search(
            [Query(SearchOptions(vector=vector, candidates=1_000, mode=mode, nprobe=ALL_LISTS))]
        )
        scores = CALIBRATION.scores(vector, found.codes).tolist()
        documents = self.shard.documents(found.origin, found.rows.tolist())
        ranked = sorted(
            (-score, it.id, it.text) for score, it in zip(scores, documents, strict=True)
            if isinstance(it, Document)
        )  # fmt: skip
        names = list(self.model)
        codes = codes_of(list(self.model.values())).reshape(-1, IDENTITY.width)
        brute = np.asarray(CALIBRATION.scores(vector, codes)).tolist()
        expected = sorted((-s, n, self.model[n]) for s, n in zip(brute, names, strict=True))
        assert ranked == expected

    @rule(name=ids)
    def get(self, name: str) -> None:
        try:
            held = self.shard.document(name).text
        except NotFound:
            held = None
        assert held == self.model.get(name)

    @invariant()
    def it_holds_what_the_dict_holds(self) -> None:
        assert contents(self.shard) == self.model


ShardMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestAShardIsADict = ShardMachine.TestCase
