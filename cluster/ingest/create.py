"""create_index: an index without documents, which is served at once and filled while it answers.

Codes need a calibration before the first document comes. With a model it is made from what the
model says of dictionary glosses that are shipped with Bitsift, or of the user's own ``sample``;
without a model and a sample it is [-1, 1], which no unit vector leaves. `bitsift reshard
--recalibrate` makes a better one of what was stored, once there is enough of it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bitsift.cluster.ingest.model_width import check_model_width
from bitsift.cluster.ingest.options import BuildOptions, checked_build
from bitsift.cluster.manifest import (
    Manifest,
    read_complete,
    read_manifest,
    report_without_records,
    write_complete,
)
from bitsift.cluster.new_index import check_new, check_shards, make_folder, make_index
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import SourcePlan
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.vectors import vectors_of
from bitsift.config.tree import DEFAULTS, Backend
from bitsift.errors import InvalidRequest
from bitsift.options import DIMENSION_MAX
from bitsift.router.description import ModelSpec
from bitsift.router.model.blank import known_rows
from bitsift.router.model.location import model_location
from bitsift.router.model.prompts import AS_SAVED, Prompts
from bitsift.router.model.spec import EncoderSpec
from bitsift.router.write.document_rules import model_text
from bitsift.shard_worker.codes import DIMENSION_MIN, MARGIN, Calibration, normalize
from bitsift.shard_worker.layout import MANIFEST_FILE

if TYPE_CHECKING:
    from bitsift.router.model.encoder import Encoder

SHIPPED_SAMPLE = Path(__file__).parents[1] / "data" / "wordnet_en.jsonl.gz"
"""Open English WordNet, CC BY 4.0: see data/LICENSE-wordnet.md."""
SAMPLE_ROWS = 512
"""At most; half as many at least where there are more, spread evenly over all."""
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class CreateReport:
    """What was made. ``sample`` is how many vectors the calibration was made from; 0: of none."""

    index: str
    index_uuid: str
    model: str | None
    dimension: int
    shards: int
    sample: int
    query_prompt: str | None = None
    document_prompt: str | None = None


def create_index(
    out: str | Path,
    *,
    model: str | None = None,
    dimensions: int | None = None,
    shards: int | None = None,
    sample: str | Path | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    index_fields: Sequence[str] = (),
    backend: Backend = DEFAULTS.model.backend,
) -> CreateReport:
    """Make the empty index ``out``: of ``model``, or of precomputed vectors of ``dimensions``; of
    both, where the vectors are those of the model.

    ``sample`` is a source of texts for a model, a .npy matrix where ``dimensions`` are given.
    ``shards`` None: one per core. ``index_fields`` are those of the metadata that filters find by
    an index; () is all. The prompts are put before each text, None: those of the model.
    Raises InvalidRequest for what cannot be, for an unknown model, and where ``out`` is an index or
    has other files in it; StorageFull, Unavailable when the model fails.
    """
    shards = shards or os.cpu_count() or 1
    check_shards(shards)
    chosen = checked_build(BuildOptions(index_fields=index_fields)).index_fields
    _check_vectors(model, dimensions)
    prompts = Prompts(query_prompt, document_prompt)
    if model is not None:
        model_location(model)
    out = Path(out).absolute()
    request = {
        "create": model or dimensions,
        "shards": shards,
        "sample": None if sample is None else str(sample),
        "index_fields": list(chosen) or None,
        "prompts": None if prompts == AS_SAVED else [query_prompt, document_prompt],
    }
    if (out / MANIFEST_FILE).exists():
        return _finish(out, read_manifest(out), request)
    check_new(out, "choose another folder")
    plan = None if sample is None else plan_sources([sample])
    spec: ModelSpec | None = None
    if model is not None:
        loaded = EncoderSpec(model, backend, prompts=prompts).load()
        spec = loaded.spec
        check_model_width(spec, dimensions)
    if model is not None and (dimensions is None or plan is None):
        calibration, rows = _of_model(loaded, plan)
    else:
        assert dimensions is not None
        calibration, rows = _of_vectors(dimensions, plan)
    make_folder(out)
    manifest = Manifest(
        uuid=str(uuid.uuid4()),
        name=out.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        shards=shards,
        calibration=calibration,
        model=spec,
        request=request | {"sampled": rows},
        records=0,
        calibrated_at=0,
        index_fields=tuple(chosen),
    )
    make_index(out, manifest)
    return _finish(out, manifest, request)


def _check_vectors(model: str | None, dimensions: int | None) -> None:
    if model is None and dimensions is None:
        raise InvalidRequest(
            "name a model for texts, --model NAME, or the number of dimensions of your own "
            "vectors, --dimensions D; both, for vectors that the model made"
        )
    if dimensions is not None:
        _check_dimension(dimensions)


def _check_dimension(dimension: int) -> None:
    if not DIMENSION_MIN <= dimension <= DIMENSION_MAX:
        raise InvalidRequest(
            f"vectors of {dimension} dimensions; {DIMENSION_MIN} to {DIMENSION_MAX} can be used"
        )


def _finish(out: Path, manifest: Manifest, request: dict[str, Any]) -> CreateReport:
    """Mark it as whole; so does a run after one that was killed before it came to that."""
    held = {name: manifest.request.get(name) for name in request}
    if read_complete(out) is not None or held != request:
        raise InvalidRequest(f"{out} is an index already; it was left untouched")
    write_complete(out, report_without_records((), manifest.calibration.dimension))
    model = manifest.model
    return CreateReport(
        index=str(out),
        index_uuid=manifest.uuid,
        model=None if model is None else model.name,
        dimension=manifest.calibration.dimension,
        shards=manifest.shards,
        sample=manifest.request["sampled"],
        query_prompt=None if model is None else model.query_prompt,
        document_prompt=None if model is None else model.document_prompt,
    )


def _of_model(loaded: Encoder, plan: SourcePlan | None) -> tuple[Calibration, int]:
    if plan is None:
        plan = plan_sources([SHIPPED_SAMPLE])
    if plan.expected_width is not None:
        raise InvalidRequest(
            "the sample for a model has to be texts; for vectors that it made, add --dimensions D"
        )
    texts = _sampled(_texts(plan))
    _check_dimension(loaded.spec.dimension)
    vectors = known_rows(loaded.encode_documents(texts), loaded.spec.name)
    return _calibrated(vectors, loaded.spec.dimension), len(texts)


def _of_vectors(dimension: int, plan: SourcePlan | None) -> tuple[Calibration, int]:
    if plan is None:
        return Calibration.for_any(dimension), 0
    if plan.expected_width != dimension:
        found = "no vectors"
        if plan.expected_width is not None:
            found = f"vectors of {plan.expected_width} dimensions"
        raise InvalidRequest(
            f"the sample has {found}; with --dimensions {dimension} it has to be a .npy matrix "
            f"of {dimension} columns"
        )
    vectors = _sampled(_vectors(plan, dimension))
    return _calibrated(np.stack(vectors), dimension), len(vectors)


def _calibrated(vectors: NDArray[np.float32], dimension: int) -> Calibration:
    return Calibration.from_sample(normalize(vectors, dimension), dimension, margin=MARGIN)


def _sampled(items: Iterable[Item]) -> list[Item]:
    found = evenly(items, SAMPLE_ROWS)
    if not found:
        raise InvalidRequest("the sample has no usable document")
    return found


def evenly(items: Iterable[Item], count: int) -> list[Item]:
    """The first of ``items`` and then each n-th, ``count`` at most: n is the least power of two
    that gives so few. One pass, in which no more are held. ``count`` is 2 at least.
    """
    kept: list[Item] = []
    every = 1
    for place, item in enumerate(items):
        if place % every == 0:
            if len(kept) == count:
                kept, every = kept[::2], every * 2
                if place % every:
                    continue
            kept.append(item)
    return kept


def _good(plan: SourcePlan) -> Iterator[pa.Table]:
    for file in plan.files:
        for table in read_documents(file):
            yield table.filter(table["reject"].is_null())


def _texts(plan: SourcePlan) -> Iterator[str]:
    """What a model is given of each good record."""
    for table in _good(plan):
        titles, texts = table["title"].to_pylist(), table["text"].to_pylist()
        yield from map(model_text, titles, texts)


def _vectors(plan: SourcePlan, dimension: int) -> Iterator[NDArray[np.float32]]:
    """The vector of each good record, float32 (dimension,)."""
    for table in _good(plan):
        for vector in vectors_of(table, dimension):
            yield vector.copy()
