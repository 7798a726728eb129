"""Rate of `bitsift index` against the bare model in one process, same texts, same threads.

    python benchmarks/encoding.py [--documents 8000]

The bare model is Encoder.encode_documents in a loop; sentence-transformers' own encode in fp32
torch is given beside it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from pathlib import Path

import machine

from cluster.demo import CORPUS
from cluster.ingest import TEXT_BATCH_ROWS, build_index
from cluster.ingest_progress import IndexStage
from router.encoder import Encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=8_000)
    count = parser.parse_args().documents
    lines = gzip.decompress(CORPUS.read_bytes()).splitlines()
    lines = lines[:: max(1, len(lines) // count)][:count]
    rows = [json.loads(line) for line in lines]
    texts = [f"{row['title']} {row['text']}" for row in rows]
    encoder = Encoder.load("minilm")
    encoder.warm_up()
    started = time.perf_counter()
    for first in range(0, len(texts), TEXT_BATCH_ROWS):
        encoder.encode_documents(texts[first : first + TEXT_BATCH_ROWS])
    bare = len(texts) / (time.perf_counter() - started)
    some = texts[: len(texts) // 4]
    started = time.perf_counter()
    encoder._model.encode(some, batch_size=32)
    torch_rate = len(some) / (time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "texts.jsonl"
        source.write_bytes(b"\n".join(lines))
        marks: list[tuple[float, int]] = []

        def watch(stage: IndexStage) -> None:
            if stage.stage == "index":
                marks.append((time.perf_counter(), stage.documents))

        report = build_index([source], Path(temporary) / "index", on_progress=watch)
    steady = (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])
    machine.write(
        "encoding",
        {
            "documents": len(texts),
            "bare_documents_s": round(bare, 1),
            "sentence_transformers_torch_documents_s": round(torch_rate, 1),
            "index_steady_documents_s": round(steady, 1),
            "index_over_bare": round(steady / bare, 3),
            "whole_build_s": report.seconds,
        },
    )


if __name__ == "__main__":
    main()
