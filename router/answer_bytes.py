"""How many bytes of documents one answer, and all answers together, may contain.

Bytes are those of the stored JSON, uncompressed: about what the documents take in the answer. In
the router's RAM they take up to eight times as much for a moment: what the shard sent, Python's
strings (four bytes a character where one is an emoji, plus their UTF-8 once they have been
written), the JSON of the answer, and what malloc keeps (heap.py gives that back).
"""

from __future__ import annotations

from bitsift.errors import InvalidRequest, Overloaded

ANSWER_BYTES_MAX = 16 << 20
"""The whole body of an answer, with those to all queries of the request."""
RAM_PER_ANSWER_BYTE = 8
"""The budget of RAM: so many bytes for one of the answer, for the moment that it is made."""
LESS_OF_A_SEARCH = "lower top_k, or send fewer queries at once"
HELD_BYTES_MAX = 64 << 20
"""Documents of all answers that are being made or sent: four of the largest."""


class ReadMemory:
    """What the answers of one router hold together; in one event loop."""

    def __init__(self, bytes_max: int = HELD_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Raises Overloaded."""
        if self.held_bytes + size_bytes > self._bytes_max:
            raise Overloaded(
                f"answers in progress already take {self.held_bytes:,} bytes of documents of at "
                f"most {self._bytes_max:,}; try again later, or ask for less"
            )
        self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes


class AnswerBytes:
    """The bytes of one answer, given back when it is closed."""

    def __init__(self, memory: ReadMemory) -> None:
        self._memory = memory
        self.used_bytes = 0

    def take(self, size_bytes: int, instead: str = LESS_OF_A_SEARCH) -> None:
        """Count documents that are about to be held. Raises InvalidRequest, which says what to ask
        for ``instead``, and Overloaded.
        """
        check_answer_bytes(self.used_bytes + size_bytes, instead)
        self._memory.take(size_bytes)
        self.used_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Documents that were counted are not held after all."""
        self._memory.give_back(size_bytes)
        self.used_bytes -= size_bytes

    def aside(self) -> AnswerBytes:
        """For what is held for a moment, and not sent."""
        return AnswerBytes(self._memory)

    def close(self) -> None:
        """Give back the bytes; idempotent."""
        self._memory.give_back(self.used_bytes)
        self.used_bytes = 0


def check_answer_bytes(size_bytes: int, instead: str = LESS_OF_A_SEARCH) -> None:
    """Raises InvalidRequest, which says what to ask for ``instead``."""
    if size_bytes > ANSWER_BYTES_MAX:
        raise InvalidRequest(
            f"the answer would hold {size_bytes:,} bytes, at most {ANSWER_BYTES_MAX:,} are sent: "
            f'leave "text" or "metadata" out of include, {instead}'
        )
