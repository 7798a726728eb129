"""Backup and compaction over HTTP: real shards behind a real gateway."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem

from bitsift.client import Client
from bitsift.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    Overloaded,
    ShardUnavailable,
    Unavailable,
)
from bitsift.router.http.access import AccessSettings
from bitsift.router.http.admin import DEST_CHARACTERS_MAX
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.maintenance.backup import ShardCopy
from bitsift.shard_worker.maintenance.repository import MARK_FILE
from bitsift.shard_worker.operations import Delete
from tests.fakes import HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running
from tests.threads import ended
from tests.writing import written

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


class TalkativeStore(AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """Stands in for object storage whose answers tell of the network behind the server."""

    protocol = "s3"
    was_reached = False

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        TalkativeStore.was_reached = True
        raise PermissionError("10.1.2.3:8020 said: 403, nginx, user hdfs")


class Served:
    """Two shards behind a gateway, beside the files of a finished index; backups go below it."""

    def __init__(
        self, folder: Path, link: type[LocalLink] = LocalLink, backup_root: str | None = ""
    ) -> None:
        texts = [f"a text about number {i}" for i in range(ROWS)]
        units = HashEncoder(DIMENSION).encode_documents(texts)
        self.shards, calibration = make_shards(folder, units, DIMENSION, 2, texts)
        for name in ("manifest.json", "complete.json"):
            (folder / name).write_text("{}")
        self.links: list[Any] = [link(shard) for shard in self.shards]
        self.gateway = Running(
            make_service(self.links, calibration),
            make_writer(self.links, calibration),
            AccessSettings(backup_root=str(folder) if backup_root == "" else backup_root),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.gateway.stop()
        for shard in self.shards:
            shard.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """For requests that are refused before anything is read or written."""
    with Served(tmp_path_factory.mktemp("refusing")) as running:
        yield running


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
        written(shard, Delete([str(i) for i in range(100)]))
    with Client(served.gateway.url) as client:
        before = client.search("a text about number 200")
        dropped = client.compact()
        assert client.search("a text about number 200").hits == before.hits
        again = client.compact()
    assert [shard["shard"] for shard in dropped] == [0, 1]
    assert sum(shard["rows_dropped"] for shard in dropped) == 100
    assert [shard["rows_dropped"] for shard in again] == [0, 0]


@pytest.mark.parametrize(
    "dest", ["", "relative/path", "../up", 7, None, "/" + "x" * DEST_CHARACTERS_MAX]
)
def test_a_destination_that_means_nothing_elsewhere_is_422(refusing: Served, dest: object) -> None:
    answer = httpx.post(f"{refusing.gateway.url}/v1/admin/backup", json={"dest": dest})
    assert answer.status_code == 422
    assert "dest" in answer.json()["detail"]


def test_a_destination_without_a_driver_says_what_to_install(tmp_path: Path) -> None:
    with (
        Served(tmp_path, backup_root="s3://bucket") as served,
        Client(served.gateway.url) as client,
        pytest.raises(InvalidRequest, match="s3fs"),
    ):
        client.backup("s3://bucket/name")


def test_without_a_backup_root_nothing_is_written_anywhere(tmp_path: Path) -> None:
    """B3: any path of the server used to be written to."""
    with (
        Served(tmp_path / "index", backup_root=None) as served,
        Client(served.gateway.url) as client,
    ):
        for dest in (tmp_path / "dest", f"file://{tmp_path}/dest"):
            with pytest.raises(Forbidden, match="--backup-root"):
                client.backup(str(dest))
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_no_backup_leaves_the_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with (
        Served(tmp_path / "index", backup_root=str(tmp_path / "root")) as served,
        Client(served.gateway.url) as client,
    ):
        before = sorted(tmp_path.rglob("*"))
        for dest in ("dest", "root/../dest", "root/link/dest", "roots"):
            with pytest.raises(Forbidden, match="not below"):
                client.backup(str(tmp_path / dest))
        assert sorted(tmp_path.rglob("*")) == before
        assert client.backup(str(tmp_path / "root" / "a" / ".." / "b"))["blocks"] > 0
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["b", "link"]


def test_no_request_reaches_a_host_that_a_caller_names(refusing: Served, tmp_path: Path) -> None:
    """B3: webhdfs://host:port had the server send requests, and the error told what answered."""
    with (
        socket.create_server(("127.0.0.1", 0)) as inner,
        Client(refusing.gateway.url, timeout_s=5) as client,
    ):
        host = f"127.0.0.1:{inner.getsockname()[1]}"
        for scheme in ("webhdfs", "http", "https", "ftp", "sftp", "smb", "hdfs"):
            for dest in (f"{scheme}://{host}/x", f"{tmp_path}/x::{scheme}://{host}/x"):
                with pytest.raises(InvalidRequest, match="dest"):
                    client.backup(dest)
        inner.settimeout(0.2)
        with pytest.raises(TimeoutError):
            inner.accept()


def test_what_a_remote_store_answered_is_for_the_log_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsift.client.retries.ATTEMPTS_MAX", 1)  # test_retries.py has those
    monkeypatch.setitem(_registry, "s3", TalkativeStore)
    with (
        Served(tmp_path, backup_root="s3://bucket/root") as served,
        Client(served.gateway.url) as client,
        pytest.raises(Unavailable) as refused,
    ):
        client.backup("s3://bucket/root/mine")
    assert TalkativeStore.was_reached
    reference = refused.value.message.rpartition(" ")[2]
    assert "log" in refused.value.message
    for told in ("10.1.2.3", "8020", "403", "nginx", "hdfs", "Permission"):
        assert told not in refused.value.message
    assert reference in caplog.text
    assert "10.1.2.3:8020 said" in caplog.text


def test_a_second_backup_at_the_same_time_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsift.client.retries.ATTEMPTS_MAX", 1)  # test_retries.py has those
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
        ended(running)
        served.close()
    assert first[0]["blocks"] > 0
    assert not (tmp_path / "other").exists()


def test_a_backup_and_a_compaction_have_an_end_and_the_next_may_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsift.client.retries.ATTEMPTS_MAX", 1)
    monkeypatch.setattr("bitsift.router.http.admin.JOB_TIMEOUT_S", 0.2)
    served = Served(tmp_path, HeldLink)
    try:
        with Client(served.gateway.url) as client:
            for _ in range(2):
                with pytest.raises(DeadlineExceeded, match="the backup was given up after 0 hours"):
                    client.backup(str(tmp_path / "backup"))
            for link in served.links:
                link.let_go.set()
            monkeypatch.setattr("bitsift.router.http.admin.JOB_TIMEOUT_S", 60)
            assert client.backup(str(tmp_path / "backup"))["blocks"] > 0
    finally:
        served.close()


def test_a_shard_that_fails_leaves_no_mark_and_the_next_backup_works(
    served: Served, tmp_path: Path
) -> None:
    links = [served.links[0], FailedLink(served.shards[1])]
    broken = Running(
        make_service(links, served.shards[0]._calibration),
        make_writer(links, served.shards[0]._calibration),
        AccessSettings(backup_root=str(tmp_path)),
    )
    with Client(broken.url) as client, pytest.raises(Unavailable, match="no disk"):
        client.backup(str(tmp_path / "backup"))
    broken.stop()
    assert not (tmp_path / "backup" / MARK_FILE).exists()
    with Client(served.gateway.url) as client:
        assert client.backup(str(tmp_path / "backup"))["blocks"] > 0
    assert (tmp_path / "backup" / MARK_FILE).exists()
