"""How many tokens a model has for texts, by its own tokenizer, and where in a text each lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Tokens:
    """The tokenizer of a loaded model, which may have none that can count."""

    def __init__(self, model: Any, prompt: str, limit: int | None, characters_max: int) -> None:
        """``limit`` is how many tokens the model reads of a text with its ``prompt``, None: all.
        A text is cut to ``characters_max`` before it is tokenized.
        """
        self._characters_max = characters_max
        self._tokenizer = getattr(model[0], "tokenizer", None)
        self._prompt = prompt
        self.limit = limit
        if not getattr(self._tokenizer, "is_fast", False):
            self._tokenizer = None

    @property
    def can_count(self) -> bool:
        """Whether the tokenizer says where tokens lie, as those of transformers' fast kind do."""
        return self._tokenizer is not None

    def of_prompt(self) -> int:
        """Tokens of the prompt and of the marks that the model adds to each text."""
        return int(self.counts([""])[0])

    def counts(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text with its prompt and the model's marks, uncut: int64 (n,)."""
        found = self._tokenized([self._prompt + text for text in texts], True)
        return np.array([len(ids) for ids in found["input_ids"]], dtype=np.int64)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token of ``text`` begins and ends, in code points."""
        found: list[tuple[int, int]] = self._tokenized([text], False, offsets=True)[
            "offset_mapping"
        ][0]
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

    def _tokenized(self, texts: list[str], marks: bool, *, offsets: bool = False) -> Any:
        assert self._tokenizer is not None
        return self._tokenizer(
            texts,
            add_special_tokens=marks,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=offsets,
        )
