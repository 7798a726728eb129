"""`bitsift eval` on test collections, split over 1, 2 and 4 shards; each is encoded once.

python benchmarks/quality.py FOLDER…      BEIR folders: corpus.jsonl, queries.jsonl, qrels.tsv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.evaluation.evaluate import embed, evaluate
from bitsift.cluster.evaluation.judged import read_judged
from bitsift.router.model.encoder import Encoder

RESULT = Path(__file__).with_name("results") / "quality.json"
SHARDS = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default="minilm")
    arguments = parser.parse_args()
    encoder = Encoder.load(arguments.model)
    evaluations = []
    for folder in arguments.folders:
        judged = read_judged(folder)
        print(f"{judged.name}: {len(judged.ids):,} documents, {len(judged.queries):,} queries")
        judged, embedded = embed(judged, encoder)
        for shards in SHARDS:
            found = evaluate(judged, embedded, model=arguments.model, shards=shards)
            evaluations.append(found.to_json())
            for name, stage in found.stages.items():
                print(f"  {shards} shards, {name}: {stage}")
    write_result(RESULT, {"model": arguments.model, "evaluations": evaluations})


if __name__ == "__main__":
    main()
