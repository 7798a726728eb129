"""How long the passages of a build are, as the caller says it; cluster/ingest/chunks.py cuts them.

Commands take it as an option also where nothing is installed that reads sources.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitsift.errors import InvalidRequest

if TYPE_CHECKING:
    from bitsift.router.model.tokens import Tokens

CHUNK_TOKENS_MIN = 16
CHUNK_TOKENS_MAX = 8_192
_FORM = re.compile(r"tokens=(\d{1,9})(?:,overlap=(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Chunking:
    """Passages of ``tokens`` at most; the next one repeats up to ``overlap`` of them."""

    tokens: int
    overlap: int = 0

    @classmethod
    def parse(cls, text: str) -> Chunking:
        """From ``tokens=200,overlap=40``. Raises ValueError."""
        found = _FORM.fullmatch(text.replace(" ", ""))
        if found is None:
            raise ValueError(
                "expected tokens=N or tokens=N,overlap=M, such as tokens=200,overlap=40"
            )
        chunking = cls(int(found[1]), int(found[2] or 0))
        if not CHUNK_TOKENS_MIN <= chunking.tokens <= CHUNK_TOKENS_MAX:
            raise ValueError(
                f"passages have {CHUNK_TOKENS_MIN} to {CHUNK_TOKENS_MAX:,} tokens, not "
                f"{chunking.tokens:,}"
            )
        if chunking.overlap > chunking.tokens // 2:
            raise ValueError("passages overlap by half of their tokens at most")
        return chunking

    def __str__(self) -> str:
        return f"tokens={self.tokens},overlap={self.overlap}"

    def check(self, tokens: Tokens, model: str) -> None:
        """Raises InvalidRequest where the model cannot count, or reads less than a passage."""
        if not tokens.can_count:
            raise InvalidRequest(
                f"the tokenizer of the model {model!r} does not say where tokens lie: index "
                "without --chunk, or cut the texts yourself"
            )
        if tokens.limit is not None and self.tokens + tokens.of_prompt() > tokens.limit:
            raise InvalidRequest(
                f"--chunk tokens={self.tokens}: the model {model!r} reads {tokens.limit} tokens, "
                f"of which its prompt and marks take {tokens.of_prompt()}: at most "
                f"tokens={tokens.limit - tokens.of_prompt()}"
            )
