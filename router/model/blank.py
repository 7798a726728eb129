"""Texts of which nothing is left for a model: it would map all of them to the same vector."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import InvalidRequest
from bitsift.shard_worker.codes import bad_rows

NO_VECTOR = "the model has no vector for this text: it knows nothing of what is left of it"
"""Why a query or a document cannot be taken; its caller must change it."""

_LOOK_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols that show nothing: fillers of Hangul, and the empty pattern of Braille."""
_NOT_SEEN = "CMZ"
"""Categories of Unicode: controls, zero-width and unassigned characters, marks that combine with
a letter, spaces."""


def is_blank(text: str, has_tokens: Callable[[str], bool]) -> bool:
    """Whether ``text`` shows no character, or the model has no token for any of it.

    A text with a letter or a digit has some: ``has_tokens`` is asked about others alone.
    """
    if any(character.isalnum() and character not in _LOOK_BLANK for character in text):
        return False
    if not any(map(_is_seen, text)):
        return True
    return not has_tokens(text)


def known_rows(vectors: NDArray[np.float32], model: str) -> NDArray[np.float32]:
    """Those rows that the model has for a sample of texts. Raises InvalidRequest where it has
    none.
    """
    found = vectors[~bad_rows(vectors)]
    if not len(found):
        raise InvalidRequest(
            f"the model {model!r} has no vector for any of {len(vectors):,} texts: it returns NaN "
            "or zeros; give texts that it knows, or another model"
        )
    return found


def _is_seen(character: str) -> bool:
    return character not in _LOOK_BLANK and unicodedata.category(character)[0] not in _NOT_SEEN
