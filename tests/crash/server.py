"""The process that is killed: a real Shard behind a socket, with upkeep that never rests."""

from __future__ import annotations

import faulthandler
import os
import random
import threading
import time
import traceback
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np

from bitsift.errors import NotFound
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Document, Query, ShardSettings
from tests.crash import points
from tests.crash.documents import CALIBRATION, IDENTITY, codes_of, upserts, vectors_of
from tests.writing import written

SETTINGS = ShardSettings(exact_budget_ms=0.0)
_EVERYTHING = 1_000
_BEGIN_WITHIN_S = 600.0


def serve(folder: Path, address: str, point: str | None, after: int, seed: int) -> None:
    """Open the shard in ``folder`` and answer at ``address`` until killed."""
    faulthandler.enable()
    if point is not None:
        points.arm(point, after, folder.parent / "last-words")
    started = time.perf_counter()
    shard = Shard(folder, CALIBRATION, IDENTITY, SETTINGS)
    opened_s = time.perf_counter() - started
    with Listener(address, family="AF_UNIX", backlog=16) as listener:
        upkeep = threading.Event()
        threading.Thread(target=_keep_up, args=(shard, upkeep, seed), daemon=True).start()
        while True:
            connection = listener.accept()
            arguments = connection, shard, opened_s, upkeep
            threading.Thread(target=_answer, args=arguments, daemon=True).start()


def _keep_up(shard: Shard, begin: threading.Event, seed: int) -> None:
    """Compactions, snapshots, lists and copies of the data, one after the other."""
    if not begin.wait(_BEGIN_WITHIN_S):
        return
    chance = random.Random(seed)
    copy = shard.folder.parent / "copy.mdb"
    try:
        while True:
            _one_task(shard, chance, copy)
            time.sleep(chance.uniform(0, 0.02))
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _one_task(shard: Shard, chance: random.Random, copy: Path) -> None:
    match chance.choice(["compact", "compact", "save", "copy", "train"]):
        case "compact":
            shard.compact()
        case "save":
            shard.save_bits()
        case "copy":
            with shard.snapshot() as snapshot, copy.open("wb") as file:
                snapshot.copy_data(file.fileno())
        case "train" if shard.status().rows > 400:
            shard.train()


def _answer(connection: Connection, shard: Shard, opened_s: float, upkeep: threading.Event) -> None:
    """Answer one client. What fails here ends the process: the loop will ask why."""
    try:
        while True:
            connection.send(_reply(shard, opened_s, upkeep, *connection.recv()))
    except (EOFError, OSError):
        return
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _reply(
    shard: Shard, opened_s: float, upkeep: threading.Event, what: str, *arguments: Any
) -> Any:
    match what:
        case "put":
            return [str(outcome) for outcome in written(shard, upserts(*arguments))]
        case "delete":
            return [str(outcome) for outcome in written(shard, Delete(*arguments))]
        case "search":
            return _search(shard, *arguments)
        case "get":
            return _text(shard, *arguments)
        case "contents":
            return contents(shard)
        case "begin":
            upkeep.set()
            return opened_s
    raise AssertionError(what)


def _search(shard: Shard, text: str, mode: str) -> list[tuple[str, str]]:
    """(id, text) of what is nearest to the vector of ``text``, best first."""
    (vector,) = vectors_of([text])
    (found,) = shard.search([Query(SearchOptions(vector=vector, candidates=20, mode=Mode(mode)))])
    assert found.corrupt == 0, found.corrupt
    best = np.argsort(-CALIBRATION.scores(vector, found.codes), kind="stable")
    documents = shard.documents(found.origin, found.rows[best].tolist())
    assert all(isinstance(document, Document) for document in documents), documents
    return [(d.id, d.text) for d in documents if isinstance(d, Document)]


def _text(shard: Shard, document_id: str) -> str | None:
    try:
        return shard.document(document_id).text
    except NotFound:
        return None


def contents(shard: Shard) -> dict[str, str]:
    """Text by id of all that is there. AssertionError where code, text, id and bits do not fit."""
    (found,) = shard.search(
        [
            Query(
                SearchOptions(
                    vector=vectors_of(["any"])[0], candidates=_EVERYTHING, mode=Mode.EXHAUSTIVE
                )
            )
        ]
    )
    (scanned,) = shard.search(
        [
            Query(
                SearchOptions(
                    vector=vectors_of(["any"])[0], candidates=_EVERYTHING, mode=Mode.EXACT
                )
            )
        ]
    )
    assert found.corrupt == scanned.corrupt == 0, (found.corrupt, scanned.corrupt)
    assert sorted(found.rows.tolist()) == sorted(scanned.rows.tolist()), "codes without bits"
    assert len(found) == shard.status().documents < _EVERYTHING
    documents = shard.documents(found.origin, found.rows.tolist())
    assert all(isinstance(document, Document) for document in documents), documents
    whole = [document for document in documents if isinstance(document, Document)]
    texts = {document.id: document.text for document in whole}
    assert len(texts) == len(whole), "one id twice"
    assert (found.codes == codes_of([d.text for d in whole])).all(), "a code without its text"
    for document in whole:
        assert shard.document(document.id) == document
    return texts
