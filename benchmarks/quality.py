"""Recall@10 of each funnel stage against exact fp32, on judged collections.

    python benchmarks/quality.py FOLDER…      BEIR folders: corpus.jsonl, queries.jsonl, qrels.tsv

Only queries with a positive judgement count. Shards are split as an index would be, by hash of id.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np

from router.encoder import Encoder
from router.merge import rescore
from shard_worker.codes import Calibration, query_bits, shard_of
from shard_worker.shard import Shard
from shard_worker.types import Documents, Mode, Query, ShardIdentity

UUID = "00000000-0000-0000-0000-000000000001"
CANDIDATES = 40


def read(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Document ids, document texts and the texts of the judged queries."""
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    rows = [row for row in rows if (row.get("title", "") + row["text"]).strip()]
    texts = [f"{r['title']} {r['text']}" if r.get("title") else r["text"] for r in rows]
    judged = {
        line.split("\t")[0]
        for line in (folder / "qrels.tsv").read_text().splitlines()[1:]
        if int(line.split("\t")[2]) > 0
    }
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    return [r["_id"] for r in rows], texts, [q["text"] for q in queries if q["_id"] in judged]


def recall(exact: np.ndarray, found: list[np.ndarray]) -> float:
    hits = [len(set(e.tolist()) & set(f[:10].tolist())) for e, f in zip(exact, found, strict=True)]
    return round(float(np.mean(hits)) / 10, 4)


def open_shards(
    folder: Path, ids: list[str], codes: np.ndarray, calibration: Calibration, count: int
) -> tuple[list[Shard], list[np.ndarray]]:
    owners = np.array([shard_of(name, count) for name in ids])
    shards, members = [], []
    for number in range(count):
        mine = np.flatnonzero(owners == number)
        identity = ShardIdentity(UUID, number, count, calibration.dimension, calibration.width)
        path = folder / f"{count}-{number}"
        Shard.create(path, identity)
        shard = Shard(path, calibration, identity)
        blank = [""] * len(mine)
        names = [ids[i] for i in mine]
        shard.append(Documents(names, blank, blank, blank, mine.tolist(), codes[mine]))
        shards.append(shard)
        members.append(mine)
    return shards, members


def funnel(
    shards: list[Shard], members: list[np.ndarray], calibration: Calibration, mode: Mode
) -> Callable[[np.ndarray], np.ndarray]:
    def search(vector: np.ndarray) -> np.ndarray:
        gathered = [shard.search([Query(vector, CANDIDATES, mode)])[0] for shard in shards]
        ranking = rescore(calibration, vector, gathered)
        pairs = zip(ranking.shards, ranking.rows, strict=True)
        return np.array([members[shard][row] for shard, row in pairs])

    return search


def measure(folder: Path, encoder: Encoder) -> dict[str, Any]:
    ids, texts, questions = read(folder)
    documents, queries = encoder.encode_documents(texts), encoder.encode_queries(questions)
    exact = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :10]
    sample = np.random.default_rng(0).permutation(len(documents))[:4_096]
    calibration = Calibration.from_sample(documents[sample], documents.shape[1])
    codes, clipped = calibration.quantize(documents)
    bits = np.unpackbits(calibration.bits(codes), axis=1)
    asked = np.unpackbits(query_bits(queries), axis=1)
    hamming = [np.argsort((bits != q).sum(1), kind="stable")[:CANDIDATES] for q in asked]
    raw = [
        h[np.argsort(-(codes[h].astype(np.float32) @ q))]
        for h, q in zip(hamming, queries, strict=True)
    ]
    decoded = [
        h[np.argsort(-calibration.scores(q, codes[h]))]
        for h, q in zip(hamming, queries, strict=True)
    ]
    stages: dict[str, float] = {
        "hamming_40": recall(exact, hamming),
        "hamming_40_raw_int8": recall(exact, raw),
        "hamming_40_decoded_int8": recall(exact, decoded),
    }
    with tempfile.TemporaryDirectory() as temporary:
        for count in (1, 2, 4):
            shards, members = open_shards(Path(temporary), ids, codes, calibration, count)
            search = funnel(shards, members, calibration, Mode.EXACT)
            stages[f"funnel_{count}_shards"] = recall(exact, [search(q) for q in queries])
            if count == 1:
                every = funnel(shards, members, calibration, Mode.EXHAUSTIVE)
                stages["exhaustive_int8"] = recall(exact, [every(q) for q in queries])
            for shard in shards:
                shard.close()
    return {
        "dataset": folder.name,
        "documents": len(ids),
        "queries": len(questions),
        "clipped_fraction": clipped / codes.size,
        "recall@10": stages,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default="minilm")
    arguments = parser.parse_args()
    encoder = Encoder.load(arguments.model)
    results = [measure(folder, encoder) for folder in arguments.folders]
    names = list(results[0]["recall@10"])
    print("| stage | " + " | ".join(f"{r['dataset']} {r['documents']:,}" for r in results) + " |")
    for name in names:
        print(f"| {name} | " + " | ".join(f"{r['recall@10'][name]:.4f}" for r in results) + " |")
    machine.write("quality", {"model": arguments.model, "collections": results})


if __name__ == "__main__":
    main()
