"""The digest of a replica is that of its documents, made when they change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from unittest import mock

import numpy as np

from bitsift.errors import Corrupt
from bitsift.shard_worker import own_digest
from bitsift.shard_worker.operations import Delete, Operation
from bitsift.shard_worker.own_digest import REST, OwnDigest
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.difference import digest_of
from tests.shard_worker.small_shard import batch, new_shard
from tests.writing import written

VERSION = 1_700_000_000_000 << 16


def versioned(name: str, text: str, version: int) -> Operation:
    return dataclasses.replace(batch([name], [text]), version=VERSION + version)


def digest(shard: Shard) -> str:
    with shard.reading() as store:
        return digest_of(store)


def test_it_is_the_same_whatever_the_order_of_writes_and_for_the_documents_alone(
    tmp_path: Path,
) -> None:
    operations = [versioned(f"d{n % 20}", f"{n}", n) for n in range(1, 60)]
    operations += [Delete([f"d{n}"], VERSION + 60 + n) for n in range(5)]
    found = []
    for number in range(3):
        shard = new_shard(tmp_path / str(number))
        for place in np.random.default_rng(number).permutation(len(operations)).tolist():
            written(shard, operations[place])
        if number:
            shard.compact()
        found.append(digest(shard))
        if number == 2:
            written(shard, versioned("d7", "another", 100))
            found.append(digest(shard))
            written(shard, Delete(["d7"], VERSION + 101))
            found.append(digest(shard))
        shard.close()
    assert found[0] == found[1] == found[2]
    assert len(set(found)) == 3


def test_it_is_kept_until_something_is_written(tmp_path: Path) -> None:
    shard, own = new_shard(tmp_path / "shard"), OwnDigest()
    with (
        shard.reading() as store,
        mock.patch.object(own_digest, "digest_of", side_effect=digest_of) as made,
    ):
        assert own.of(store) == ""
        own.refresh(store)
        first = own.of(store)
        assert first == digest_of(store)
        own.refresh(store)
        assert made.call_count == 1
        written(shard, versioned("a", "x", 1))
        assert own.of(store) == ""
        own._rests_until_s = 0.0
        own.refresh(store)
        assert own.of(store) not in ("", first)
    shard.close()


def test_it_rests_and_what_was_made_during_a_write_is_thrown_away(tmp_path: Path) -> None:
    shard, own, now = new_shard(tmp_path / "shard"), OwnDigest(), [0.0]
    number = [0]

    def during_a_write(store: object) -> str:
        number[0] += 1
        now[0] += 2.0
        written(shard, versioned("a", "x", number[0]))
        if number[0] == 2:
            raise Corrupt("the list of dead rows is of another moment")
        return "wrong"

    with (
        shard.reading() as store,
        mock.patch.object(own_digest, "digest_of", during_a_write),
        mock.patch("time.monotonic", side_effect=lambda: now[0]),
    ):
        own.refresh(store)
        assert own.of(store) == ""
        for now[0] in (2.1, 2.0 + 2.0 * REST - 0.1):
            own.refresh(store)
        assert number == [1]
        now[0] = 2.0 + 2.0 * REST
        own.refresh(store)
        assert own.of(store) == ""
        assert number == [2]
    shard.close()
