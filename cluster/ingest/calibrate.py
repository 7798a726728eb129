"""The first look at the sources: count their records and make the index's one calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from bitsift.cluster.ingest.datasource import sample_rows
from bitsift.cluster.ingest.progress import IndexStage, OnProgress
from bitsift.cluster.ingest.worker import document_texts
from bitsift.cluster.sources.plan import SourcePlan
from bitsift.cluster.sources.vectors import vectors_of
from bitsift.errors import InvalidRequest
from bitsift.options import DIMENSION_MAX
from bitsift.router.description import ModelSpec
from bitsift.router.model.spec import EncoderSpec
from bitsift.router.shards.ray_calls import Callee, asked
from bitsift.shard_worker.codes import DIMENSION_MIN, Calibration, Transform, normalize

SAMPLE_ROWS = 4_096
"""Number of vectors that the calibration is made from; more change its ranges very little."""
SAMPLE_SEED = 20_240_131


@dataclass(frozen=True, slots=True, eq=False)
class FirstLook:
    """``records`` counts good and bad ones; ``model`` is None for precomputed embeddings."""

    calibration: Calibration
    model: ModelSpec | None
    records: int


def first_look(
    plan: SourcePlan,
    encoder: EncoderSpec | None,
    transform: Transform,
    on_progress: OnProgress,
) -> FirstLook:
    """Read the sources once; ``encoder`` None takes the vectors that they carry.

    Raises InvalidRequest when there is no usable document or its vectors have a width that cannot
    be used, Unavailable when the model fails.
    """
    on_progress(IndexStage("survey", 0, None, 0))
    survey = sample_rows(plan, SAMPLE_ROWS, SAMPLE_SEED)
    if survey.documents == 0:
        raise InvalidRequest(
            f"no usable document in {len(plan.files)} files: all {survey.rejects} records are bad"
        )
    on_progress(IndexStage("calibrate", 0, None, survey.rejects))
    vectors, model = _vectors(plan, survey.sample, encoder)
    dimension = vectors.shape[1]
    if not DIMENSION_MIN <= dimension <= DIMENSION_MAX:
        raise InvalidRequest(
            f"vectors of {dimension} dimensions; {DIMENSION_MIN} to {DIMENSION_MAX} can be used"
        )
    calibration = Calibration.from_sample(normalize(vectors, dimension), dimension, transform)
    return FirstLook(calibration, model, survey.documents + survey.rejects)


def _vectors(
    plan: SourcePlan, sample: pa.Table, encoder: EncoderSpec | None
) -> tuple[NDArray[np.floating[Any]], ModelSpec | None]:
    if encoder is None:
        assert plan.expected_width is not None
        return vectors_of(sample, plan.expected_width), None
    encoding = _encode_sample.remote(encoder, document_texts(sample))
    found: tuple[NDArray[np.float32], ModelSpec] = asked(encoding, Callee("the model"))
    return found


@ray.remote(num_cpus=0)
def _encode_sample(encoder: EncoderSpec, texts: list[str]) -> tuple[NDArray[np.float32], ModelSpec]:
    """The sample's vectors and the model's facts, encoded in a worker: no torch in the driver."""
    loaded = encoder.load()
    return loaded.encode_documents(texts), loaded.spec
