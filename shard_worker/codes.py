"""The codes: fp32 -> int8 -> bits, and the scores computed from them. No I/O.

* **int8** is affine per dimension, ``code = clip(round((x - low) / step) - 128)``, with one
  calibration for the whole index.
* **bits** are the signs of the decoded int8 vector, so they can be rebuilt from the store.
* The three scores, cheapest first: Hamming distance (FAISS), *asymmetric* (fp32 query against the
  ±1 code) and *decoded* (fp32 query against the decoded int8 code, an estimate of the cosine).

The affine map is undone inside the query, not in the codes: with ``x = low + step*(code+128)``,
``q·x = (q*step)·(code+128) + q·low``. Multiplying the query with the raw codes instead weighs each
dimension by 1/step and can reverse the order.

Two transforms, for models that binarize badly (`bitsift doctor` says which); neither changes a
score, only the bits and what quantizing loses:
* **centring**: the bit of a dimension says which side of the centre a value lies, not of zero,
  and queries are compared with bits less the centre.
* **rotation**: one random orthonormal matrix turns documents and queries alike before all else.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import FormatMismatch, InvalidRequest
from bitsift.shard_worker.native import kernels

DIMENSION_MIN = 32
CALIBRATION_VERSION = 1
TRANSFORMED_VERSION = 2
"""Of a calibration with a transform: a program that knows of none must refuse it."""
ROTATION_SEED = 20_240_131
SMALL_SAMPLE = 1_000
"""Below this many vectors the observed range is widened: see ``Calibration.from_sample``."""
MARGIN = 1.5
"""Of a calibration for documents that are still to come: what the sample spans, half as wide again.

Measured with MiniLM and 420 dictionary glosses as the sample, on abstracts: 1.0 clips 0.8 % of the
values and costs 0.02 to 0.03 recall@10 of int8, 1.5 clips 0.01 % and costs 0.002, 2.0 some 0.003.
"""
_STEP_MIN = 1e-7
"""Step of a dimension that never varies: it then decodes to ``low`` exactly."""


def padded(dimension: int) -> int:
    """Bytes of int8 code per row: ``dimension`` rounded up to whole bytes of bits."""
    return (dimension + 7) // 8 * 8


def bad_rows(vectors: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Mark the rows of (n, dimension) that cannot be normalised: NaN, infinite or zero."""
    squares = _squared_norms(vectors)
    return np.asarray(~np.isfinite(squares) | (squares <= 0.0))


def _squared_norms(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """float64 (n,). Summed in float32, five times as fast, wherever that can hold the numbers."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if vectors.dtype != np.float32:
            return np.asarray(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        squares: NDArray[np.float64] = np.vecdot(vectors, vectors).astype(np.float64)
        rest = np.flatnonzero(~_is_ordinary(squares))
        if len(rest):
            few = vectors[rest]
            squares[rest] = np.einsum("ij,ij->i", few, few, dtype=np.float64)
    return squares


def _is_ordinary(squares: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which squared norms float32 holds with room to spare: nothing is lost by computing in it."""
    return np.asarray((squares > 1e-20) & (squares < 1e30))


def normalize(vectors: NDArray[np.floating[Any]], dimension: int) -> NDArray[np.float32]:
    """Unit vectors, float32 (n, padded(dimension)), zero in the padding.

    Raises InvalidRequest for another width or for a NaN, infinite or zero vector.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        width = vectors.shape[-1] if vectors.ndim else 0
        raise InvalidRequest(f"the vector has {width} dimensions, the index has {dimension}")
    squares = _squared_norms(vectors)
    bad = ~np.isfinite(squares) | (squares <= 0.0)
    if bad.any():
        raise InvalidRequest(
            f"vector {int(np.argmax(bad))} is zero, infinite or not a number; it has no direction"
        )
    norms = np.sqrt(squares)[:, None]
    units = np.empty((len(vectors), padded(dimension)), dtype=np.float32)
    units[:, dimension:] = 0
    if vectors.dtype == np.float32 and bool(_is_ordinary(squares).all()):
        np.divide(vectors, norms.astype(np.float32), out=units[:, :dimension])
    else:
        np.divide(vectors, norms, out=units[:, :dimension], casting="unsafe")
    return units


class Transform(StrEnum):
    """Transform applied to vectors before their signs are taken."""

    NONE = "none"
    CENTER = "center"
    ROTATE = "rotate"
    CENTER_ROTATE = "center+rotate"


@functools.lru_cache(maxsize=1)
def rotation(dimension: int, seed: int) -> NDArray[np.float32]:
    """A random orthonormal matrix float32 (dimension, dimension), the same for the same seed.

    QR of a Gaussian matrix in float64; with the signs of R's diagonal made positive the result is
    uniform over all rotations and reflections (Mezzadri 2007, arXiv:math-ph/0609050), and does not
    depend on LAPACK's choice of signs.
    """
    gaussian = np.random.RandomState(seed).standard_normal((dimension, dimension))
    orthonormal, triangular = np.linalg.qr(gaussian)
    return np.asarray(orthonormal * np.sign(np.diag(triangular)), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Calibration:
    """The affine map of every dimension: ``low`` and ``step``, float32 (width,).

    Made once from a sample and kept in the manifest; never from a query or a batch.
    Padding dimensions decode to exactly 0. ``center``, float32 (width,) or None for zero, is where
    a bit changes; ``rotation_seed`` names the rotation that ``units`` applies, None for none.
    """

    dimension: int
    low: NDArray[np.float32]
    step: NDArray[np.float32]
    center: NDArray[np.float32] | None = None
    rotation_seed: int | None = None

    def __post_init__(self) -> None:
        assert self.low.shape == self.step.shape == (self.width,), self.low.shape
        assert self.low.dtype == self.step.dtype == np.float32
        assert bool((self.step > 0).all())
        if self.center is not None:
            assert self.center.shape == (self.width,), self.center.shape
            assert self.center.dtype == np.float32
            assert not self.center[self.dimension :].any()

    @property
    def width(self) -> int:
        return padded(self.dimension)

    @property
    def transform(self) -> Transform:
        names = ["center"] if self.center is not None else []
        names += ["rotate"] if self.rotation_seed is not None else []
        return Transform("+".join(names) or "none")

    @property
    def version(self) -> int:
        return CALIBRATION_VERSION if self.transform is Transform.NONE else TRANSFORMED_VERSION

    @classmethod
    def for_any(cls, dimension: int) -> Calibration:
        """Of an index whose vectors nobody has seen: [-1, 1] holds every unit vector.

        No code decodes to 0, so no value changes its sign, and no bit is wrong. Scores are coarse:
        what that costs is in benchmarks/results/filled_live.json.
        """
        low, step = np.zeros((2, padded(dimension)), dtype=np.float32)
        low[:dimension], step[:dimension], step[dimension:] = -1, 2 / 255, _STEP_MIN
        return cls(dimension, low, step)

    @classmethod
    def from_sample(
        cls,
        units: NDArray[np.float32],
        dimension: int,
        transform: Transform = Transform.NONE,
        margin: float = 1.0,
    ) -> Calibration:
        """Calibrate to the range seen in ``units``, float32 (n, padded(dimension)) unit vectors.

        ``margin`` widens it about its middle, and to 2/sqrt(dimension) at least if it is above 1: a
        dimension that no document of the sample uses may be used by later ones.

        ``units`` are not rotated yet. The centre is their mean.
        Min/max, percentiles and k·sd measured alike, so the plain range is taken.
        A sample under ``SMALL_SAMPLE`` has not seen the range; it is widened to ±4/sqrt(dimension),
        four standard deviations of a random unit vector, so that later documents do not clip. With
        a ``margin``, only one under a quarter of that is.
        """
        seed = ROTATION_SEED if "rotate" in transform else None
        units = _rotated(units, dimension, seed)
        low = units[:, :dimension].min(axis=0)
        high = units[:, :dimension].max(axis=0)
        if len(units) < (SMALL_SAMPLE if margin == 1 else SMALL_SAMPLE // 4):
            spread = np.float32(4 / np.sqrt(dimension))
            low, high = np.minimum(low, -spread), np.maximum(high, spread)
        if margin > 1:
            reach = np.maximum((high - low) * (margin / 2), 1 / np.sqrt(dimension))
            low, high = (low + high) / 2 - reach, (low + high) / 2 + reach
        padding = padded(dimension) - dimension
        low = np.pad(low, (0, padding)).astype(np.float32)
        high = np.pad(high, (0, padding)).astype(np.float32)
        step = np.maximum((high - low) / 255, _STEP_MIN).astype(np.float32)
        center = units.mean(axis=0, dtype=np.float64).astype(np.float32)
        return cls(dimension, low, step, center if "center" in transform else None, seed)

    def units(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Vectors (n, dimension) as this index has them: ``normalize``, then the rotation, if any.

        float32 (n, width). Documents and queries go through it alike. Raises InvalidRequest.
        """
        return _rotated(normalize(vectors, self.dimension), self.dimension, self.rotation_seed)

    def centered(self, units: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries (…, width) as they are compared with bits: less the centre, of the same shape.

        With a strong common part in all vectors, ``q·b`` is mostly the noise of the bits along it;
        ``(q - centre)·b`` is not. MiniLM's vectors of XQuAD plus twice a random unit vector,
        recall@10 of the funnel: 0.87 without centring, 0.99 with it.
        """
        return units if self.center is None else units - self.center

    def query_bits(self, units: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Packed bits of query vectors (n, width), as ``units`` gives them: uint8 (n, width/8)."""
        return query_bits(self.centered(units))

    @functools.cached_property
    def bit_thresholds(self) -> NDArray[np.int16]:
        """The smallest code of each dimension above the centre, int16 (width,), ≤ 128."""
        decoded = self.decode(np.arange(-128, 128, dtype=np.int8)[:, None])
        center = np.float32(0) if self.center is None else self.center
        return np.asarray((decoded <= center).sum(axis=0, dtype=np.int16) - 128, dtype=np.int16)

    def quantize(self, units: NDArray[np.float32]) -> tuple[NDArray[np.int8], int]:
        """int8 codes (n, width) of unit vectors (n, width), and how many values clipped."""
        if kernels.is_there():
            return kernels.quantize(units, None, self.low, self.step)
        levels = units - self.low
        levels /= self.step
        np.rint(levels, out=levels)
        clipped = 0
        if levels.min(initial=0) < 0 or levels.max(initial=0) > 255:
            clipped = int(np.count_nonzero((levels < 0) | (levels > 255)))
            np.clip(levels, 0, 255, out=levels)
        levels -= 128
        return levels.astype(np.int8), clipped

    def codes(self, vectors: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int8], int]:
        """``quantize`` of ``units``: of vectors (n, dimension). Raises InvalidRequest."""
        is_plain = vectors.dtype == np.float32 and self.rotation_seed is None
        if kernels.is_there() and is_plain and vectors.shape[1:] == (self.dimension,):
            squares = _squared_norms(vectors)
            if bool(_is_ordinary(squares).all()):
                norms = np.sqrt(squares).astype(np.float32)
                return kernels.quantize(vectors, norms, self.low, self.step)
        return self.quantize(self.units(vectors))

    def decode(self, codes: NDArray[np.int8]) -> NDArray[np.float32]:
        """The vectors that codes (n, width) stand for, float32 (n, width)."""
        return self.low + self.step * (codes.astype(np.float32) + np.float32(128))

    def vectors(self, codes: NDArray[np.int8]) -> NDArray[np.float32]:
        """What ``units`` was given, normalised, as codes (n, width) have it: float32 (n,
        dimension), each number up to half a ``step`` from it (before a rotation) unless it was
        clipped.
        """
        decoded = np.ascontiguousarray(self.decode(codes)[:, : self.dimension])
        if self.rotation_seed is None:
            return decoded
        return decoded @ rotation(self.dimension, self.rotation_seed).T

    def bits(self, codes: NDArray[np.int8]) -> NDArray[np.uint8]:
        """Packed signs of the decoded codes less the centre: uint8 (n, width/8)."""
        return np.packbits(codes >= self.bit_thresholds, axis=1)

    def scores(self, query: NDArray[np.float32], codes: NDArray[np.int8]) -> NDArray[np.float32]:
        """Decoded scores float32 (n,) of ``query`` (width,) against ``codes`` (n, width).

        Summed in float64 and rounded once, so that a row's score does not depend on which other
        rows are scored with it: ties stay ties for every shard count.
        """
        wide = query.astype(np.float64)
        folded = wide * self.step
        offset = wide @ self.low + 128 * folded.sum()
        if kernels.is_there():
            return kernels.scores(codes, folded, offset)
        return np.asarray(codes.astype(np.float64) @ folded + offset, dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        data = {
            "version": self.version,
            "dimension": self.dimension,
            "low": self.low.tolist(),
            "step": self.step.tolist(),
        }
        if self.version == TRANSFORMED_VERSION:
            data["center"] = None if self.center is None else self.center.tolist()
            data["rotation_seed"] = self.rotation_seed
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Calibration:
        """Raises FormatMismatch for a version that this program does not know."""
        if data["version"] not in (CALIBRATION_VERSION, TRANSFORMED_VERSION):
            raise FormatMismatch(
                f"calibration version {data['version']}, this program reads "
                f"{CALIBRATION_VERSION} and {TRANSFORMED_VERSION}"
            )
        low = np.array(data["low"], dtype=np.float32)
        step = np.array(data["step"], dtype=np.float32)
        center = data.get("center")
        return cls(
            data["dimension"],
            low,
            step,
            None if center is None else np.array(center, dtype=np.float32),
            data.get("rotation_seed"),
        )


def _rotated(units: NDArray[np.float32], dimension: int, seed: int | None) -> NDArray[np.float32]:
    """``units`` (n, padded(dimension)) turned by the rotation of ``seed``; the padding stays 0."""
    if seed is None:
        return units
    turned = np.zeros_like(units)
    np.matmul(units[:, :dimension], rotation(dimension, seed), out=turned[:, :dimension])
    return turned


def query_bits(units: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Packed signs of query vectors (n, width): uint8 (n, width/8)."""
    return np.packbits(units > 0, axis=1)


@functools.cache
def _byte_signs() -> NDArray[np.float32]:
    """The ±1 signs of every byte, float32 (8, 256)."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return np.ascontiguousarray((bits.astype(np.float32) * 2 - 1).T)


def partial_sums(query: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each byte of a code adds to its asymmetric score: float32 (width/8, 256)."""
    return np.asarray(query.reshape(-1, 8) @ _byte_signs())


def asymmetric_scores(query: NDArray[np.float32], bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """fp32 query (width,) against ±1 codes packed in ``bits`` (n, width/8): float32 (n,).

    One table of 256 partial sums per byte position, then a gather, summed in float64 and rounded
    once: the same code always gets the same score, wherever it stands in the batch.
    """
    table = partial_sums(query)
    if kernels.is_there():
        return kernels.estimates(table, bits)
    positions = np.arange(bits.shape[1], dtype=np.intp) * 256
    parts = table.ravel().take(bits + positions)
    return np.asarray(parts.sum(axis=1, dtype=np.float64), dtype=np.float32)


def best_first(
    scores: NDArray[np.floating[Any]], ties: NDArray[np.int64], count: int
) -> NDArray[np.intp]:
    """Positions of the ``count`` highest scores, best first; equal scores by ascending ``ties``."""
    if len(scores) > 4 * count:
        cut = np.partition(scores, len(scores) - count)[len(scores) - count]
        kept = np.flatnonzero(scores >= cut)
        return kept[_ranked(scores[kept], ties[kept])[:count]]
    return _ranked(scores, ties)[:count]


def _ranked(scores: NDArray[np.floating[Any]], ties: NDArray[np.int64]) -> NDArray[np.intp]:
    """The order of all ``scores``. One key is sorted in a third of the time that two take."""
    order = np.argsort(-scores)
    ranked = scores[order]
    if (ranked[1:] == ranked[:-1]).any():
        return np.lexsort((ties, -scores))
    return order
