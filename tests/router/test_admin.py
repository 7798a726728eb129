"""Backup and compaction over HTTP: real shards behind a real gateway."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.client import Client
from router.fanout import LocalLink
from shard_worker.backup import ShardCopy
from shard_worker.errors import InvalidRequest, Overloaded, ShardUnavailable, Unavailable
from shard_worker.repository import MARK_FILE
from tests.fakes import HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION, ROWS = 64, 300


class HeldLink(LocalLink):
    """A real shard whose backup begins when it is let go."""

    def __init__(self, shard: Any) -> None:
        super().__init__(shard)
        self.was_reached, self.let_go = threading.Event(), threading.Event()

    async def backup(self, dest: str) -> ShardCopy:
        self.was_reached.set()
        await asyncio.to_thread(self.let_go.wait, 30)
        return await super().backup(dest)


class FailedLink(LocalLink):
    """A real shard that cannot be reached when it is to copy itself."""

    async def backup(self, dest: str) -> ShardCopy:
        raise ShardUnavailable("shard 1 is failed: no disk")


class Served:
    """Two shards behind a gateway, beside the files of a finished index."""

    def __init__(self, folder: Path, link: type[LocalLink] = LocalLink) -> None:
        texts = [f"a text about number {i}" for i in range(ROWS)]
        units = HashEncoder(DIMENSION).encode_documents(texts)
        self.shards, calibration = make_shards(folder, units, DIMENSION, 2, texts)
        for name in ("manifest.json", "complete.json"):
            (folder / name).write_text("{}")
        self.links: list[Any] = [link(shard) for shard in self.shards]
        self.gateway = Running(
            make_service(self.links, calibration), make_writer(self.links, calibration)
        )

    def close(self) -> None:
        self.gateway.stop()
        for shard in self.shards:
            shard.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    running = Served(tmp_path)
    yield running
    running.close()


def test_a_backup_of_running_shards_is_complete_and_a_second_one_sends_nothing(
    served: Served, tmp_path: Path
) -> None:
    with Client(served.gateway.url) as client:
        first = client.backup(str(tmp_path / "backup"))
        again = client.backup(str(tmp_path / "backup"))
    assert (tmp_path / "backup" / MARK_FILE).exists()
    assert first["blocks_new"] == first["blocks"] > 0
    assert again["blocks_new"] == 0
    assert (again["files"], again["bytes"]) == (first["files"], first["bytes"])


def test_compaction_says_what_it_dropped_and_answers_stay(served: Served) -> None:
    for shard in served.shards:
        shard.delete([str(i) for i in range(100)])
    with Client(served.gateway.url) as client:
        before = client.search("a text about number 200")
        dropped = client.compact()
        assert client.search("a text about number 200").hits == before.hits
        again = client.compact()
    assert [shard["shard"] for shard in dropped] == [0, 1]
    assert sum(shard["rows_dropped"] for shard in dropped) == 100
    assert [shard["rows_dropped"] for shard in again] == [0, 0]


@pytest.mark.parametrize("dest", ["", "relative/path", "../up", 7, None, "x" * 5_000])
def test_a_destination_that_means_nothing_elsewhere_is_422(served: Served, dest: object) -> None:
    answer = httpx.post(f"{served.gateway.url}/v1/admin/backup", json={"dest": dest})
    assert answer.status_code == 422
    assert "dest" in answer.json()["detail"]


def test_a_destination_without_a_driver_says_what_to_install(served: Served) -> None:
    with Client(served.gateway.url) as client, pytest.raises(InvalidRequest, match="s3fs"):
        client.backup("s3://bucket/name")


def test_a_second_backup_at_the_same_time_is_turned_away(tmp_path: Path) -> None:
    served = Served(tmp_path, HeldLink)
    first: list[dict[str, Any]] = []

    def back_up() -> None:
        with Client(served.gateway.url) as client:
            first.append(client.backup(str(tmp_path / "backup")))

    running = threading.Thread(target=back_up)
    running.start()
    try:
        assert served.links[0].was_reached.wait(30)
        with Client(served.gateway.url) as client:
            with pytest.raises(Overloaded, match="running"):
                client.backup(str(tmp_path / "other"))
            with pytest.raises(Overloaded, match="running"):
                client.compact()
    finally:
        for link in served.links:
            link.let_go.set()
        running.join()
        served.close()
    assert first[0]["blocks"] > 0
    assert not (tmp_path / "other").exists()


def test_a_shard_that_fails_leaves_no_mark_and_the_next_backup_works(
    served: Served, tmp_path: Path
) -> None:
    links = [served.links[0], FailedLink(served.shards[1])]
    broken = Running(
        make_service(links, served.shards[0]._calibration),
        make_writer(links, served.shards[0]._calibration),
    )
    with Client(broken.url) as client, pytest.raises(Unavailable, match="no disk"):
        client.backup(str(tmp_path / "backup"))
    broken.stop()
    assert not (tmp_path / "backup" / MARK_FILE).exists()
    with Client(served.gateway.url) as client:
        assert client.backup(str(tmp_path / "backup"))["blocks"] > 0
    assert (tmp_path / "backup" / MARK_FILE).exists()
