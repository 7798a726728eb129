"""One member of the pool that turns batches of records into rows of shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import ray
from numpy.typing import NDArray

from cluster.source_vectors import take_good, vectors_of
from router.encoder import Encoder
from shard_worker.codes import Calibration, shard_of
from shard_worker.types import Documents, Outcome


@dataclass(frozen=True, slots=True)
class Work:
    """What every member of the pool is told. ``encoder`` is None for ready-made vectors."""

    calibration: dict[str, Any]
    shards: tuple[Any, ...]
    encoder: dict[str, Any] | None
    resuming: bool


def document_texts(records: pa.Table) -> list[str]:
    """What a model is given of each record: title and text, joined by a space."""
    titles, texts = records["title"].to_pylist(), records["text"].to_pylist()
    return [f"{title} {text}" if title else text for title, text in zip(titles, texts, strict=True)]


class IndexWorker:
    """A Ray Data UDF: records in, one summary row out; the documents are durable by then."""

    def __init__(self, work: Work) -> None:
        self._calibration = Calibration.from_json(work.calibration)
        self._shards = work.shards
        self._resuming = work.resuming
        self._encoder_arguments = work.encoder
        self._encoder: Encoder | None = None

    def __call__(self, records: pa.Table) -> pa.Table:
        """Skip what is stored, encode, quantize, store; count and name what was rejected."""
        rejects = _rejected(records)
        usable = records["reject"].is_null().to_numpy()
        good = take_good(records, np.flatnonzero(usable))
        owners = np.array(
            [shard_of(name, len(self._shards)) for name in good["id"].to_pylist()], dtype=np.int64
        )
        outcomes: Counter[Outcome] = Counter()
        clipped = 0
        if self._resuming and len(good):
            new, known = self._split_known(good, owners, rejects)
            outcomes[Outcome.SAME] += known
            good, owners = take_good(good, new), owners[new]
        if len(good):
            codes, clipped = self._calibration.quantize(self._vectors(good))
            outcomes += self._store(good.drop_columns(["vector"]), owners, codes, rejects)
        return _summary(outcomes, clipped, rejects)

    def _split_known(
        self, good: pa.Table, owners: NDArray[np.int64], rejects: list[dict[str, Any]]
    ) -> tuple[NDArray[np.int64], int]:
        """Places of the records that no shard has, and how many it has from this very record."""
        held: dict[int, int | None] = {}
        for shard, places in _by_shard(owners):
            ids = good["id"].take(pa.array(places)).to_pylist()
            positions = ray.get(self._shards[shard].positions_of.remote(ids))
            held.update(zip(places.tolist(), positions, strict=True))
        new, known = [], 0
        for place, position in enumerate(good["position"].to_pylist()):
            if held[place] is None:
                new.append(place)
            elif held[place] == position:
                known += 1
            else:
                rejects.append(_duplicate(good, place))
        return np.array(new, dtype=np.int64), known

    def _vectors(self, good: pa.Table) -> NDArray[np.float32]:
        """Unit vectors (n, width).

        The model is loaded with the first batch, not in the constructor: Ray restarts an actor
        whose constructor raised, for ever; an error in a batch ends the build and says why.
        """
        if self._encoder_arguments is None:
            return self._calibration.units(vectors_of(good, self._calibration.dimension))
        if self._encoder is None:
            self._encoder = Encoder.load(**self._encoder_arguments)
        return self._calibration.units(self._encoder.encode_documents(document_texts(good)))

    def _store(
        self,
        good: pa.Table,
        owners: NDArray[np.int64],
        codes: NDArray[np.int8],
        rejects: list[dict[str, Any]],
    ) -> Counter[Outcome]:
        """Send each shard its documents; wait until all are durable."""
        sent = []
        for shard, places in _by_shard(owners):
            part = good.take(pa.array(places))
            batch = Documents(
                ids=part["id"].to_pylist(),
                titles=part["title"].to_pylist(),
                texts=part["text"].to_pylist(),
                metadata=part["metadata"].to_pylist(),
                positions=part["position"].to_pylist(),
                codes=codes[places],
            )
            sent.append((places, self._shards[shard].append.remote(batch)))
        counted: Counter[Outcome] = Counter()
        for places, reference in sent:
            outcomes = ray.get(reference)
            counted.update(outcomes)
            rejects += [
                _duplicate(good, place)
                for place, outcome in zip(places.tolist(), outcomes, strict=True)
                if outcome is Outcome.DUPLICATE
            ]
        return counted


def _by_shard(owners: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """(shard, places of its records) for each shard that owns any."""
    return [(int(shard), np.flatnonzero(owners == shard)) for shard in np.unique(owners)]


def _rejected(records: pa.Table) -> list[dict[str, Any]]:
    bad = records.filter(records["reject"].is_valid()).select(["file", "line", "reject"])
    return [
        {"file": row["file"], "line": row["line"], "reason": row["reject"]}
        for row in bad.to_pylist()
    ]


def _duplicate(good: pa.Table, place: int) -> dict[str, Any]:
    row = good.select(["file", "line", "id"]).slice(place, 1).to_pylist()[0]
    reason = f"duplicate id {row['id']!r}: another record has it"
    return {"file": row["file"], "line": row["line"], "reason": reason}


def _summary(outcomes: Counter[Outcome], clipped: int, rejects: list[dict[str, Any]]) -> pa.Table:
    row = {
        "stored": outcomes[Outcome.STORED],
        "same": outcomes[Outcome.SAME],
        "clipped": clipped,
        "rejects": b"".join(orjson.dumps(reject) + b"\n" for reject in rejects),
        "rejected": len(rejects),
    }
    return pa.Table.from_pylist([row])
