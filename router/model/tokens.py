"""Texts as a model's own tokenizer has them, by the library under transformers' fast tokenizers:
what a compiled model reads, how many tokens a text has, and where in it each lies.

Importing transformers takes seconds; a call of ``preprocess`` for one query 93 µs, of this 16.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""What a model reads, by the name that a tokenizer gives it."""


class Tokenizer:
    """One of transformers' fast kind, without transformers. Any thread."""

    def __init__(self, packed: str, names: Sequence[str]) -> None:
        """``packed`` is what ``to_str`` gave, cut and padding included; ``names`` of FIELDS."""
        from tokenizers import Tokenizer as Backend

        self.packed = packed
        self.names = list(names)
        self._backend = Backend.from_str(packed)

    @classmethod
    def of(cls, model: Any) -> Tokenizer | None:
        """That of a loaded model as ``preprocess`` has set it; None where it is of another kind."""
        tokenizer: Any = getattr(model[0], "tokenizer", None)
        if not getattr(tokenizer, "is_fast", False):
            return None
        tokens = model.preprocess(["a text", "another text that is longer"])
        names = [name for name in FIELDS if name in tokens]
        return cls(tokenizer.backend_tokenizer.to_str(), names)

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Arrays int64 (n, tokens) by name, cut to what the model reads and padded to the longest.

        Texts with their prompt.
        """
        found = self._backend.encode_batch(list(texts))
        return {
            name: np.array([getattr(one, FIELDS[name]) for one in found], dtype=np.int64)
            for name in self.names
        }

    @functools.cached_property
    def uncut(self) -> Any:
        """The same tokenizer, which neither cuts nor pads."""
        from tokenizers import Tokenizer as Backend

        whole = Backend.from_str(self.packed)
        whole.no_truncation()
        whole.no_padding()
        return whole


class Tokens:
    """The tokens of documents of a model, which may have no tokenizer that can count."""

    def __init__(
        self, tokenizer: Tokenizer | None, prompt: str, limit: int | None, characters_max: int
    ) -> None:
        """``limit`` is how many tokens the model reads of a text with its ``prompt``, None: all.
        A text is cut to ``characters_max`` before it is tokenized.
        """
        self._characters_max = characters_max
        self._tokenizer = tokenizer
        self._prompt = prompt
        self.limit = limit

    @property
    def can_count(self) -> bool:
        """Whether the tokenizer is of transformers' fast kind, which says where tokens lie."""
        return self._tokenizer is not None

    def of_prompt(self) -> int:
        """Tokens of the prompt and of the marks that the model adds to each text."""
        return int(self.counts([""])[0])

    def has_any(self, text: str) -> bool:
        """Whether a token is made of ``text`` itself; True where that is not known."""
        return self._tokenizer is None or bool(self._tokenized([text], marks=False)[0].ids)

    def counts(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text with its prompt and the model's marks, uncut: int64 (n,)."""
        found = self._tokenized([self._prompt + text for text in texts], marks=True)
        return np.array([len(one.ids) for one in found], dtype=np.int64)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token of ``text`` begins and ends, in code points."""
        found: list[tuple[int, int]] = self._tokenized([text], marks=False)[0].offsets
        return found

    def count_cut(self, texts: Sequence[str]) -> int | None:
        """How many texts have more tokens than the model reads; None where that is not known."""
        if self.limit is None:
            return 0
        if not self.can_count:
            return None
        enormous = sum(len(text) > self._characters_max for text in texts)
        # A token has a byte at least: of short texts nothing need be counted.
        least = self.limit - self.of_prompt()
        long = [
            text
            for text in texts
            if least < len(text.encode()) and len(text) <= self._characters_max
        ]
        return enormous + (int((self.counts(long) > self.limit).sum()) if long else 0)

    def _tokenized(self, texts: list[str], *, marks: bool) -> Any:
        assert self._tokenizer is not None
        return self._tokenizer.uncut.encode_batch(texts, add_special_tokens=marks)
