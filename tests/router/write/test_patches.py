"""Metadata are changed by a merge patch; all else of a document stays, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from bitsift.errors import BitsiftError, InvalidRequest, RequestOutcome, ShardUnavailable
from bitsift.router.http.documents_schema import DOCUMENT_BYTES_MAX
from bitsift.router.shards.local import LocalLink
from bitsift.router.write import patches
from bitsift.router.write.patches import ATTEMPTS_MAX, merged, read_patch
from bitsift.router.write.service import WriteService
from bitsift.shard_worker.operations import Operation, Outcome, has_conditions
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Wanted
from tests.fakes import make_shards, make_writer

DIMENSION = 64
EVERYTHING = frozenset(["title", "text", "metadata", "vector"])


class Hasty(LocalLink):
    """A shard to whose documents somebody else writes ``between`` a read and each conditional
    write, as often as told.
    """

    between = 0
    writes = 0

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        if self.between and any(map(has_conditions, operations)):
            self.between -= 1
            self.writes += 1
            found = self._shard.document("a", fields=EVERYTHING)
            await super().write([other(found, self.writes)], epoch, term)
        return await super().write(operations, epoch, term)


def other(found: Any, number: int) -> Operation:
    from bitsift.shard_worker.operations import Upsert

    code = np.frombuffer(found.code, np.int8)[None, :]
    metadata = orjson.dumps(found.metadata | {"other": number}).decode()
    columns = [found.id], [found.title], [found.text], [metadata], [found.position], code
    return Upsert(*columns)


class Patched:
    """Two shards, and a writer that has no model to load after the first documents."""

    def __init__(self, folder: Path) -> None:
        nothing = np.empty((0, DIMENSION), dtype=np.float32)
        self.shards: list[Shard]
        self.shards, calibration = make_shards(folder, nothing, DIMENSION, 1)
        self.links = [Hasty(shard) for shard in self.shards]
        self.service: WriteService = make_writer(self.links, calibration)

    def add(self, *documents: dict[str, Any]) -> None:
        body = orjson.dumps({"documents": list(documents)})
        assert asyncio.run(self.service.upsert(body))

    def patch(self, ids: list[str], metadata: dict[str, Any], **more: Any) -> dict[str, Any]:
        body = orjson.dumps({"ids": ids, "metadata": metadata, **more})
        found: dict[str, Any] = orjson.loads(asyncio.run(self.service.patch(body)))
        return found

    def held(self, key: str) -> Any:
        return self.shards[0].document(key, fields=EVERYTHING)


@pytest.fixture
def patched(tmp_path: Path) -> Iterator[Patched]:
    made = Patched(tmp_path)
    yield made
    for shard in made.shards:
        shard.close()


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [  # the examples of RFC 7386, appendix A, of objects
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_patch_is_that_of_rfc_7386(target: Any, patch: Any, expected: Any) -> None:
    before = orjson.dumps(target)
    assert merged(target, patch) == expected
    assert orjson.dumps(target) == before


def test_text_code_and_position_stay_and_nothing_is_encoded(
    patched: Patched, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = np.linspace(-1, 1, DIMENSION).tolist()
    patched.add(
        {"id": "a", "title": "A", "text": "some text", "metadata": {"x": 1, "deep": {"y": 2}}},
        {"id": "b", "text": "given", "vector": vector},
        {"id": "c", "text": "third", "metadata": {"x": 9}},
    )
    before = [patched.held(key) for key in "abc"]
    monkeypatch.setattr(type(patched.service), "_codes", None)
    answer = patched.patch(["b", "a", "none", "c", "a"], {"x": 9, "deep": {"z": [1]}})
    statuses = [it["status"] for it in answer["results"]]
    assert statuses == ["updated", "updated", "missing", "updated", "updated"]
    assert (answer["updated"], answer["missing"], answer["token"] is None) == (4, 1, False)
    after = [patched.held(key) for key in "abc"]
    for old, new in zip(before, after, strict=True):
        assert (old.title, old.text, old.code, old.position) == (
            new.title, new.text, new.code, new.position,
        )  # fmt: skip
        assert new.version > old.version
    assert [it.metadata for it in after] == [
        {"x": 9, "deep": {"y": 2, "z": [1]}},
        {"x": 9, "deep": {"z": [1]}},
        {"x": 9, "deep": {"z": [1]}},
    ]
    assert answer["results"][1]["version"] == str(after[0].version)
    for value in (1, True, 1.0):  # equal to Python, and not in JSON
        assert patched.patch(["c"], {"one": value})["updated"] == 1
        assert orjson.dumps(patched.held("c").metadata["one"]) == orjson.dumps(value)
    again = patched.patch(["a"], {"x": 9})["results"][0]
    assert (again["status"], again["version"]) == ("unchanged", str(after[0].version))


def test_what_others_write_in_between_is_kept(patched: Patched) -> None:
    patched.add({"id": "a", "text": "some text", "metadata": {"x": 1}})
    patched.links[0].between = 3
    assert patched.patch(["a"], {"mine": True})["updated"] == 1
    assert patched.held("a").metadata == {"x": 1, "other": 3, "mine": True}


def test_where_others_are_always_faster_it_is_given_up(patched: Patched) -> None:
    patched.add({"id": "a", "text": "some text"}, {"id": "b", "text": "other"})
    patched.links[0].between = ATTEMPTS_MAX
    with pytest.raises(ShardUnavailable, match=f"{ATTEMPTS_MAX} times in between") as raised:
        patched.patch(["a"], {"mine": True})
    assert raised.value.outcome is RequestOutcome.NOT_DONE
    assert patched.held("a").metadata == {"other": ATTEMPTS_MAX}
    patched.links[0].between = ATTEMPTS_MAX - 1
    assert patched.patch(["a", "b"], {"mine": True})["updated"] == 2


def test_a_version_that_is_asked_for_is_not_read_again(patched: Patched) -> None:
    patched.add({"id": "a", "text": "some text"})
    version = str(patched.held("a").version)
    patched.links[0].between = 1
    (late,) = patched.patch(["a"], {"mine": 1}, if_version=version)["results"]
    assert (late["status"], late["version"]) == ("conflict", str(patched.held("a").version))
    assert patched.held("a").metadata == {"other": 1}
    (done,) = patched.patch(["a"], {"mine": 1}, if_version=late["version"])["results"]
    assert (done["status"], done["version"]) == ("updated", str(patched.held("a").version))
    (gone,) = patched.patch(["none"], {"mine": 1}, if_version=version)["results"]
    assert (gone["status"], gone["version"]) == ("conflict", None)


def test_large_documents_are_changed_part_by_part(
    patched: Patched, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched.add(*({"id": f"d{n}", "text": f"text {n} " * 20} for n in range(20)))
    size = 2 * DIMENSION * 17
    monkeypatch.setattr(patches, "_WANTED", Wanted(patches._WANTED.fields, size))
    ids = [f"d{n}" for n in range(20)]
    assert patched.patch(ids, {"x": 1})["updated"] == 20
    assert all(patched.held(key).metadata == {"x": 1} for key in ids)


def test_metadata_that_become_too_large_are_rejected_alone(patched: Patched) -> None:
    patched.add({"id": "a", "text": "x" * (DOCUMENT_BYTES_MAX - 50)}, {"id": "b", "text": "small"})
    answer = patched.patch(["a", "b"], {"long": "y" * 100})
    assert [it["status"] for it in answer["results"]] == ["rejected", "updated"]
    assert "at most" in answer["results"][0]["error"]["detail"]
    assert patched.held("a").metadata == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "body"),
        (b'{"ids": ["a"]}', "metadata"),
        (b'{"ids": "a", "metadata": {}}', "ids"),
        (b'{"ids": ["a"], "metadata": [1]}', "metadata"),
        (b'{"ids": ["a"], "metadata": {}, "text": "x"}', "text: there is no such field"),
        (b'{"ids": ["a", "b"], "metadata": {}, "if_version": "7"}', "there are 2 ids"),
        (b'{"ids": ["a"], "metadata": {}, "if_version": "0"}', "no version"),
    ],
)
def test_a_patch_that_is_none_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_patch(body)
    assert issubclass(InvalidRequest, BitsiftError)
