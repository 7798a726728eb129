"""Freed memory goes back to the system after a large answer.

glibc keeps what a thread freed in that thread's heap, where other threads cannot use it: large
answers, made in many threads, left up to 167 MB behind (tests/router/http/worst_answers.py).
"""

from __future__ import annotations

import ctypes


def give_back() -> bool:
    """Return freed pages of all heaps; some ms. False where the C library cannot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1
