"""Whatever is written, with conditions and without, changed, deleted, compacted and opened again: a
shard behind a writer holds what a dictionary holds.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bitsift.router.shards.local import LocalLink
from bitsift.router.write.patches import merged
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Document
from tests.fakes import make_shards, make_writer

DIMENSION = 16
KEYS = st.sampled_from("abcd")
CONDITIONS = st.sampled_from(["none", "absent", "now", "old"])
PATCHES = st.dictionaries(
    st.sampled_from(["x", "y"]),
    st.one_of(st.sampled_from([None, True, 0, 1, 1.0]), st.just({"z": 1}), st.just({"z": None})),
    max_size=2,
)


@dataclass
class Held:
    """What a document should be; its code never changes with its metadata."""

    text: str
    metadata: dict[str, Any]
    version: str
    code: bytes


class Writes(RuleBasedStateMachine):
    """One shard and its writer, and the dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp())
        nothing = np.empty((0, DIMENSION), dtype=np.float32)
        (self.shard,), self._calibration = make_shards(self._folder, nothing, DIMENSION, 1)
        self.held = dict[str, Held]()
        self.old = dict[str, str]()
        self._number = 0
        self._open(self._calibration)

    def _open(self, calibration: Calibration) -> None:
        self._writer = make_writer([LocalLink(self.shard)], calibration)

    def teardown(self) -> None:
        self.shard.close()
        shutil.rmtree(self._folder)

    def _condition(self, key: str, kind: str) -> tuple[dict[str, Any], bool]:
        """A condition as it is sent, and whether it holds."""
        now = self.held.get(key)
        if kind == "absent":
            return {"if_absent": True}, now is None
        if kind == "now" and now is not None:
            return {"if_version": now.version}, True
        if kind == "old" and key in self.old:
            return {"if_version": self.old[key]}, False
        return {}, True

    def _one(self, answer: bytes) -> dict[str, Any]:
        (result,) = orjson.loads(answer)["results"]
        found: dict[str, Any] = result
        return found

    def _refused(self, key: str, result: dict[str, Any]) -> None:
        now = self.held.get(key)
        assert result["status"] == "conflict", result
        assert result["version"] == (None if now is None else now.version)
        assert result["error"]["outcome"] == "not_done"

    @rule(key=KEYS, kind=CONDITIONS)
    def add(self, key: str, kind: str) -> None:
        self._number += 1
        condition, holds = self._condition(key, kind)
        text, metadata = f"text {self._number}", {"n": self._number}
        document = {"id": key, "text": text, "metadata": metadata, **condition}
        body = orjson.dumps({"documents": [document]})
        result = self._one(asyncio.run(self._writer.upsert(body)))
        if not holds:
            self._refused(key, result)
            return
        assert result["status"] == ("updated" if key in self.held else "created")
        self._replaced(key)
        code = self._stored(key).code
        self.held[key] = Held(text, metadata, result["version"], code)

    @rule(key=KEYS, kind=CONDITIONS)
    def delete(self, key: str, kind: str) -> None:
        condition, holds = self._condition(key, "none" if kind == "absent" else kind)
        body = orjson.dumps({"ids": [key], **condition})
        result = self._one(asyncio.run(self._writer.delete(body)))
        if not holds:
            self._refused(key, result)
            return
        assert result["status"] == ("deleted" if key in self.held else "missing")
        self._replaced(key)
        self.held.pop(key, None)

    @rule(key=KEYS, patch=PATCHES, kind=CONDITIONS)
    def change(self, key: str, patch: dict[str, Any], kind: str) -> None:
        condition, holds = self._condition(key, "none" if kind == "absent" else kind)
        body = orjson.dumps({"ids": [key], "metadata": patch, **condition})
        result = self._one(asyncio.run(self._writer.patch(body)))
        if not holds:
            self._refused(key, result)
            return
        now = self.held.get(key)
        if now is None:
            assert result["status"] == "missing"
            return
        metadata = merged(now.metadata, patch)
        same = orjson.dumps(metadata) == orjson.dumps(now.metadata)
        assert result["status"] == ("unchanged" if same else "updated")
        if not same:
            self._replaced(key)
            self.held[key] = Held(now.text, metadata, result["version"], now.code)

    def _replaced(self, key: str) -> None:
        if key in self.held:
            self.old[key] = self.held[key].version

    @rule()
    def compact(self) -> None:
        self.shard.compact()

    @rule()
    def open_again(self) -> None:
        folder, identity = self.shard.folder, self.shard.identity
        self.shard.close()
        self.shard = Shard(folder, self._calibration, identity)
        self._open(self._calibration)

    def _stored(self, key: str) -> Document:
        return self.shard.document(key, fields=frozenset(["text", "metadata", "vector"]))

    @invariant()
    def holds_what_the_dictionary_holds(self) -> None:
        assert self.shard.status().documents == len(self.held)
        for key, expected in self.held.items():
            found = self._stored(key)
            assert found.text == expected.text
            assert orjson.dumps(found.metadata) == orjson.dumps(expected.metadata)
            assert (str(found.version), found.code) == (expected.version, expected.code)


Writes.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestWrites = Writes.TestCase
