"""What a message costs: frames of msgspec against pickle, which was used before wire version 1.

    python benchmarks/wire.py

Both sides of each message are asked in turns (A B A B …) in one process and one run, so a busy
neighbour slows both alike. Results go to benchmarks/results/wire.json: medians in us, and the ratio
of what a whole call takes, packing and unpacking at both ends.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.timing import interleaved
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.deadline import Deadline, arrived, sent_now
from bitsift.shard_worker.types import Candidates, Document, Origin, Query, Wanted
from bitsift.shard_worker.wire.search import (
    pack_candidates,
    pack_documents,
    pack_queries,
    unpack_candidates,
    unpack_documents,
    unpack_queries,
)

RESULT = Path(__file__).with_name("results") / "wire.json"
WIDTH, QUERIES, CANDIDATES, DOCUMENTS = 384, 32, 40, 160
ROUNDS, WARM_UP = 2_000, 200
_COLUMNS = ("rows", "distances", "hamming_ranks", "estimates", "scores")


class Pickled:
    """The messages as they were: tuples and arrays, pickled."""

    @staticmethod
    def pack_queries(queries: list[Query]) -> bytes:
        vectors = np.stack([query.vector for query in queries])
        options = [
            (
                q.deadline.remaining_s(), q.options.candidates, q.options.mode.value,
                q.options.nprobe, q.options.top_k, (frozenset(q.options.include), 1 << 16),
                q.options.explain,
            )
            for q in queries
        ]  # fmt: skip
        return pickle.dumps((sent_now(), vectors, options), 5)

    @staticmethod
    def unpack_queries(data: bytes) -> list[Query]:
        sent, vectors, options = pickle.loads(data)
        return [
            Query(
                SearchOptions(
                    vector=vector, candidates=candidates, mode=Mode(mode), nprobe=nprobe,
                    top_k=top_k, explain=explain,
                ),
                Wanted(*wanted).bytes_max,
                arrived(left_s, sent),
            )
            for vector, (left_s, candidates, mode, nprobe, top_k, wanted, explain) in zip(
                vectors, options, strict=True
            )
        ]  # fmt: skip

    @staticmethod
    def pack_candidates(answers: list[Candidates]) -> bytes:
        columns = [np.concatenate([getattr(one, name) for one in answers]) for name in _COLUMNS]
        facts = [(a.shard, a.origin.generation, len(a), a.corrupt, _plain(a)) for a in answers]
        return pickle.dumps((facts, columns), 5)

    @staticmethod
    def unpack_candidates(data: bytes) -> list[Candidates]:
        facts, columns = pickle.loads(data)
        found, end = [], 0
        for shard, generation, count, corrupt, documents in facts:
            start, end = end, end + count
            held = {row: Document(*fields) for row, fields in documents.items()}
            codes = np.empty((count, 0), dtype=np.int8)
            rows, distances, ranks, estimates, scores = (column[start:end] for column in columns)
            views = rows, distances, ranks, estimates, scores
            origin = Origin(1, generation)
            found.append(Candidates(shard, origin, *views, codes, corrupt, held))
        return found

    @staticmethod
    def pack_documents(found: list[list[Document]]) -> bytes:
        return pickle.dumps([[_fields(item) for item in one] for one in found], 5)

    @staticmethod
    def unpack_documents(data: bytes) -> list[list[Document]]:
        return [[Document(*item) for item in one] for one in pickle.loads(data)]


def _plain(answer: Candidates) -> dict[int, tuple[object, ...]]:
    return {row: _fields(document) for row, document in answer.documents.items()}


def _fields(d: Document) -> tuple[object, ...]:
    return d.id, d.title, d.text, d.metadata, d.position, d.size_bytes


def messages() -> dict[str, Any]:
    """What is sent: the queries of one call, and what a shard answers."""
    random = np.random.default_rng(7)
    vectors = random.standard_normal((QUERIES, WIDTH)).astype(np.float32)
    queries = [
        Query(SearchOptions("what it is", vector=vector), 1 << 16, Deadline.after(5.0))
        for vector in vectors
    ]
    answers = [
        Candidates(
            shard=3,
            origin=Origin(1, 0),
            rows=random.integers(0, 1 << 40, CANDIDATES),
            distances=random.integers(0, WIDTH, CANDIDATES, dtype=np.int32),
            hamming_ranks=random.integers(1, 400, CANDIDATES, dtype=np.int32),
            estimates=random.standard_normal(CANDIDATES).astype(np.float32),
            scores=random.standard_normal(CANDIDATES).astype(np.float32),
            codes=np.empty((CANDIDATES, WIDTH), np.int8),
        )
        for _ in range(QUERIES)
    ]
    documents = [  # all different: of equal objects pickle writes one
        Document(f"id-{i}", f"title {i}", f"{i} " * 50, {"number": i, "tags": [f"a{i}"]}, i, 300)
        for i in range(DOCUMENTS)
    ]
    return {"queries": queries, "candidates": answers, "documents": [documents]}


def main() -> None:
    ours = {
        "queries": (pack_queries, unpack_queries),
        "candidates": (pack_candidates, unpack_candidates),
        "documents": (pack_documents, unpack_documents),
    }
    found: dict[str, Any] = {"queries": QUERIES, "candidates": CANDIDATES, "documents": DOCUMENTS}
    total = {"frames": 0.0, "pickle": 0.0}
    messages_us: dict[str, Any] = {}
    for name, message in messages().items():
        sides = {
            "frames": ours[name],
            "pickle": tuple(getattr(Pickled, f"{end}_{name}") for end in ("pack", "unpack")),
        }
        calls: dict[str, Any] = {}
        sizes: dict[str, int] = {}
        for side, (pack, unpack) in sides.items():
            packed = pack(message)
            sizes[side] = len(packed)
            calls[f"{side}_pack"] = lambda _, pack=pack, message=message: pack(message)
            calls[f"{side}_unpack"] = lambda _, unpack=unpack, packed=packed: unpack(packed)
        seconds = interleaved(calls, ROUNDS, WARM_UP)
        medians = {key: round(float(np.median(values)) * 1e6, 1) for key, values in seconds.items()}
        messages_us[name] = {**medians, **{f"{side}_bytes": size for side, size in sizes.items()}}
        for side in total:
            total[side] += medians[f"{side}_pack"] + medians[f"{side}_unpack"]
    found["us"] = messages_us
    found["call_us"] = {side: round(us, 1) for side, us in total.items()}
    found["call_ratio"] = round(total["frames"] / total["pickle"], 3)
    print(json.dumps(write_result(RESULT, found), indent=2))


if __name__ == "__main__":
    main()
