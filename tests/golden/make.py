"""Makes the golden index of the current format version, once: `python -m tests.golden.make`.

What it made, tests/golden/v1 and v2, is never made again: every later program must open it and give
the answers that are kept beside it. It has all that an index may have: dead rows, a generation that
was compacted, blocks and a tail, lists, segments, ids that share nothing with file names; since 2
versions, tombstones of before and after a compaction, and facts of a minor version yet to come.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import orjson

from bitsift.cluster.maintenance.opened import open_store
from bitsift.cluster.manifest import (
    BuildReport,
    Manifest,
    open_manifest,
    write_complete,
    write_manifest,
)
from bitsift.cluster.serving.local import search_local
from bitsift.options import Mode, SearchOptions
from bitsift.router.shards.placement import Placement
from bitsift.shard_worker.codes import Calibration, Transform, normalize
from bitsift.shard_worker.format_version import CURRENT
from bitsift.shard_worker.layout import (
    LOCK_FILE,
    SHARD_FILE,
    read_shard_file,
    replace_file,
    shard_folder,
)
from bitsift.shard_worker.operations import Delete, Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.only_store import open_only_store
from bitsift.shard_worker.store.packing import pack_meta
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION, ShardIdentity, ShardSettings
from tests.writing import written

HERE = Path(__file__).parent
SHARDS, DIMENSION, ROWS = 2, 44, 7_600
"""44 dimensions are padded to 48; a block of such codes holds 2,520 rows."""
QUERIES = 12


def vectors(rows: int, seed: int) -> np.ndarray:
    """float32 (rows, DIMENSION), in 30 clusters that do not lie round zero."""
    random = np.random.RandomState(seed)
    centres = np.random.RandomState(5).standard_normal((30, DIMENSION)) + 0.3
    points = centres[random.randint(0, 30, rows)] + 0.8 * random.standard_normal((rows, DIMENSION))
    return np.asarray(normalize(points.astype(np.float32), DIMENSION)[:, :DIMENSION])


def document_id(number: int) -> str:
    """Ids of all kinds."""
    kinds = (f"plain-{number}", f"pfad/zu/{number}", f"é{number}", f"long {number} " + "x" * 600)
    return kinds[number % 97 % 4] if number % 97 < 4 else str(number)


def documents(numbers: list[int], version: int, calibration: Calibration) -> Upsert:
    found = vectors(ROWS, 100 + version)[numbers]
    codes, _ = calibration.quantize(calibration.units(found))
    return Upsert(
        ids=[document_id(number) for number in numbers],
        titles=[f"title {number}" if number % 3 else "" for number in numbers],
        texts=[f"text {number} of {version} {'words ' * (number % 5)}" for number in numbers],
        metadata=[f'{{"number":{number}}}' if number % 7 == 0 else "" for number in numbers],
        positions=[GIVEN_VECTOR_POSITION] * len(numbers),
        codes=codes,
    )


def fill(shard: Shard, numbers: list[int], calibration: Calibration) -> None:
    """Loaded, some replaced and deleted, compacted, trained, and written to again."""
    third = len(numbers) // 3
    written(shard, documents(numbers[: 2 * third], 0, calibration))
    written(shard, documents(numbers[:200], 1, calibration))
    written(shard, Delete([document_id(number) for number in numbers[200:260]]))
    shard.compact()
    shard.train()
    written(shard, documents(numbers[2 * third :], 0, calibration))
    written(shard, documents(numbers[300:340], 1, calibration))
    written(shard, Delete([document_id(number) for number in numbers[-30:]]))
    shard.save_bits()
    written(shard, documents(numbers[340:350], 1, calibration))  # a start has rows to replay


def answers(index: Path) -> list[dict[str, object]]:
    """What is answered in every mode, and one document of each answer."""
    found = []
    for number, vector in enumerate(vectors(QUERIES, 7)):
        for mode in (Mode.EXACT, Mode.APPROXIMATE, Mode.EXHAUSTIVE):
            answer = search_local(index, SearchOptions(vector=vector, mode=mode, nprobe=4))
            assert not answer.partial, answer
            first = answer.hits[0]
            found.append({
                "query": number,
                "mode": mode.value,
                "ids": [hit.id for hit in answer.hits],
                "scores": [round(hit.score, 5) for hit in answer.hits],
                "first": [first.title, first.text, first.metadata],
            })  # fmt: skip
    return found


def golden_index(major: int) -> Path:
    """The golden index of a major version of the format."""
    return HERE / f"v{major}" / "index"


def golden_answers(major: int) -> Path:
    return HERE / f"v{major}" / "answers.json"


def versions(index: Path) -> dict[str, object]:
    """What each shard says of its documents and of those that are gone: id, version."""
    found: dict[str, object] = {}
    manifest, _ = open_manifest(index)
    for number in range(SHARDS):
        with open_store(index, manifest, number) as store:
            names = [document_id(n) for n in range(0, ROWS, 50)]
            names = [name for name in names if number in Placement(SHARDS).owners(name)]
            gone = sorted((stone.id, stone.version) for stone in store.deleted())
            found[str(number)] = [dict(zip(names, store.versions_of(names), strict=True)), gone]
    return found


def write_what_is_to_come(folder: Path, identity: ShardIdentity) -> None:
    """Counters, entries of "meta" and facts of shard.json, as a newer minor version may add."""
    with open_only_store(folder, identity) as store:
        commits = store.parts.commits
        others = {"counter_of_2_7": {"rows": 5}}
        with commits.transaction() as txn:
            meta = store.parts.env.databases["meta"]
            txn.put(b"fields_of_2_7", pack_meta({"generation": 1, "rows": 9}), db=meta)
            txn.put(b"format", pack_meta({"major": CURRENT.major, "minor": 7}), db=meta)
            commits.commit(txn, dataclasses.replace(store.counters, others=others))
    file = dataclasses.replace(read_shard_file(folder), others={"fact_of_2_7": "kept"})
    replace_file(folder / SHARD_FILE, file.packed())


def main() -> None:
    major = CURRENT.major
    index = golden_index(major)
    assert not index.exists(), f"{index} is frozen"
    calibration = Calibration.from_sample(
        normalize(vectors(2_000, 3), DIMENSION), DIMENSION, Transform.CENTER_ROTATE
    )
    manifest = Manifest(
        uuid="6f1d4c9e-3f7b-4d0a-9a51-0c6d3a1b2e4f", name="golden",
        created="2026-11-24T00:00:00+00:00",
        shards=SHARDS, calibration=calibration, model=None, request={}, records=ROWS,
        examples=("one", "two"),
    )  # fmt: skip
    counts, placement = [], Placement(SHARDS)
    for number in range(SHARDS):
        folder = shard_folder(index, number)
        Shard.create(folder, manifest.identity(number))
        settings = ShardSettings(train_rows_min=1 << 40)
        mine = [n for n in range(ROWS) if number in placement.owners(document_id(n))]
        shard = Shard(folder, calibration, manifest.identity(number), settings)
        fill(shard, mine, calibration)
        counts.append(shard.status().documents)
        shard.close()
        write_what_is_to_come(folder, manifest.identity(number))
        with open_only_store(folder, manifest.identity(number)) as store:
            used, place = store.used_bytes, store.path
        os.truncate(place / "data.mdb", used)  # without the room it had reserved
        (place / "lock.mdb").unlink()
        (folder / LOCK_FILE).unlink()
    write_manifest(index, manifest)
    write_complete(index, BuildReport(sum(counts), 0, sum(counts), 1.0, 0, 1, 1, 1, tuple(counts)))
    copy = HERE / "copy"
    shutil.copytree(index, copy)
    said = {"answers": answers(copy), "versions": versions(copy)}
    golden_answers(major).write_bytes(orjson.dumps(said, option=orjson.OPT_INDENT_2))
    shutil.rmtree(copy)


if __name__ == "__main__":
    main()
