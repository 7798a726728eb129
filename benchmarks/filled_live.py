"""What it costs to fill an index that was created empty, against one that `bitsift index` builds.

python benchmarks/filled_live.py FOLDER…      BEIR folders: corpus.jsonl, queries.jsonl, qrels.tsv

Each collection is encoded once, and measured once more after a vector that all have in common was
added: embeddings of some models are like that, and a range that is not made for them is coarse.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.evaluation.evaluate import Embedded, embed, evaluate, evaluate_index
from bitsift.cluster.evaluation.judged import JudgedSet, read_judged
from bitsift.cluster.ingest.create import create_index
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.maintenance.reshard import reshard
from bitsift.cluster.manifest import read_manifest
from bitsift.errors import BitsiftError
from bitsift.router.model.encoder import Encoder
from bitsift.shard_worker.codes import normalize
from bitsift.shard_worker.operations import Upsert, statuses

RESULT = Path(__file__).with_name("results") / "filled_live.json"
STAGES = "hamming", "final", "exhaustive"
BATCH = 512
NEVER = 1 << 60


@dataclass(frozen=True)
class Way:
    """How an index comes to its documents: what `bitsift create` is told, and after how many
    documents it is calibrated anew.
    """

    name: str
    options: dict[str, Any]
    at: Sequence[int] = ()


def ways(model: str, dimension: int, sample: Path, *, shifted: bool) -> list[Way]:
    vectors = {"dimensions": dimension}
    found = [
        Way("--dimensions", vectors),
        Way("--dimensions --sample", vectors | {"sample": sample}),
        Way("--dimensions, anew at 1,000", vectors, (1_000,)),
        Way("--dimensions, anew at 1,000 and 10,000", vectors, (1_000, 10_000)),
        Way("--dimensions, anew at the end", vectors, (NEVER,)),
    ]
    if shifted:
        return found
    given = {"model": model}
    return [
        *found,
        Way("--model", given),
        Way("--model, anew at 1,000", given, (1_000,)),
        Way("--model, anew at the end", given, (NEVER,)),
    ]


def add(index: Path, judged: JudgedSet, embedded: Embedded, rows: range) -> None:
    """As the writer does: quantized by the calibration of the manifest, some at once."""
    manifest = read_manifest(index)
    with open_shard(index, manifest, 0) as shard:
        for first in range(rows.start, rows.stop, BATCH):
            part = range(first, min(first + BATCH, rows.stop))
            units = manifest.calibration.units(embedded.documents[part.start : part.stop])
            ids, blank = judged.ids[part.start : part.stop], [""] * len(part)
            codes = manifest.calibration.quantize(units)[0]
            statuses(shard.write([Upsert(ids, blank, blank, blank, [0] * len(ids), codes)]))


def filled(folder: Path, way: Way, judged: JudgedSet, embedded: Embedded) -> Path:
    index, done, count = folder / "index", 0, len(judged.ids)
    create_index(index, shards=1, **way.options)
    for at in way.at:
        stop = count if at == NEVER else at
        add(index, judged, embedded, range(done, stop))
        done, new = stop, folder / f"{index.name}-{stop}"
        reshard(index, new, 1, recalibrate=True)
        index = new
    add(index, judged, embedded, range(done, count))
    return index


def stages_of(evaluation: Any) -> dict[str, Any]:
    kept = {name: evaluation.stages[name] for name in STAGES}
    return {"clipped": evaluation.clipped_fraction, **kept}


def shift(embedded: Embedded) -> Embedded:
    dimension = embedded.documents.shape[1]
    common = np.random.default_rng(1).standard_normal((1, dimension), dtype=np.float32)
    common = 2 * normalize(common, dimension)[:, :dimension]
    return Embedded(
        normalize(embedded.documents + common, dimension)[:, :dimension],
        normalize(embedded.queries + common, dimension)[:, :dimension],
    )


def measure(judged: JudgedSet, embedded: Embedded, model: str, *, shifted: bool) -> dict[str, Any]:
    built = evaluate(judged, embedded, model=model)
    found = {"fp32": {"ndcg@10": built.stages["fp32"]["ndcg@10"]}, "built": stages_of(built)}
    dimension = embedded.documents.shape[1]
    with tempfile.TemporaryDirectory(prefix="bitsift-") as root:
        sample = Path(root) / "sample.npy"
        np.save(sample, embedded.documents[::3])
        for number, way in enumerate(ways(model, dimension, sample, shifted=shifted)):
            if any(len(judged.ids) < at < NEVER for at in way.at):
                continue
            folder = Path(root) / str(number)
            folder.mkdir()
            try:
                index = filled(folder, way, judged, embedded)
            except BitsiftError as error:
                raise SystemExit(f"{way.name}: {error}") from error
            result = evaluate_index(judged, embedded, index, read_manifest(index))
            found[way.name] = stages_of(result)
            print(f"  {way.name:40} {found[way.name]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default="minilm")
    arguments = parser.parse_args()
    encoder = Encoder.load(arguments.model)
    collections = {}
    for folder in arguments.folders:
        judged = read_judged(folder)
        judged, embedded = embed(judged, encoder)
        for shifted in (False, True):
            name = f"{judged.name}, shifted" if shifted else judged.name
            print(f"{name}: {len(judged.ids):,} documents", flush=True)
            given = shift(embedded) if shifted else embedded
            collections[name] = {
                "documents": len(judged.ids), "queries": len(judged.queries),
                "ways": measure(judged, given, arguments.model, shifted=shifted),
            }  # fmt: skip
    write_result(RESULT, {"model": arguments.model, "shards": 1, "collections": collections})


if __name__ == "__main__":
    main()
