"""Synthetic vectors that behave like embeddings of texts: seeded, and generated where they are
used.

A row is a path down a tree of topics, subtopics and groups, each chosen with heavy-tailed
chances, plus a spread of its subtopic's own shape; all this in a latent space of ``_LATENT``
dimensions whose axes fall off in weight. A fixed matrix takes it to ``dim`` dimensions of unequal
scale; a mean and a little noise in every dimension are added, and the row is normalised. So
neighbours exist at every distance, intrinsic dimension is low, bits are biased and correlated.

Rows come in blocks of ``BLOCK_ROWS``, each made from (seed, block number) alone: any process makes
any block without the others, and the first rows of 40 million are the 10 million of the same seed.
Equal to the last bit on one machine; between machines the matrix product may round otherwise.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import InvalidRequest

PREFIX = "synthetic:"
BLOCK_ROWS = 4_096
_CHUNK_ROWS = 512  # vectors worked on at a time, so that they stay in the cache
_LATENT = 64
_SHAPES = 1_024  # of the local spread: a subtopic takes one of so many
_FANOUT = (128, 64, 64)  # topics, subtopics of each, groups of each: half a million groups
_LEVEL_SCALE = (1.0, 0.8, 0.6)
_LOCAL_SCALE = 0.45
_NOISE = 0.3  # of a dimension's own scale
_MEAN = 0.4
_CORPUS, _QUERIES = 0, 1  # streams of random numbers
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True, slots=True)
class SyntheticSpec:
    """A corpus of ``rows`` vectors of ``dim`` dimensions; ``seed`` chooses the distribution too."""

    rows: int
    dim: int = 1_024
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> SyntheticSpec:
        """From ``synthetic:10M`` or ``synthetic:10M,dim=384,seed=7``. Raises InvalidRequest."""
        count, *options = text.removeprefix(PREFIX).split(",")
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)", count.strip().lower())
        named = dict(option.strip().partition("=")[::2] for option in options)
        known = named.keys() <= {"dim", "seed"} and all(v.isdecimal() for v in named.values())
        if found is None or not known:
            raise InvalidRequest(
                f"{text!r} is not a synthetic source; write synthetic:10M or "
                "synthetic:10M,dim=1024,seed=0"
            )
        rows = round(float(found[1]) * _UNITS[found[2]])
        spec = cls(rows, **{name: int(value) for name, value in named.items()})
        if spec.rows < 1 or not 1 <= spec.dim <= 1 << 16:
            raise InvalidRequest(f"{text!r}: at least one row and one dimension are needed")
        return spec

    def __str__(self) -> str:
        return f"{PREFIX}{self.rows},dim={self.dim},seed={self.seed}"


def synthetic_block(spec: SyntheticSpec, first: int, rows: int) -> NDArray[np.float32]:
    """Rows ``first`` … ``first + rows`` of the corpus: unit vectors, float32 (rows, dim).

    Cheapest where ``first`` and ``rows`` are multiples of ``BLOCK_ROWS``.
    """
    assert 0 <= first <= first + rows <= spec.rows, (first, rows, spec.rows)
    return _rows_of(spec, _CORPUS, first, rows)


def synthetic_queries(spec: SyntheticSpec, count: int) -> NDArray[np.float32]:
    """Further vectors of the same distribution, none in the corpus: float32 (count, dim)."""
    return _rows_of(spec, _QUERIES, 0, count)


def write_npy(spec: SyntheticSpec, path: str | Path) -> None:
    """Stream the corpus into an .npy file of float32 (rows, dim), a block at a time."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (spec.rows, spec.dim)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, spec.rows, BLOCK_ROWS):
            file.write(synthetic_block(spec, first, min(BLOCK_ROWS, spec.rows - first)).data)


def _rows_of(spec: SyntheticSpec, stream: int, first: int, rows: int) -> NDArray[np.float32]:
    vectors = np.empty((rows, spec.dim), dtype=np.float32)
    model = _mixture(spec.dim, spec.seed)
    for number in range(first // BLOCK_ROWS, -(-(first + rows) // BLOCK_ROWS)):
        start = number * BLOCK_ROWS
        random = np.random.Generator(np.random.SFC64([spec.seed, stream, number]))
        low, high = max(first, start), min(first + rows, start + BLOCK_ROWS)
        if high - low == BLOCK_ROWS:
            model.fill(random, vectors[low - first : high - first])
        else:
            block = np.empty((BLOCK_ROWS, spec.dim), dtype=np.float32)
            model.fill(random, block)
            vectors[low - first : high - first] = block[low - start : high - start]
    return vectors


@functools.lru_cache(maxsize=4)
def _mixture(dim: int, seed: int) -> _Mixture:
    return _Mixture(dim, seed)


class _Mixture:
    """What all blocks of one (dim, seed) share: about 1 MB."""

    def __init__(self, dim: int, seed: int) -> None:
        random = np.random.Generator(np.random.SFC64([seed, dim]))
        normal = functools.partial(random.standard_normal, dtype=np.float32)
        scale = np.exp(0.3 * normal(dim))
        axes = (1 + np.arange(_LATENT, dtype=np.float32)) ** -0.4
        axes /= np.sqrt((axes**2).sum())
        self.seed = np.uint64(seed)
        self.mixing = normal((_LATENT, dim)) * scale * axes[:, None]
        self.mean = _MEAN * normal(dim) * scale
        self.noise = (_NOISE * np.sqrt(3) / 128 * scale).astype(np.float32)
        shapes = np.exp(0.7 * normal((_SHAPES, _LATENT)))
        self.shapes = shapes * (_LOCAL_SCALE / np.sqrt((shapes**2).mean(axis=1, keepdims=True)))

    def fill(self, random: np.random.Generator, vectors: NDArray[np.float32]) -> None:
        """Write a whole block, float32 (BLOCK_ROWS, dim)."""
        latent = self._latent(random)
        dim = vectors.shape[1]
        noise = random.bit_generator.random_raw(BLOCK_ROWS * dim // 8).view(np.int8)
        noise = noise.reshape(BLOCK_ROWS, dim)
        buffer = np.empty((_CHUNK_ROWS, dim), dtype=np.float32)
        for start in range(0, BLOCK_ROWS, _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            chunk = vectors[part]
            np.matmul(latent[part], self.mixing, out=chunk)
            np.multiply(noise[part], self.noise, out=buffer)
            buffer += self.mean
            chunk += buffer
            norms = np.sqrt(np.einsum("ij,ij->i", chunk, chunk))
            chunk /= norms[:, None]

    def _latent(self, random: np.random.Generator) -> NDArray[np.float32]:
        latent = random.standard_normal((BLOCK_ROWS, _LATENT), dtype=np.float32)
        node = np.full(BLOCK_ROWS, self.seed)
        for level, (fanout, scale) in enumerate(zip(_FANOUT, _LEVEL_SCALE, strict=True)):
            # the square makes the first children common and the last ones rare
            child = (fanout * random.random(BLOCK_ROWS) ** 2).astype(np.uint64)
            node = _mixed(node * np.uint64(1_000_003) + child + np.uint64(level + 1))
            if level == 1:
                latent *= self.shapes[node % np.uint64(_SHAPES)]
            latent += self._centres(node) * np.float32(scale)
        return latent

    def _centres(self, node: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The place of each node, float32 (n, _LATENT), uniform of variance 1: hashed, no table."""
        counters = node[:, None] + np.arange(1, _LATENT // 8 + 1).astype(np.uint64)
        return _mixed(counters).view(np.int8) * np.float32(np.sqrt(3) / 128)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The mixer of splitmix64 (Steele, Lea, Flood 2014)."""
    mixed = state * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
