"""The ranges that vectors were quantized with: from numpy, from JSON, or from an index of ours.

A file of 2 x dimensions numbers, the lowest and the highest value of each, is what
sentence-transformers' `quantize_embeddings` takes and makes: 255 steps lie between them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.cluster.sources.stored_vectors import FLOATS, Ranges, Stored, VectorType
from bitsift.errors import InvalidRequest

FILE_BYTES_MAX = 16 << 20
_STEPS = 255


def stored_as(kind: VectorType | None, ranges: Path | None) -> Stored:
    """How vectors are stored, by the options of a command. Raises InvalidRequest."""
    if ranges is None:
        if kind is VectorType.UINT8:
            raise InvalidRequest("--vector-type uint8 needs --ranges FILE: 0 to 255 have no sign")
        return FLOATS if kind is None else Stored(kind)
    if kind not in (VectorType.INT8, VectorType.UINT8):
        raise InvalidRequest(f"--ranges goes with --vector-type int8 or uint8, not with {kind}")
    return Stored(kind, read_ranges(ranges))


def read_ranges(path: Path) -> Ranges:
    """The ranges in a file. Raises InvalidRequest where it has none."""
    try:
        if os.path.getsize(path) > FILE_BYTES_MAX:
            raise ValueError(f"it has more than {FILE_BYTES_MAX >> 20} MiB")
        if path.suffix.lower() == ".npy":
            low, high = _two_rows(np.load(path, allow_pickle=False))
            return _ranges(low, (high - low) / _STEPS)
        value = orjson.loads(path.read_bytes())
        if isinstance(value, dict):
            return _of_calibration(value.get("calibration", value))
        low, high = _two_rows(np.array(value))
        return _ranges(low, (high - low) / _STEPS)
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise InvalidRequest(
            f"{path} has no ranges (2 x dimensions numbers in .npy or JSON, or a manifest.json of "
            f"Bitsift): {error}"
        ) from error


def _two_rows(array: NDArray[Any]) -> NDArray[np.float64]:
    if array.ndim != 2 or array.shape[0] != 2 or array.dtype.kind not in "iuf":
        raise ValueError(f"it holds {array.dtype} of shape {array.shape}")
    return array.astype(np.float64)


def _of_calibration(found: dict[str, Any]) -> Ranges:
    if found.get("rotation_seed") is not None:
        raise ValueError("this index is rotated: export it, and index the export")
    dimension = int(found["dimension"])
    low, step = (np.array(found[name], np.float64)[:dimension] for name in ("low", "step"))
    return _ranges(low, step)


def _ranges(low: NDArray[np.float64], step: NDArray[np.float64]) -> Ranges:
    if len(low) != len(step) or not np.isfinite(low).all() or not np.isfinite(step).all():
        raise ValueError("the numbers are not finite, or not as many of both")
    if (step < 0).any():
        raise ValueError("a highest value is below the lowest of its dimension")
    return Ranges(tuple(low.tolist()), tuple(step.tolist()))
