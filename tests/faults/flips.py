"""One bit flipped in a copy of an index: does any answer change without a word?

The index is a real one: two shards with upserts, deletes, lists, a compaction, and writes since.
Each flip is opened and asked in a process of its own, for a damaged page may well kill it.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import struct
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitsift.cluster.manifest import (
    BuildReport,
    Manifest,
    open_manifest,
    write_complete,
    write_manifest,
)
from bitsift.errors import BitsiftError
from bitsift.options import Mode, SearchOptions
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.placement import Placement
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.operations import Delete, Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION
from tests.crash.documents import DIMENSION, vectors_of
from tests.crash.processes import fresh_processes
from tests.threads import ended
from tests.writing import written

SHARDS = 2
_UUID = "00000000-0000-0000-0000-000000000044"
_PAGE_BYTES = 4096
_WITHIN_S = 60.0

SAME = "the same answers"
REFUSED = "refused when it was opened"
REPORTED = "reported in the answer"
ANEW = "what is derived was made anew, and logged"
KILLED = "the process was killed"
SILENT = "SILENTLY DIFFERENT"


@dataclass(frozen=True, slots=True)
class Flip:
    """Bit ``bit`` of byte ``at`` of the file ``name`` below the index."""

    name: str
    at: int
    bit: int


# --- the index -------------------------------------------------------------------------------


def build_index(index: Path, documents: int) -> None:
    """A finished index of some ``documents`` documents in two shards."""
    calibration = Calibration.from_sample(vectors_of([str(i) for i in range(500)]), DIMENSION)
    index.mkdir()
    manifest = Manifest(
        _UUID, "flips", "2026-01-01T00:00:00+00:00", SHARDS, calibration, None, {}, 0
    )
    write_manifest(index, manifest)
    names = [str(i) for i in range(documents)]
    for number in range(SHARDS):
        mine = Placement(SHARDS).by_owner(names)[number].tolist()
        _fill(index, manifest, number, [names[place] for place in mine])
    report = BuildReport(documents, 0, documents, 1.0, 0, 0, 0, 0, (0,) * SHARDS)
    write_complete(index, report)
    (index / "rejects.jsonl").write_text('{"reason": "empty"}\n' * 20)


def _fill(index: Path, manifest: Manifest, number: int, names: Sequence[str]) -> None:
    folder = shard_folder(index, number)
    Shard.create(folder, manifest.identity(number))
    shard = Shard(folder, manifest.calibration, manifest.identity(number))
    few = len(names) // 4
    written(shard, _batch(manifest.calibration, names, "first"))
    shard.train()
    written(shard, _batch(manifest.calibration, names[:few], "second"))
    written(shard, Delete(names[few : few + few // 2]))
    shard.compact()
    written(shard, _batch(manifest.calibration, names[2 * few : 3 * few], "third"))
    shard.save_bits()
    written(shard, _batch(manifest.calibration, [f"late {name}" for name in names[:100]], "late"))
    written(shard, Delete(names[3 * few : 3 * few + few // 2]))
    shard.close()


def _batch(calibration: Calibration, names: Sequence[str], what: str) -> Upsert:
    texts = [f"the {what} text of document {name}, of no great length" for name in names]
    metadata = [f'{{"number":"{name}"}}' for name in names]
    codes = calibration.quantize(vectors_of(texts))[0]
    positions = [GIVEN_VECTOR_POSITION] * len(names)
    return Upsert(names, [what] * len(names), texts, metadata, positions, codes)


# --- where to flip ---------------------------------------------------------------------------


def places(index: Path, count: int, seed: int) -> list[Flip]:
    """Random bits, each byte of all files alike.

    The room behind the last page of a data file, which was never written to, is left out.
    """
    chance = random.Random(seed)
    files = {path: _written_bytes(path) for path in sorted(index.rglob("*")) if path.is_file()}
    files = {path: size for path, size in files.items() if size}
    found = []
    for path in chance.choices(list(files), weights=list(files.values()), k=count):
        flip = Flip(
            str(path.relative_to(index)), chance.randrange(files[path]), chance.randrange(8)
        )
        found.append(flip)
    return found


def structure(index: Path) -> Iterator[Flip]:
    """Every bit that leads LMDB to its data: of its meta pages and of its branch pages."""
    for path in sorted(index.rglob("data.mdb")):
        data, name = path.read_bytes(), str(path.relative_to(index))
        for page in range(_written_bytes(path) // _PAGE_BYTES):
            at = page * _PAGE_BYTES
            number, _, flags, lower, _ = struct.unpack_from("<QHHHH", data, at)
            if flags & ~0x5B or number != page:
                continue  # no head of a page: inside of a large value
            spans = []
            if flags & 0x08:
                spans = [(0, 152)]
            elif flags & 0x01:
                nodes = struct.unpack_from(f"<{(lower - 16) // 2}H", data, at + 16)
                spans = [(0, lower), *((node, node + 16) for node in nodes)]
            for first, stop in spans:
                for byte in range(at + first, at + stop):
                    for bit in range(8):
                        yield Flip(name, byte, bit)


def _written_bytes(path: Path) -> int:
    if path.name != "data.mdb":
        return path.stat().st_size
    metas = [path.read_bytes()[start : start + 152] for start in (0, _PAGE_BYTES)]
    return _PAGE_BYTES * (1 + max(int.from_bytes(meta[136:144], "little") for meta in metas))


# --- what comes of it ------------------------------------------------------------------------


def ask(index: Path, documents: int) -> dict[str, Any]:
    """All answers of an index, by question. Errors are answers too, marked as such."""
    manifest, _ = open_manifest(index)
    with ExitStack() as stack:
        shards = []
        for number in range(SHARDS):
            identity = manifest.identity(number)
            shard = Shard(shard_folder(index, number), manifest.calibration, identity)
            stack.callback(shard.close)
            shards.append(shard)
        service = SearchService(manifest.describe(), FanOut([LocalLink(s) for s in shards]), None)
        answers = {f"document {i}": _document(shards, str(i)) for i in range(documents)}
        return answers | asyncio.run(_searches(service))


def _document(shards: Sequence[Shard], name: str) -> dict[str, Any]:
    try:
        found = shards[Placement(SHARDS).owners(name)[0]].document(name)
    except BitsiftError as error:
        if type(error).__name__ == "NotFound":
            return {"answer": None}
        return {"error": str(error)}
    return {"answer": [found.id, found.title, found.text, found.metadata]}


async def _searches(service: SearchService) -> dict[str, Any]:
    vectors = vectors_of([f"question {i}" for i in range(8)])
    vectors = np.concatenate([vectors, vectors_of(["the third text of document 7"])])
    answers: dict[str, dict[str, Any]] = {}
    for mode in (Mode.EXACT, Mode.APPROXIMATE, Mode.EXHAUSTIVE):
        for place, vector in enumerate(vectors):
            name = f"{mode} {place}"
            try:
                answer = await service.search(
                    SearchOptions(
                        vector=vector[:DIMENSION], mode=mode, top_k=10, timeout_ms=30_000.0
                    )
                )
            except BitsiftError as error:
                answers[name] = {"error": str(error)}
                continue
            hits = [[hit.id, hit.score, hit.title, hit.text, hit.metadata] for hit in answer.hits]
            answers[name] = {"answer": hits}
            if answer.coverage.failures:
                answers[name]["error"] = str(answer.coverage.failures)
    return answers


def differing(expected: dict[str, Any], found: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Questions that got another answer without a word in it, and those with an error."""
    reported = [question for question, answer in found.items() if "error" in answer]
    differ = [q for q, answer in found.items() if q not in reported and answer != expected[q]]
    return differ, reported


def classify(index: Path, copy: Path, flip: Flip, documents: int, expected: dict[str, Any]) -> str:
    """What one flip leads to: one of the words above, with the reason behind a colon."""
    shutil.copytree(index, copy)
    try:
        with (copy / flip.name).open("r+b") as file:
            file.seek(flip.at)
            byte = file.read(1)[0]
            file.seek(flip.at)
            file.write(bytes([byte ^ (1 << flip.bit)]))
        return _in_a_child(copy, documents, expected)
    finally:
        shutil.rmtree(copy)


def _in_a_child(copy: Path, documents: int, expected: dict[str, Any]) -> str:
    word = copy / "what-came-of-it"
    arguments = copy, documents, expected, word
    child = fresh_processes().Process(target=_judge, args=arguments)
    child.start()
    child.join(_WITHIN_S)
    if child.exitcode is None:
        child.kill()
        ended(child)
        return f"{KILLED}: by this test, after {_WITHIN_S:.0f} s"
    if child.exitcode < 0:
        return f"{KILLED}: {signal.Signals(-child.exitcode).name}"
    return word.read_text()


def _judge(copy: Path, documents: int, expected: dict[str, Any], word: Path) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    word.write_text(_judged(copy, documents, expected))


def _judged(copy: Path, documents: int, expected: dict[str, Any]) -> str:
    logged = io.StringIO()
    logging.basicConfig(stream=logged, level=logging.WARNING, force=True)
    try:
        found = json.loads(json.dumps(ask(copy, documents)))
    except BitsiftError as error:
        return f"{REFUSED}: {type(error).__name__}: {error}"
    except Exception:
        return f"{REFUSED}: unexpectedly: {traceback.format_exc()[-600:]}"
    differ, reported = differing(expected, found)
    if all(question.startswith("approximate") for question in differ) and re.search(
        "rebuilding|measuring again", logged.getvalue()
    ):
        return f"{ANEW}: {len(differ)} approximate answers are others"
    if differ:
        return f"{SILENT}: {differ[:5]}"
    return f"{REPORTED}: {len(reported)} questions" if reported else SAME
