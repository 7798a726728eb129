"""Will this model binarize? Bits and recall on a sample of the user's own texts or vectors.

Every transform is tried with every number of candidates, on one shard of the sample. What is
recommended is decided by statistics, not by eye: recall@10 is a mean over queries with an interval
from a bootstrap, and a transform is preferred only where its advantage over the simpler one, query
by query, is larger than noise (paired bootstrap, corrected for the transforms tried).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.evaluation.stages import CodedDocuments, calibrate, exact_top
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.codes import Transform, best_first
from bitsift.shard_worker.search.adaptive import rows_to_read
from bitsift.shard_worker.search.reading import POOL_ADAPTIVE
from bitsift.shard_worker.types import POOL_FACTOR

TOP_K = 10
CANDIDATES = (20, 40, 80, 160)
DOCUMENTS_MIN = 500
QUERIES_MIN = 30
BIASED_SHARE = 0.1
"""A bit is biased where the rarer of its two values is rarer than this among the documents."""
CONFIDENCE = 0.95
_RESAMPLES = 4_000
_SEED = 20_240_131

Recalls = NDArray[np.float64]
"""recall@10 of each query, (queries,)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries and its 95 % interval, by a bootstrap over queries."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BitsReport:
    """``dead`` bits never change, ``biased`` ones hardly; ``effective`` is the sum of the entropies
    of the bits: what they could tell at most, were they independent. ``worst`` are the dimensions
    of the dead and the most biased bits (10 at most; meaningless numbers after a rotation).
    """

    dead: int
    biased: int
    effective: float
    worst: list[int]


@dataclass(frozen=True, slots=True)
class TransformReport:
    """``recall`` by candidates, and ``adaptive`` where each query reads as many as it needs, which
    was ``adaptive_reads`` on average; ``ceiling`` when all int8 codes are scored, bits unused.
    ``gain_at_40`` is recall less that without a transform, of the same
    queries; above noise where its ``low`` is above 0.
    """

    bits: BitsReport
    recall: dict[int, Estimate]
    adaptive: Estimate
    adaptive_reads: float
    ceiling: float
    gain_at_40: Estimate | None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The settings to use, and the recall measured with them."""

    transform: Transform
    candidates: int
    recall: Estimate


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found. ``recommended`` is None where no setting reaches the target: see ``reason``.

    ``queries_are_documents``: held-out documents stood in for queries, which is easier.
    """

    documents: int
    queries: int
    dimension: int
    queries_are_documents: bool
    target: float
    transforms: dict[Transform, TransformReport]
    recommended: Recommendation | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Candidates and transforms become plain strings: keys of JSON objects are."""
        data = asdict(self)
        for report in data["transforms"].values():
            report["recall"] = {str(count): found for count, found in report["recall"].items()}
        data["transforms"] = {name.value: report for name, report in data["transforms"].items()}
        return data


def diagnose(
    documents: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    queries_are_documents: bool,
    target: float,
) -> Diagnosis:
    """Try every setting on ``documents`` and ``queries``, unit vectors float32 (n, dimension).

    Raises InvalidRequest for a sample that is too small to say anything.
    """
    if len(documents) < DOCUMENTS_MIN or len(queries) < QUERIES_MIN:
        raise InvalidRequest(
            f"{len(documents)} documents and {len(queries)} queries are too few; at least "
            f"{DOCUMENTS_MIN} and {QUERIES_MIN} are needed"
        )
    exact = exact_top(queries, documents, TOP_K)
    bits: dict[Transform, BitsReport] = {}
    recalls: dict[Transform, dict[int, Recalls]] = {}
    adaptive: dict[Transform, tuple[Recalls, NDArray[np.int64]]] = {}
    ceilings: dict[Transform, float] = {}
    for transform in Transform:
        calibration = calibrate(documents, transform)
        codes, _ = calibration.quantize(calibration.units(documents))
        coded = CodedDocuments(calibration, codes)
        bits[transform] = _bits_report(coded.bits, documents.shape[1])
        units = calibration.units(queries)
        recalls[transform] = _recalls(coded, units, exact)
        adaptive[transform] = _adaptive(coded, units, exact)
        by_int8 = exact_top(units, calibration.decode(codes), TOP_K)
        ceilings[transform] = round(float(np.mean(_shared(by_int8, exact))), 4)
    plain = recalls[Transform.NONE][40]
    reports = {
        transform: TransformReport(
            bits[transform],
            {count: estimate(found) for count, found in recalls[transform].items()},
            estimate(adaptive[transform][0]),
            round(float(adaptive[transform][1].mean()), 1),
            ceilings[transform],
            None if transform is Transform.NONE else _gain(recalls[transform][40], plain),
        )
        for transform in Transform
    }
    recommended = recommend(recalls, target)
    return Diagnosis(
        documents=len(documents),
        queries=len(queries),
        dimension=documents.shape[1],
        queries_are_documents=queries_are_documents,
        target=target,
        transforms=reports,
        recommended=recommended,
        reason=_reason(recommended, reports, target),
    )


def _recalls(
    coded: CodedDocuments, units: NDArray[np.float32], exact: NDArray[np.int64]
) -> dict[int, Recalls]:
    """recall@10 of every query, by candidates."""
    found = {count: np.empty(len(units)) for count in CANDIDATES}
    pools = coded.pools(units, max(CANDIDATES) * POOL_FACTOR)
    for place, (query, pool, best) in enumerate(zip(units, pools, exact, strict=True)):
        estimates = coded.asymmetric(query, pool)
        for count in CANDIDATES:
            kept = count * POOL_FACTOR
            chosen = pool[best_first(estimates[:kept], pool[:kept], count)]
            answer = chosen[best_first(coded.scores(query, chosen), chosen, TOP_K)]
            found[count][place] = _shared([answer], [best])[0]
    return found


def _adaptive(
    coded: CodedDocuments, units: NDArray[np.float32], exact: NDArray[np.int64]
) -> tuple[Recalls, NDArray[np.int64]]:
    """recall@10 of every query that reads as many codes as it needs, and how many that were."""
    found, counts = np.empty(len(units)), np.empty(len(units), dtype=np.int64)
    pools = coded.pools(units, POOL_ADAPTIVE)
    for place, (query, pool, best) in enumerate(zip(units, pools, exact, strict=True)):
        centered = coded.calibration.centered(query)
        chosen = pool[rows_to_read(centered, coded.bits[pool], pool, TOP_K)[1]]
        counts[place] = len(chosen)
        answer = chosen[best_first(coded.scores(query, chosen), chosen, TOP_K)]
        found[place] = _shared([answer], [best])[0]
    return found, counts


def _shared(
    answers: Iterable[NDArray[np.int64]], exact: Iterable[NDArray[np.int64]]
) -> list[float]:
    """Which part of each exact answer was found."""
    pairs = zip(answers, exact, strict=True)
    return [len(np.intersect1d(answer, best)) / len(best) for answer, best in pairs]


def _bits_report(bits: NDArray[np.uint8], dimension: int) -> BitsReport:
    ones = np.unpackbits(bits, axis=1)[:, :dimension].mean(axis=0)
    rarer = np.minimum(ones, 1 - ones)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -(ones * np.log2(ones) + (1 - ones) * np.log2(1 - ones))
    order = np.argsort(rarer, kind="stable")[:10]
    return BitsReport(
        dead=int((rarer == 0).sum()),
        biased=int((rarer < BIASED_SHARE).sum()),
        effective=round(float(np.nan_to_num(entropy).sum()), 1),
        worst=order[rarer[order] < BIASED_SHARE].tolist(),
    )


# --- statistics ----------------------------------------------------------------------------------


def estimate(values: Recalls, confidence: float = CONFIDENCE) -> Estimate:
    """Mean and percentile interval of a bootstrap over queries (Efron 1979)."""
    picks = np.random.default_rng(_SEED).integers(0, len(values), (_RESAMPLES, len(values)))
    means = values[picks].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(*(round(float(value), 4) for value in (values.mean(), low, high)))


def _gain(values: Recalls, others: Recalls) -> Estimate:
    """The advantage on the same queries; the interval allows for three transforms (Bonferroni)."""
    return estimate(values - others, 1 - (1 - CONFIDENCE) / (len(Transform) - 1))


def recommend(
    recalls: Mapping[Transform, Mapping[int, Recalls]], target: float
) -> Recommendation | None:
    """The simplest setting with the fewest candidates that reaches ``target`` on average.

    A transform costs time and clarity: it replaces a simpler one that reaches the target only with
    no more candidates, and an advantage beyond noise with as many. None where nothing reaches it.
    """
    chosen: Transform | None = None
    fewest: dict[Transform, int] = {}
    for transform in Transform:
        reached = [c for c in CANDIDATES if recalls[transform][c].mean() >= target]
        if not reached:
            continue
        count = fewest[transform] = min(reached)
        if chosen is None:
            # Not even the target without it; still only where it is better than none beyond noise.
            better = transform is Transform.NONE or _wins(recalls, transform, Transform.NONE, count)
        else:
            better = count <= fewest[chosen] and _wins(recalls, transform, chosen, count)
        chosen = transform if better else chosen
    if chosen is None:
        return None
    count = fewest[chosen]
    return Recommendation(chosen, count, estimate(recalls[chosen][count]))


def _wins(
    recalls: Mapping[Transform, Mapping[int, Recalls]],
    transform: Transform,
    other: Transform,
    candidates: int,
) -> bool:
    return _gain(recalls[transform][candidates], recalls[other][candidates]).low > 0


def _reason(
    recommended: Recommendation | None,
    reports: Mapping[Transform, TransformReport],
    target: float,
) -> str:
    """One sentence for the user."""
    most = max(CANDIDATES)
    best = max(reports, key=lambda transform: reports[transform].recall[most].mean)
    bits = reports[Transform.NONE].bits
    if recommended is None:
        return (
            f"no setting reaches recall@10 {target}: the best is "
            f"{reports[best].recall[most].mean:.4f} (transform {best.value}, {most} candidates); "
            f"of the bits {bits.dead} never change and {bits.biased} hardly, and without bits, by "
            f"int8 alone, recall is {reports[best].ceiling:.4f}: take another model, one trained "
            "for quantization, or a lower target"
        )
    recall = recommended.recall
    certain = (
        "" if recall.low >= target else f"; {target} is within noise; a larger sample would tell"
    )
    return (
        f"transform {recommended.transform.value} with {recommended.candidates} candidates "
        f"reaches recall@10 {recall.mean:.4f} ({recall.low:.4f} to {recall.high:.4f}){certain}"
    )
