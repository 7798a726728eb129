"""How good the answers are: nDCG@10 and recall@10 against exact fp32 search, stage by stage.

What users get is measured through the router's own SearchService over real shards; the stages in
between through stages.py. nDCG@10 is against the judgements, recall@10 against fp32's ten best:
both by ir-measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.evaluation.judged import JudgedSet
from bitsift.cluster.evaluation.relevance import TOP_K, Rankings, ndcg, recall, without_own
from bitsift.cluster.evaluation.scratch import temporary_shards
from bitsift.cluster.evaluation.stages import CodedDocuments, calibrate, exact_top, partial_answers
from bitsift.cluster.manifest import Manifest
from bitsift.errors import BitsiftError, InvalidRequest
from bitsift.options import Mode, SearchOptions
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.placement import Placement
from bitsift.shard_worker.codes import Calibration, Transform, bad_rows
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import (
    CANDIDATES_FIXED,
    POOL_FACTOR,
    Candidates,
    Query,
)
from bitsift.write_status import WriteStatus

NPROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_QUESTIONS_AT_ONCE = 16
_TIMEOUT_S = 60.0
_APPROXIMATE = "approximate_"
STAGE_MEANINGS = {
    "fp32": "exact search with the fp32 vectors",
    "hamming": "Hamming distance alone",
    "asymmetric": "Hamming 400 → fp32 query against the bits",
    "hamming_raw_int8": "Hamming 40 → raw int8",
    "hamming_int8": "Hamming 40 → decoded int8",
    "fixed_40": "the funnel: Hamming 400 → asymmetric 40 → decoded int8",
    "final": "what users get: the funnel with adaptive reads",
    "exhaustive": "every row by decoded int8: the ceiling",
}


def meaning_of(stage: str) -> str:
    """What a stage of an evaluation is, for people."""
    nprobe = stage.removeprefix(_APPROXIMATE)
    visited = f"as final, of the rows in the {nprobe} nearest lists of a shard"
    return STAGE_MEANINGS.get(stage, visited)


class TextEncoder(Protocol):
    """What is needed of ``router.encoder.Encoder``."""

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Unit vectors of a test collection's ``documents`` and ``queries``, float32 (n, dimension)."""

    documents: NDArray[np.float32]
    queries: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``stages``: by name, ``ndcg@10``, ``recall@10`` (not of fp32) and, for whole searches,
    ``reads``, the int8 rows that one shard read for one query on average.

    ``clipped_fraction`` of the values lay outside the calibrated range. For ``left_out`` of the
    queries the document that has the query's id was left out, for ``left_out_relevant`` of these
    although it is judged relevant. ``unanswerable`` queries have no positive judgement and count 0.
    """

    dataset: str
    model: str
    documents: int
    queries: int
    shards: int
    dimension: int
    transform: str
    clipped_fraction: float
    stages: dict[str, dict[str, float]]
    left_out: int = 0
    left_out_relevant: int = 0
    unanswerable: int = 0
    without_text: int = 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def embed(judged: JudgedSet, encoder: TextEncoder) -> tuple[JudgedSet, Embedded]:
    """Encode a test collection, with all vectors in RAM; without what the model has no vector for:
    documents are rejected as by `bitsift index`, queries left out.
    """
    documents = encoder.encode_documents(judged.texts)
    queries = encoder.encode_queries(judged.queries)
    known, asked = ~bad_rows(documents), ~bad_rows(queries)
    judged = dataclasses.replace(
        judged,
        ids=list(compress(judged.ids, known)),
        texts=list(compress(judged.texts, known)),
        query_ids=list(compress(judged.query_ids, asked)),
        queries=list(compress(judged.queries, asked)),
        rejects=judged.rejects + int((~known).sum()),
    )
    return judged, Embedded(documents[known], queries[asked])


def evaluate(
    judged: JudgedSet,
    embedded: Embedded,
    *,
    model: str,
    shards: int = 1,
    transform: Transform = Transform.NONE,
    keep_own: bool = True,
) -> Evaluation:
    """Measure an index that is built for it, in a temporary folder, and removed.

    Without ``keep_own`` a document that has the id of the query is left out of its answers.
    """
    calibration = calibrate(embedded.documents, transform)
    units = calibration.units(embedded.documents)
    codes, clipped = calibration.quantize(units)
    with temporary_shards(judged.ids, codes, calibration, shards) as opened:
        for shard in opened:
            shard.train()
        stages = _measure(judged, embedded, calibration, codes, opened, keep_own)
    fraction = clipped / codes.size
    return _evaluation(judged, model, calibration, shards, fraction, stages, keep_own)


def evaluate_index(
    judged: JudgedSet,
    embedded: Embedded,
    index: Path,
    manifest: Manifest,
    *,
    keep_own: bool = True,
) -> Evaluation:
    """Measure a finished index of exactly this corpus, without changing it.

    ``keep_own`` as in `evaluate`. Raises InvalidRequest if it has other documents; otherwise as
    ``Shard`` does.
    """
    calibration = manifest.calibration
    codes, clipped = calibration.quantize(calibration.units(embedded.documents))
    with _opened(index, manifest) as opened:
        _check_same_documents(judged, opened, index)
        stages = _measure(judged, embedded, calibration, codes, opened, keep_own)
    model = "none" if manifest.model is None else manifest.model.name
    fraction = clipped / codes.size
    return _evaluation(judged, model, calibration, manifest.shards, fraction, stages, keep_own)


def check_index(judged: JudgedSet, index: Path, manifest: Manifest) -> None:
    """Raises as ``evaluate_index`` does, before anything was encoded for it."""
    with _opened(index, manifest) as shards:
        _check_same_documents(judged, shards, index)


@contextlib.contextmanager
def _opened(index: Path, manifest: Manifest) -> Iterator[list[Shard]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for number in range(manifest.shards):
            folder = shard_folder(index, number)
            opened.append(Shard(folder, manifest.calibration, manifest.identity(number)))
            stack.callback(opened[-1].close)
        yield opened


def _evaluation(
    judged: JudgedSet,
    model: str,
    calibration: Calibration,
    shards: int,
    clipped_fraction: float,
    stages: dict[str, dict[str, float]],
    keep_own: bool,
) -> Evaluation:
    left_out = frozenset[str]() if keep_own else judged.own_ids
    return Evaluation(
        dataset=judged.name,
        model=model,
        documents=len(judged.ids),
        queries=len(judged.queries),
        shards=shards,
        dimension=calibration.dimension,
        transform=calibration.transform.value,
        clipped_fraction=round(clipped_fraction, 6),
        stages=stages,
        left_out=len(left_out),
        left_out_relevant=sum(judged.qrels[name].get(name, 0) > 0 for name in left_out),
        unanswerable=judged.unanswerable,
        without_text=judged.without_text,
    )


def _check_same_documents(judged: JudgedSet, shards: Sequence[Shard], index: Path) -> None:
    found = 0
    for number, places in Placement(len(shards)).by_owner(judged.ids).items():
        mine = [judged.ids[place] for place in places.tolist()]
        (there,) = shards[number].foresee([Delete(mine)])
        found += there.count(WriteStatus.DELETED)
    held = sum(shard.status().documents for shard in shards)
    if not found == held == len(judged.ids):
        raise InvalidRequest(
            f"{index} has {held} documents, {found} of them among the {len(judged.ids)} of "
            f"{judged.name}; give an index of that corpus alone, or none"
        )


# --- what is measured ----------------------------------------------------------------------------


def _measure(
    judged: JudgedSet,
    embedded: Embedded,
    calibration: Calibration,
    codes: NDArray[np.int8],
    shards: Sequence[Shard],
    keep_own: bool,
) -> dict[str, dict[str, float]]:
    """Every stage, cheapest first."""
    own = frozenset[str]() if keep_own else judged.own_ids
    depth = TOP_K + bool(own)

    def named(found: Iterable[Iterable[int]]) -> list[list[str]]:
        """The ids of the rows found for each query, without its own."""
        answers = [[judged.ids[row] for row in rows] for rows in found]
        return without_own(judged.query_ids, answers, own)

    fp32 = named(_exact_by_id(judged, embedded, depth))
    stages = {"fp32": {"ndcg@10": ndcg(judged.qrels, judged.query_ids, fp32)}}

    def add(name: str, answers: Rankings, **more: float) -> None:
        stages[name] = {
            "ndcg@10": ndcg(judged.qrels, judged.query_ids, answers),
            "recall@10": recall(fp32, judged.query_ids, answers),
            **more,
        }

    parts = list(Placement(len(shards)).by_owner(judged.ids).values())
    coded = [CodedDocuments(calibration, codes[rows]) for rows in parts]
    units = calibration.units(embedded.queries)
    for name, found in partial_answers(coded, parts, units, depth).items():
        add(name, named(found))
    excluded = [(name,) if name in own else () for name in judged.query_ids]
    search = _Search(shards, calibration, embedded.queries, excluded)
    for name, options in _searches(shards).items():
        answers, reads = search(**options)
        add(name, answers, reads=reads)
    return stages


def _exact_by_id(judged: JudgedSet, embedded: Embedded, depth: int) -> list[list[int]]:
    """The rows of the nearest documents for each query; equal scores in trec_eval's order, which is
    that of the ids, the last first.
    """
    order = sorted(range(len(judged.ids)), key=lambda row: judged.ids[row], reverse=True)
    best = exact_top(embedded.queries, embedded.documents[order], depth)
    return [[order[place] for place in places] for places in best.tolist()]


def _searches(shards: Sequence[Shard]) -> dict[str, dict[str, Any]]:
    """The options of each whole search that is measured, by stage name."""
    statuses = [shard.status() for shard in shards]
    lists = min(status.lists for status in statuses)
    rows = sum(status.rows for status in statuses) / len(shards)
    searches: dict[str, dict[str, Any]] = {
        "fixed_40": {"candidates": CANDIDATES_FIXED, "mode": Mode.EXACT},
        "final": {},
        "exhaustive": {"candidates": CANDIDATES_FIXED, "mode": Mode.EXHAUSTIVE},
    }
    for nprobe in NPROBES:
        # Fewer rows than the Hamming stage keeps would be an exact scan, not an approximate one.
        if nprobe < lists and nprobe * rows / lists >= CANDIDATES_FIXED * POOL_FACTOR:
            searches[f"{_APPROXIMATE}{nprobe}"] = {"mode": Mode.APPROXIMATE, "nprobe": nprobe}
    return searches


class _CountingLink(LocalLink):
    """A shard in this process that counts the int8 rows it gave."""

    reads = 0

    async def search(
        self, queries: Sequence[Query], timeout_s: float
    ) -> Sequence[Candidates | BitsiftError]:
        found = await super().search(queries, timeout_s)
        self.reads += sum(len(one) for one in found if isinstance(one, Candidates))
        return found


class _Search:
    """Sends all queries to the router's service at once, as precomputed embeddings."""

    def __init__(
        self,
        shards: Sequence[Shard],
        calibration: Calibration,
        queries: NDArray[np.float32],
        excluded: Sequence[tuple[str, ...]],
    ) -> None:
        """``excluded`` are the ids that are no hits, of each query."""
        self._excluded = excluded
        self._shards = shards
        self._queries = queries
        self._description = Manifest("", "", "", len(shards), calibration, None, {}, 0).describe()

    def __call__(self, **options: Any) -> tuple[list[list[str]], float]:
        """The ids found for each query, and the mean reads of a shard for a query."""
        links = [_CountingLink(shard) for shard in self._shards]
        service = SearchService(self._description, FanOut(links), None)
        found = asyncio.run(self._ask(service, options))
        reads = sum(link.reads for link in links) / len(links) / len(self._queries)
        return found, round(reads, 2)

    async def _ask(self, service: SearchService, options: dict[str, Any]) -> list[list[str]]:
        found = []
        for first in range(0, len(self._queries), _QUESTIONS_AT_ONCE):
            at_once = slice(first, first + _QUESTIONS_AT_ONCE)
            asked = zip(self._queries[at_once], self._excluded[at_once], strict=True)
            questions = [
                SearchOptions(
                    vector=vector,
                    top_k=TOP_K,
                    timeout_ms=_TIMEOUT_S * 1e3,
                    include=(),
                    require_complete=True,
                    exclude=excluded,
                    **options,
                )
                for vector, excluded in asked
            ]
            answers = await asyncio.gather(*(service.search(question) for question in questions))
            found += [[hit.id for hit in answer.hits] for answer in answers]
        return found
