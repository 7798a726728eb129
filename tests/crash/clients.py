"""Clients of the shard that is killed: writers that keep a ledger, and a searcher that holds every
answer against what was acknowledged before it asked.
"""

from __future__ import annotations

import random
import threading
import time
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from bitsift.options import Mode
from tests.crash.ledger import Change, Expected, Ledger, read_ledger

IDS_PER_WRITER = 150
_GONE = (EOFError, ConnectionError, FileNotFoundError)


def version_of(text: str) -> int:
    """Texts are "NUMBER of ID": the number of the change that brought them."""
    return int(text.split(" ", 1)[0])


class Writer:
    """Changes documents of its own, one change at a time. Survives the server."""

    def __init__(self, number: int, folder: Path, seed: int) -> None:
        self.names = [f"{number}-{i}" for i in range(IDS_PER_WRITER)]
        self.path = folder / f"ledger-{number}.jsonl"
        self._ledger = Ledger(self.path)
        self._random = random.Random(seed)
        self.state = Expected()
        self.versions: dict[str, int] = dict.fromkeys(self.names, 0)
        """By id the number of the last change that was acknowledged."""
        self.acknowledged = 0
        self.settled = {"was done": 0, "was not done": 0}

    def close(self) -> None:
        self._ledger.close()

    def settle(self, contents: dict[str, str]) -> None:
        """Hold ``contents`` of the restarted shard against the ledger.

        Raises AssertionError where an acknowledged change is lost, or one is there in half.
        """
        self.state = read_ledger(self.path)
        mine = {name: text for name, text in contents.items() if name in self.versions}
        change = self.state.under_way
        if change is not None:
            after = self.state.after(change)
            done = mine == after != self.state.texts
            what = "was done" if done else "was not done"
            self._ledger.write(what, self.state.number)
            self.settled[what] += 1
            self._advance(change, done)
        differing = {
            name: (mine.get(name), self.state.texts.get(name))
            for name in {*mine, *self.state.texts}
            if mine.get(name) != self.state.texts.get(name)
        }
        assert not differing, f"by id what is there, and what should be: {differing}"

    def _advance(self, change: Change, done: bool) -> None:
        if done:
            self.state.texts = self.state.after(change)
            self.versions |= dict.fromkeys(change, self.state.number)
        self.state.under_way = None

    def run(self, connection: Connection) -> None:
        """Change documents until the server is gone."""
        try:
            while True:
                self._change(connection)
        except _GONE:
            connection.close()

    def _change(self, connection: Connection) -> None:
        number, chance = self.state.number + 1, self._random
        names = chance.sample(self.names, chance.choice([1, 1, 1, 5, 30]))
        deleting = chance.random() < 0.3
        change: Change = {name: None if deleting else f"{number} of {name}" for name in names}
        self.state.number, self.state.under_way = number, change
        self._ledger.write("intend", number, change)
        sent: tuple[str, Any] = ("delete", names) if deleting else ("put", change)
        connection.send(sent)
        outcomes = connection.recv()
        self._ledger.write("acknowledged", number)
        there = [name in self.state.texts for name in names]
        words = ("missing", "deleted") if deleting else ("created", "updated")
        assert outcomes == [words[known] for known in there], (outcomes, there)
        self._advance(change, done=True)
        self.acknowledged += 1
        if chance.random() < 0.1:  # delivered twice: changes nothing
            connection.send(sent)
            assert set(connection.recv()) == {"missing" if deleting else "unchanged"}


class Searcher:
    """Asks for documents that writers wrote, and for those around them."""

    def __init__(self, writers: list[Writer], seed: int) -> None:
        self._writers = writers
        self._by_id = {name: writer for writer in writers for name in writer.names}
        self._random = random.Random(seed)
        self.checked = 0
        self.found_first = 0

    def run(self, connection: Connection) -> None:
        try:
            while True:
                self._search(connection)
        except _GONE:
            connection.close()

    def _search(self, connection: Connection) -> None:
        writer = self._random.choice(self._writers)
        texts = writer.state.texts
        if not texts:
            return
        name, text = self._random.choice(list(texts.items()))
        before = {name: writer.versions[name] for writer in self._writers for name in writer.names}
        asked = version_of(text)
        mode = self._random.choice([Mode.EXACT, Mode.APPROXIMATE, Mode.EXHAUSTIVE])
        connection.send(("search", text, mode))
        found = connection.recv()
        for found_id, found_text in found:
            version = version_of(found_text)
            assert version >= before[found_id], f"{found_text!r} came back"
            assert version <= self._by_id[found_id].state.number, f"{found_text!r} from nowhere"
        self.checked += 1
        connection.send(("get", name))
        got = connection.recv()
        under_way = writer.state.under_way or {}
        stayed = writer.versions[name] == before[name] == asked and name not in under_way
        if stayed and mode != Mode.APPROXIMATE:
            assert found[0] == (name, text), f"{text!r} is acknowledged and not found"
            assert got == text, f"{text!r} is acknowledged, {got!r} was read"
            self.found_first += 1


def connect(address: str) -> Connection:
    """To a server whose socket is there, if only since a moment."""
    for _ in range(100):
        try:
            return Client(address, family="AF_UNIX")
        except ConnectionRefusedError:
            time.sleep(0.01)
    return Client(address, family="AF_UNIX")


def start(target: Any, address: str, failures: list[BaseException]) -> threading.Thread:
    """Run ``target(connection)`` in a thread; what it raises is kept in ``failures``."""

    def work() -> None:
        try:
            target(connect(address))
        except _GONE:
            pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread
