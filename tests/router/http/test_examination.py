"""Replicas are checked and mended over HTTP, by the command line and by both clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from bitsift.client import AsyncClient, Client
from bitsift.client.jobs import followed
from bitsift.cluster.cli import main as cli
from bitsift.errors import BitsiftError, DeadlineExceeded, InvalidRequest, StorageFull, Unavailable
from bitsift.router import examination
from bitsift.router.http import progress_stream
from bitsift.router.shards import comparison
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.replica import Replica
from bitsift.router.shards.replica_set import ReplicaSet
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.layout import store_folder
from bitsift.shard_worker.maintenance.own_rows import RowCheck
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from tests.damage import flip
from tests.fakes import make_service, make_writer
from tests.gateways import Running
from tests.replicas import make_replicas

DIMENSION, ROWS, SHARDS = 64, 200, 2


class HeldLink(LocalLink):
    """A real shard that checks its rows when it is let go."""

    def __init__(self, shard: Any) -> None:
        super().__init__(shard)
        self.let_go, self.was_reached = threading.Event(), threading.Event()
        self.let_go.set()
        self.left = threading.Event()
        self.error: Exception | None = None

    async def check_rows(self, first: int) -> RowCheck:
        self.was_reached.set()
        if self.error is not None:
            raise self.error
        try:
            while not self.let_go.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.left.set()
            raise
        return await super().check_rows(first)


class Served:
    """A gateway over two shards of ``replicas`` replicas each."""

    def __init__(self, opened: contextlib.ExitStack, folder: Path, replicas: int) -> None:
        self.folder = folder
        units = np.random.default_rng(5).standard_normal((ROWS, DIMENSION)).astype(np.float32)
        units = normalize(units, DIMENSION)
        self.shards = make_replicas(opened, folder, units, DIMENSION, SHARDS, replicas)
        calibration = Calibration.from_sample(units, DIMENSION)
        self.codes = calibration.quantize(units)[0]
        self.links = [[HeldLink(shard) for shard in of_shard] for of_shard in self.shards]
        members = [
            [Replica(number, f"node-{at}", link) for at, link in enumerate(links)]
            for number, links in enumerate(self.links)
        ]
        sets = [ReplicaSet(number, it) for number, it in enumerate(members)]
        running = Running(make_service(sets, calibration), make_writer(sets, calibration))
        opened.callback(running.stop)
        self.url = running.url

    def damage(self, shard: int, replica: int, count: int) -> list[str]:
        """Flip a bit in the codes of so many of its documents; their ids."""
        held = [name for name in map(str, range(ROWS)) if self._has(shard, name)][:count]
        file = store_folder(self.shards[shard][replica].folder) / DATA_FILE
        for name in held:
            flip(file, self.codes[int(name)].tobytes()[8:])
        return held

    def _has(self, shard: int, name: str) -> bool:
        with self.shards[shard][0].reading() as store:
            return store.find(name) is not None

    def forget(self, shard: int, replica: int) -> str:
        """One of its documents is gone; the id."""
        name = next(name for name in map(str, range(ROWS)) if self._has(shard, name))
        of = self.shards[shard][replica]
        with of.reading() as store:
            row, generation = store.find(name), store.generation
        assert row is not None
        assert of.bury(generation, [row]) == 1
        return name


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[contextlib.ExitStack]:
    monkeypatch.setattr(comparison, "SETTLE_S", 0.0)
    monkeypatch.setattr(progress_stream, "EVERY_S", 0.05)
    with contextlib.ExitStack() as stack:
        yield stack


def bitsift(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


def test_what_is_wrong_is_named_and_mended_while_the_server_answers(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    served = Served(opened, tmp_path, 2)
    sound = bitsift("verify", "--url", served.url)
    assert sound.exit_code == 0, sound.output
    assert "400 rows in 4 replicas of 2 shards are sound" in sound.output
    damaged, gone = served.damage(1, 0, 3), served.forget(0, 1)
    found = bitsift("verify", "--url", served.url)
    assert found.exit_code == 1
    assert "shard 1 on node-0: 3 rows are damaged" in found.output
    assert "shard 0 on node-1: it lacks 1 documents that another replica has" in found.output
    assert all(f"id {name!r}" in found.output for name in (*damaged, gone))
    assert "sound" not in found.output
    mended = bitsift("repair", "--url", served.url, "--json")
    assert mended.exit_code == 0, mended.output
    report = json.loads(mended.stdout)
    assert report["is_sound"]
    assert {(it["shard"], it["node"]): it["mended"] for it in report["replicas"]} == {
        (0, "node-0"): 0, (0, "node-1"): 1, (1, "node-0"): 3, (1, "node-1"): 0,
    }  # fmt: skip
    assert bitsift("verify", "--url", served.url).exit_code == 0
    again = bitsift("repair", "--url", served.url)
    assert (again.exit_code, "are sound" in again.output) == (0, True)
    with Client(served.url) as client:
        assert {client.get(name).id for name in damaged} == set(damaged)


def test_one_replica_cannot_be_mended_and_the_command_says_what_to_do(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    served = Served(opened, tmp_path, 1)
    served.damage(0, 0, 1)
    found = bitsift("repair", "--url", served.url)
    assert found.exit_code == 1
    said = " ".join(found.output.split())
    assert "shard 0 on node-0: 1 rows are damaged; it is the only replica" in said
    assert "restore the index from a backup" in said
    assert bitsift("verify", "--url", served.url, "--json").exit_code == 1


def test_the_commands_are_told_apart(tmp_path: Path) -> None:
    for wrong in (
        ("verify",),
        ("repair",),
        ("verify", tmp_path, "--url", "http://127.0.0.1:9"),
        ("verify", "--repair", "--url", "http://127.0.0.1:9"),
    ):
        assert isinstance(bitsift(*wrong).exception, InvalidRequest), wrong


def test_progress_is_told_and_one_job_runs_at_a_time(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    served = Served(opened, tmp_path, 2)
    last = served.links[1][1]
    last.let_go.clear()
    told = list[tuple[int, int]]()

    def on_progress(done: int, total: int) -> None:
        told.append((done, total))
        if last.was_reached.is_set() and not last.let_go.is_set():
            for path in ("compact", "verify", "repair"):
                busy = httpx.post(f"{served.url}/v1/admin/{path}", json={})
                assert (busy.status_code, busy.json()["type"]) == (429, "bitsift:Overloaded")
            last.let_go.set()

    with Client(served.url) as client:
        report = client.verify(on_progress)
    assert report["is_sound"]
    assert last.let_go.is_set()
    assert all(done < 2 * ROWS for done, _ in told[:1])


def test_a_caller_that_hangs_up_ends_the_job(tmp_path: Path, opened: contextlib.ExitStack) -> None:
    served = Served(opened, tmp_path, 2)
    held = served.links[0][0]
    held.let_go.clear()
    with httpx.stream("POST", f"{served.url}/v1/admin/verify", json={}) as answer:
        next(answer.iter_lines())
        assert held.was_reached.is_set()
    assert held.left.wait(30)
    held.let_go.set()
    with Client(served.url) as client:
        assert client.verify()["is_sound"]


@pytest.mark.slow
def test_a_job_that_does_not_end_is_ended_and_the_next_one_runs(
    tmp_path: Path, opened: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(opened, tmp_path, 2)
    held = served.links[0][0]
    held.let_go.clear()
    for method in ("verify", "repair"):
        with monkeypatch.context() as patch, Client(served.url) as client:
            patch.setattr(examination, "TIMEOUT_S", 0.3)
            with pytest.raises(DeadlineExceeded, match=r"then start it again$"):
                getattr(client, method)()
        assert held.left.wait(30)
        held.left.clear()
    held.let_go.set()
    with Client(served.url) as client:
        assert client.verify()["is_sound"]


def test_an_async_client_does_the_same(tmp_path: Path, opened: contextlib.ExitStack) -> None:
    served = Served(opened, tmp_path, 2)
    served.damage(1, 1, 2)

    async def scenario() -> None:
        told = list[tuple[int, int]]()
        async with AsyncClient(served.url) as client:
            assert not (await client.verify())["is_sound"]
            assert (await client.repair(lambda *it: told.append(it)))["is_sound"]

    asyncio.run(scenario())


def test_a_replica_that_is_away_and_a_job_that_fails_are_said(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    served = Served(opened, tmp_path, 2)
    served.links[0][1].error = Unavailable("its process died")
    with Client(served.url) as client:
        report = client.verify()
        assert not report["is_sound"]
        reasons = {(it["shard"], it["node"]): it["reason"] for it in report["replicas"]}
        assert reasons.pop((0, "node-1")) == "it was not checked: its process died"
        assert set(reasons.values()) == {None}
        served.links[0][1].error = RuntimeError("a bug")
        with pytest.raises(BitsiftError, match=r"the job failed \(RuntimeError: a bug\)"):
            client.verify()


def test_an_answer_that_is_cut_off_or_of_another_is_an_error() -> None:
    told = list[tuple[int, int]]()
    good = ['{"done": 1, "total": 2}', '{"report": {"is_sound": true}}']
    assert followed(good, lambda *it: told.append(it), "x") == {"is_sound": True}
    assert told == [(1, 2)]
    with pytest.raises(Unavailable, match="broke off its answer"):
        followed(good[:1], lambda *_: None, "x")
    for bad in ("", "[]", "{}", "<html>", '{"done": 1}'):
        with pytest.raises(BitsiftError, match="not as Bitsift does"):
            followed([bad], lambda *_: None, "x")
    full = {"type": "bitsift:StorageFull", "detail": "no room", "outcome": "not_done"}
    with pytest.raises(StorageFull, match="no room"):
        followed([json.dumps({"error": full})], lambda *_: None, "x")
