"""An encoder that several indexes share: one thread at a time, for queries and for documents."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bitsift.router.model.shared import SharedEncoder
from tests.fakes import HashEncoder


class Alone(HashEncoder):
    """Notes whether two threads are in it."""

    def __init__(self) -> None:
        super().__init__(8)
        self._inside = threading.Lock()

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        assert self._inside.acquire(blocking=False), "two threads at once"
        try:
            return super().encode_queries(texts)
        finally:
            self._inside.release()

    encode_documents = encode_queries


def test_queries_and_documents_are_encoded_by_one_thread_at_a_time() -> None:
    shared = SharedEncoder(Alone())
    texts = [f"text {number}" for number in range(50)]
    expected = HashEncoder(8).encode_queries(texts)
    with ThreadPoolExecutor(4) as pool:
        calls = [shared.encode_queries, shared.encode_documents] * 20
        found = [pool.submit(call, texts) for call in calls]
        for each in found:
            np.testing.assert_array_equal(each.result(60), expected)
