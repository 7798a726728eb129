"""The first look at the sources: count their records and make the index's one calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from cluster.datasource import sample_rows
from cluster.ingest_progress import IndexStage, OnProgress
from cluster.source_plan import SourcePlan
from cluster.source_vectors import vectors_of
from cluster.worker import document_texts
from shard_worker.codes import DIMENSION_MAX, DIMENSION_MIN, Calibration, Transform, normalize
from shard_worker.errors import InvalidRequest

SAMPLE_ROWS = 4_096
"""Vectors that the calibration is made from: each further one changes its range very little."""
SAMPLE_SEED = 20_240_131


@dataclass(frozen=True, slots=True, eq=False)
class FirstLook:
    """``records`` counts good and bad ones; ``model`` is a ModelSpec as JSON, or None."""

    calibration: Calibration
    model: dict[str, Any] | None
    records: int


def first_look(
    plan: SourcePlan,
    encoder: dict[str, Any] | None,
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
    plan: SourcePlan, sample: pa.Table, encoder: dict[str, Any] | None
) -> tuple[NDArray[np.floating[Any]], dict[str, Any] | None]:
    if encoder is None:
        assert plan.expected_width is not None
        return vectors_of(sample, plan.expected_width), None
    found: tuple[NDArray[np.float32], dict[str, Any]] = ray.get(
        _encode_sample.remote(encoder, document_texts(sample))
    )
    return found


@ray.remote(num_cpus=0)
def _encode_sample(
    encoder: dict[str, Any], texts: list[str]
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The sample's vectors and the model's facts, encoded in a worker: no torch in the driver."""
    from router.encoder import Encoder

    loaded = Encoder.load(**encoder)
    return loaded.encode_documents(texts), loaded.spec.to_json()
