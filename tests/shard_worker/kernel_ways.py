"""The ways that the nearest rows are found, each tried wherever this processor has it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from bitsift.shard_worker.native import kernels

WAYS = ("vpopcntdq", "avx2", "popcnt", "portable", "faiss")
"""The last is without a compiled kernel."""


@contextlib.contextmanager
def going(way: str) -> Iterator[None]:
    """All searches of this process go ``way`` within, "best" being the usual one. Skips the test
    where that cannot be.
    """
    with pytest.MonkeyPatch.context() as patched:
        if way == "faiss":
            patched.setattr(kernels, "_LIBRARY", None)
        elif not kernels.is_there():
            pytest.skip("no kernel was compiled here")
        elif way != "best" and not kernels.choose(way):
            pytest.skip(f"this processor lacks {way}")
        try:
            yield
        finally:
            patched.undo()
            if kernels.is_there():
                kernels.choose("best")
