"""Makes the golden index of the current format version, once: `python -m tests.golden.make`.

tests/golden/v1 was made by it and is never made again: every later program must open it and give
the answers that are kept beside it. It has all that an index may have: dead rows, a generation that
was compacted, blocks and a tail, lists, segments, ids that share nothing with file names.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import orjson

from cluster.local import search_local
from cluster.manifest import BuildReport, Manifest, write_complete, write_manifest
from router.service import Question
from shard_worker.codes import Calibration, Transform, normalize, shard_of
from shard_worker.layout import FORMAT_VERSION, LOCK_FILE, shard_folder
from shard_worker.shard import Shard
from shard_worker.types import GIVEN_VECTOR_POSITION, Documents, Mode, ShardSettings

HERE = Path(__file__).parent
INDEX = HERE / f"v{FORMAT_VERSION}" / "index"
ANSWERS = HERE / f"v{FORMAT_VERSION}" / "answers.json"
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


def documents(numbers: list[int], version: int, calibration: Calibration) -> Documents:
    found = vectors(ROWS, 100 + version)[numbers]
    codes, _ = calibration.quantize(calibration.units(found))
    return Documents(
        ids=[document_id(number) for number in numbers],
        titles=[f"title {number}" if number % 3 else "" for number in numbers],
        texts=[f"text {number} of {version} {'words ' * (number % 5)}" for number in numbers],
        metadata=[f'{{"number":{number}}}' if number % 7 == 0 else "" for number in numbers],
        positions=[GIVEN_VECTOR_POSITION] * len(numbers),
        codes=codes,
        replace=True,
    )


def fill(shard: Shard, numbers: list[int], calibration: Calibration) -> None:
    """Loaded, some replaced and deleted, compacted, trained, and written to again."""
    third = len(numbers) // 3
    shard.append(documents(numbers[: 2 * third], 0, calibration))
    shard.append(documents(numbers[:200], 1, calibration))
    shard.delete([document_id(number) for number in numbers[200:260]])
    shard.compact()
    shard.train()
    shard.append(documents(numbers[2 * third :], 0, calibration))
    shard.append(documents(numbers[300:340], 1, calibration))
    shard.delete([document_id(number) for number in numbers[-30:]])
    shard.save_bits()
    shard.append(documents(numbers[340:350], 1, calibration))  # a start has rows to replay


def answers(index: Path) -> list[dict[str, object]]:
    """What is answered in every mode, and one document of each answer."""
    found = []
    for number, vector in enumerate(vectors(QUERIES, 7)):
        for mode in (Mode.EXACT, Mode.APPROXIMATE, Mode.EXHAUSTIVE):
            answer = search_local(index, Question(vector=vector, mode=mode, nprobe=4))
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


def main() -> None:
    assert not INDEX.exists(), f"{INDEX} is frozen"
    calibration = Calibration.from_sample(
        normalize(vectors(2_000, 3), DIMENSION), DIMENSION, Transform.CENTER_ROTATE
    )
    manifest = Manifest(
        uuid="6f1d4c9e-3f7b-4d0a-9a51-0c6d3a1b2e4f", name="golden",
        created="2026-11-24T00:00:00+00:00",
        shards=SHARDS, calibration=calibration, model=None, request={}, records=ROWS,
        examples=("one", "two"),
    )  # fmt: skip
    counts = []
    for number in range(SHARDS):
        folder = shard_folder(INDEX, number)
        Shard.create(folder, manifest.identity(number))
        settings = ShardSettings(train_rows_min=1 << 40)
        mine = [n for n in range(ROWS) if shard_of(document_id(n), SHARDS) == number]
        shard = Shard(folder, calibration, manifest.identity(number), settings)
        fill(shard, mine, calibration)
        counts.append(shard.status().documents)
        used = shard._current.store.used_bytes
        shard.close()
        os.truncate(folder / "store" / "data.mdb", used)  # without the room it had reserved
        (folder / "store" / "lock.mdb").unlink()
        (folder / LOCK_FILE).unlink()
    write_manifest(INDEX, manifest)
    write_complete(INDEX, BuildReport(sum(counts), 0, sum(counts), 1.0, 0, 1, 1, 1, tuple(counts)))
    copy = HERE / "copy"
    shutil.copytree(INDEX, copy)
    ANSWERS.write_bytes(orjson.dumps(answers(copy), option=orjson.OPT_INDENT_2))
    shutil.rmtree(copy)


if __name__ == "__main__":
    main()
