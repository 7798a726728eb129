"""The first look at the sources: count their records and make the index's one calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from bitsift.cluster.ingest.chunking import Chunking
from bitsift.cluster.ingest.chunks import chunked
from bitsift.cluster.ingest.datasource import sample_rows
from bitsift.cluster.ingest.model_width import check_model_width
from bitsift.cluster.ingest.progress import IndexStage, OnProgress
from bitsift.cluster.ingest.worker import document_texts
from bitsift.cluster.sources.plan import SourcePlan
from bitsift.cluster.sources.vectors import vectors_of
from bitsift.errors import InvalidRequest
from bitsift.options import DIMENSION_MAX
from bitsift.router.description import ModelSpec
from bitsift.router.model.blank import known_rows
from bitsift.router.model.spec import EncoderSpec
from bitsift.router.shards.ray_calls import Callee, asked
from bitsift.shard_worker.codes import DIMENSION_MIN, Calibration, Transform, normalize

if TYPE_CHECKING:
    from bitsift.router.model.encoder import Encoder

SAMPLE_ROWS = 4_096
"""Number of vectors that the calibration is made from; more change its ranges very little."""
SAMPLE_SEED = 20_240_131
MODEL = Callee("the model")
MODEL_TIMEOUT_S = 6 * 3_600.0
"""To load it, from its hub where it was never loaded before, and to encode the sample."""


@dataclass(frozen=True, slots=True, eq=False)
class FirstLook:
    """``records`` counts good and bad ones; ``model`` is None where none was asked for."""

    calibration: Calibration
    model: ModelSpec | None
    records: int


class NoDocuments(InvalidRequest):
    """The sources have no usable document."""


def first_look(
    plan: SourcePlan,
    encoder: EncoderSpec | None,
    transform: Transform,
    on_progress: OnProgress,
    chunking: Chunking | None = None,
) -> FirstLook:
    """Read the sources once, after the model was loaded: what is wrong with it is known first.

    Where the sources carry vectors, ``encoder`` is the model of queries in text, or None. Raises
    InvalidRequest when there is no usable document, its vectors have a width that cannot be used or
    another one than those of the model; Unavailable when the model fails.
    """
    model = None if encoder is None else SampleModel(encoder, chunking)
    spec, note = (None, "") if model is None else model.load(plan.expected_width)
    on_progress(IndexStage("survey", 0, None, 0, note))
    survey = sample_rows(plan, SAMPLE_ROWS, SAMPLE_SEED)
    if survey.documents == 0:
        raise NoDocuments(
            f"no usable document in {len(plan.files)} files: all {survey.rejects} records are bad"
        )
    on_progress(IndexStage("calibrate", 0, None, survey.rejects))
    if plan.expected_width is not None:
        vectors = vectors_of(survey.sample, plan.expected_width)
    else:
        assert model is not None
        vectors = model.encode(survey.sample)
    dimension = vectors.shape[1]
    if not DIMENSION_MIN <= dimension <= DIMENSION_MAX:
        raise InvalidRequest(
            f"vectors of {dimension} dimensions; {DIMENSION_MIN} to {DIMENSION_MAX} can be used"
        )
    calibration = Calibration.from_sample(normalize(vectors, dimension), dimension, transform)
    return FirstLook(calibration, spec, survey.documents + survey.rejects)


class SampleModel:
    """The model in a worker, so that the driver has no torch; it ends with this object."""

    def __init__(self, encoder: EncoderSpec, chunking: Chunking | None) -> None:
        self._actor = cast(Any, _ModelActor).remote(encoder, chunking)

    def load(self, width: int | None) -> tuple[ModelSpec, str]:
        """Its facts, and a line about it for people.

        Raises InvalidRequest where there is no such model, or where it is of another ``width`` than
        the vectors of the sources, if they have any.
        """
        spec: ModelSpec
        spec, prompts = asked(self._actor.load.remote(), MODEL, MODEL_TIMEOUT_S)
        check_model_width(spec, width)
        return spec, f"model {spec.name}, {spec.dimension} dimensions: {prompts}"

    def encode(self, records: pa.Table) -> NDArray[np.float32]:
        """float32 (n, dimension) of records, or of as many passages of them."""
        found: NDArray[np.float32] = asked(
            self._actor.encode.remote(records), MODEL, MODEL_TIMEOUT_S
        )
        return found


@ray.remote(num_cpus=0)
class _ModelActor:
    """Loaded by a call, not by the constructor: Ray restarts an actor whose constructor raised."""

    def __init__(self, encoder: EncoderSpec, chunking: Chunking | None) -> None:
        self._spec = encoder
        self._chunking = chunking
        self._encoder: Encoder | None = None

    def load(self) -> tuple[ModelSpec, str]:
        encoder = self._loaded()
        if self._chunking is not None:
            self._chunking.check(encoder.tokens, encoder.spec.name)
        return encoder.spec, encoder.prompts_said

    def encode(self, records: pa.Table) -> NDArray[np.float32]:
        """Of those that the model has a vector for."""
        encoder = self._loaded()
        if self._chunking is not None:
            passages = chunked(records, encoder.tokens, self._chunking)
            passages = passages.filter(passages["reject"].is_null())
            if len(passages):
                every = -(-len(passages) // SAMPLE_ROWS)
                records = passages.take(pa.array(range(0, len(passages), every)))
        vectors = encoder.encode_documents(document_texts(records))
        return known_rows(vectors, self._spec.name)

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self._spec.load()
        return self._encoder
