"""Documents come and go while a real cluster answers: Ray, HTTP, the model, the command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bitsift import BitsiftError, Client
from tests.commands import COMMAND, answering, bitsift, wait_until
from tests.threads import ended

XQUAD = Path(__file__).parents[1] / "data" / "xquad_en"


@pytest.fixture(scope="module")
def served(
    xquad_index: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int]]:
    """An address and a session of processes: XQuAD's sentences in two shards, served."""
    index = shutil.copytree(xquad_index, tmp_path_factory.mktemp("documents") / "index")
    with answering([*COMMAND, "serve", index, "--port", "0", "--json"]) as (address, process):
        yield address, process.pid


@pytest.fixture(scope="module")
def url(served: tuple[str, int]) -> str:
    return served[0]


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as made:
        yield made


def writers(session: int) -> list[int]:
    """The writer's processes of a session. Ray's actors name their processes after their class."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            command = (folder / "cmdline").read_text()
            if command.startswith("ray::WriterActor") and os.getsid(int(folder.name)) == session:
                found.append(int(folder.name))
    return found


def test_what_is_added_is_found_by_its_meaning_counted_and_gone_when_deleted(
    client: Client,
) -> None:
    before = client.index()["documents"]
    answer = client.add(
        [
            {"id": "spider", "title": "arachnophobia", "text": "a morbid fear of spiders"},
            {"id": "words", "text": "word that reads the same backwards", "metadata": {"n": 1}},
            {"id": "nothing"},
        ]
    )
    assert (answer.created, answer.rejected) == (2, 1)
    assert client.index()["documents"] == before + 2
    hit = client.search("someone who is afraid of tarantulas").hits[0]
    assert (hit.id, hit.title) == ("spider", "arachnophobia")
    assert client.add([{"id": "spider", "title": "arachnophobia",
                        "text": "a morbid fear of spiders"}]).unchanged == 1  # fmt: skip
    assert client.get("words").metadata == {"n": 1}
    assert client.delete(["spider", "words"]).deleted == 2
    assert client.search("someone who is afraid of tarantulas").hits[0].id != "spider"
    assert client.index()["documents"] == before


def test_a_loaded_document_added_again_is_known_and_not_encoded(client: Client) -> None:
    loaded = [json.loads(line) for line in (XQUAD / "corpus.jsonl").read_text().splitlines()[:20]]
    same = [
        {"id": d["_id"], "title": d.get("title", ""), "text": d["text"],
         "metadata": client.get(d["_id"]).metadata}
        for d in loaded
    ]  # fmt: skip
    assert client.add(same).unchanged == 20


def test_a_large_body_and_a_stream_pass_through_the_object_store(url: str, client: Client) -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((3_000, 384))
    documents = [{"id": f"v{i}", "text": "x" * 500, "vector": v} for i, v in enumerate(vectors)]
    answer = client.add(documents, batch=3_000)
    assert answer.created == 3_000
    hit = client.search(vector=vectors[1_234].tolist(), top_k=1).hits[0]
    assert hit.id == "v1234"
    ids = (json.dumps({"id": f"v{i}", "vector": v.tolist()}) for i, v in enumerate(vectors[:500]))
    body = "\n".join(ids).encode()
    headers = {"content-type": "application/x-ndjson"}
    streamed = httpx.post(f"{url}/v1/documents", content=body, headers=headers, timeout=60)
    *results, last = [json.loads(line) for line in streamed.text.splitlines()]
    assert len(results) == 500
    assert last["totals"]["updated"] == 500
    assert client.delete(f"v{i}" for i in range(3_000)).deleted == 3_000


def test_the_command_line_adds_shows_and_deletes(url: str, tmp_path: Path) -> None:
    source = tmp_path / "new.jsonl"
    source.write_text('{"id": "cli", "text": "written by a command"}\n{"id": "bad"}\n')
    done = bitsift("add", source, "--url", url, check=False)
    assert done.returncode == 1
    assert "1 created, 1 rejected" in done.stdout
    assert "new.jsonl:2: rejected: no text, no title and no vector" in done.stderr
    assert json.loads(bitsift("get", "cli", "--url", url, "--json").stdout)["id"] == "cli"
    assert "1 deleted" in bitsift("delete", "cli", "--url", url).stdout
    gone = bitsift("get", "cli", "--url", url, check=False)
    assert gone.returncode == 1
    assert "no document with id 'cli'" in gone.stderr


def test_acknowledged_writes_survive_the_kill_of_every_shard(client: Client) -> None:
    client.add({"id": f"kept{i}", "text": f"kept {i}"} for i in range(50))
    client.delete("kept0")
    for shard in client.cluster()["shards"]:
        os.kill(shard["pid"], signal.SIGKILL)

    def back() -> bool:
        states = {shard["state"] for shard in client.cluster()["shards"]}
        return states == {"READY"}

    assert wait_until(back, 60)
    assert client.get("kept1").text == "kept 1"
    assert client.delete(f"kept{i}" for i in range(50)).deleted == 49


def test_a_killed_writer_comes_back_and_nothing_acknowledged_is_lost(
    served: tuple[str, int], client: Client
) -> None:
    """What was under way fails; the client sends it again."""
    acknowledged: list[str] = []
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            key = f"w{number}"
            try:
                if client.add([{"id": key, "vector": [1.0 + number] * 384}]).created:
                    acknowledged.append(key)
            except BitsiftError:
                time.sleep(0.1)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    assert wait_until(lambda: len(acknowledged) > 20)
    (pid,) = writers(served[1])
    os.kill(pid, signal.SIGKILL)
    count = len(acknowledged)
    assert wait_until(lambda: len(acknowledged) > count + 20, 60)
    stop.set()
    ended(writer)
    assert writers(served[1]) != [pid]
    for key in acknowledged:
        client.get(key)
    client.delete(acknowledged)


def test_searches_are_answered_while_documents_are_added(client: Client) -> None:
    done = threading.Event()
    answers: list[Any] = []

    def ask() -> None:
        while not done.is_set():
            answers.append(client.search("who won the game"))

    asking = threading.Thread(target=ask)
    asking.start()
    added = client.add({"id": f"busy{i}", "text": f"a text about {i} things"} for i in range(600))
    done.set()
    ended(asking)
    assert added.created == 600
    assert len(answers) > 10
    assert not any(answer.partial for answer in answers)
    client.delete(f"busy{i}" for i in range(600))
