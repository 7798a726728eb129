"""The indexes besides the default one: services that are made once, and models loaded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitsift.router.description import IndexDescription
from bitsift.router.indexes import Indexes, Served
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.shared import Encoders
from bitsift.router.model.spec import EncoderSpec
from bitsift.router.others import IndexSource, OtherIndexes, Others
from bitsift.router.service import SearchService
from bitsift.router.shadow.settings import ShadowSettings
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.placement import ReplicaTable
from bitsift.shard_worker.codes import Calibration
from tests.commands import wait_until
from tests.fakes import HASH_MODEL, HashEncoder

CALIBRATION = Calibration.from_sample(np.eye(64, dtype=np.float32), 64)


class CountedModel(HashEncoder):
    """Says how often it was loaded."""

    loaded = 0

    def warm_up(self) -> None:
        type(self).loaded += 1


def described(name: str, uuid: str) -> IndexDescription:
    return IndexDescription(name, uuid, "", 0, CALIBRATION, HASH_MODEL)


def source(name: str, uuid: str = "u", model: str | None = "m") -> IndexSource:
    spec = None if model is None else EncoderSpec(model)
    return IndexSource(described(name, uuid), ReplicaTable(0, ()), None, spec)


@pytest.fixture
def indexes(monkeypatch: pytest.MonkeyPatch) -> Indexes:
    def load(name: str, **_: Any) -> Any:
        if name == "bad":
            raise MemoryError
        return CountedModel(64)

    monkeypatch.setattr(Encoder, "load", load)
    monkeypatch.setattr(CountedModel, "loaded", 0)
    return Indexes(Served("main", SearchService(described("main", ""), FanOut([]), None), None))


def others(indexes: Indexes) -> Others:
    return Others(indexes, Encoders(lambda: None), 16, ShadowSettings())


def test_a_model_is_loaded_once_for_all_indexes_that_have_it(indexes: Indexes) -> None:
    told = OtherIndexes({name: source(name, name) for name in "abc"})
    others(indexes).place(told)
    found = [indexes.find(name).service for name in "abc"]
    assert wait_until(lambda: all(one.encoder for one in found))
    assert len({id(one.encoder) for one in found}) == 1
    assert CountedModel.loaded == 1
    (encoder,) = {one.encoder for one in found}
    assert encoder is not None
    for name in ("encode_queries", "encode_documents"):
        expected = getattr(HashEncoder(64), name)(["a"])
        assert np.array_equal(getattr(encoder, name)(["a"]), expected)


def test_a_model_that_cannot_be_loaded_is_the_trouble_of_its_index(indexes: Indexes) -> None:
    others(indexes).place(OtherIndexes({"a": source("a", "a"), "b": source("b", "b", "bad")}))
    good, bad = (indexes.find(name).service for name in "ab")
    assert wait_until(lambda: good.encoder and bad.query_vectors.failure)
    assert bad.query_vectors.failure == "MemoryError: "
    assert bad.encoder is None


def test_what_was_made_goes_on_and_an_index_of_the_same_name_is_another(indexes: Indexes) -> None:
    made = others(indexes)
    made.place(OtherIndexes({"a": source("a", "1", None), "b": source("b", "2", None)}))
    first, second = indexes.find("a"), indexes.find("b")
    made.place(OtherIndexes({"a": source("a", "1", None), "b": source("b", "3", None)}))
    assert indexes.find("a") is first
    assert indexes.find("b") is not second
    made.place(OtherIndexes(broken={"a": "gone"}, aliases={"x": "main"}))
    assert [name for name, _ in indexes.all()] == ["a", "main"]
    assert indexes.find("x") is indexes.default


def test_all_indexes_share_the_memory_of_answers_and_the_event_loop(indexes: Indexes) -> None:
    others(indexes).place(OtherIndexes({"a": source("a", "1", None)}))
    default, other = indexes.default.service, indexes.find("a").service
    assert other.memory is default.memory
    assert other.loop_lag is default.loop_lag
