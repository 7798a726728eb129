r"""A vector that is written as text: by JSON, numpy, pgvector, PostgreSQL, Python or torch.

`[0.1, 0.2]`, `[0.1 0.2\n 0.3]`, `{0.1,0.2}`, `(0.1, 0.2)`, `0.1 0.2`, `array([0.1, 0.2])`,
`tensor([0.1])`, `[np.float32(0.1), np.float32(0.2)]`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

_SHOWN_CHARACTERS = 40
_EXACT_MAX = 2.0**53
_CALL = re.compile(r"(?:\w+\.)?(?:array|tensor)\(")
_SCALARS = re.compile(r"(?:np|numpy)\.float\d+\(([^()]*)\)")
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_WHOLE = re.compile(r"[\s,;|\d+-]*")
_SEPARATORS = str.maketrans(",;|", "   ")


def numbers_of_text(text: str) -> NDArray[Any] | str:
    """The numbers of a text, (width,), or the reason why it has none."""
    text = text.strip()
    if text.startswith("["):
        try:
            return numbers_of_list(orjson.loads(text))
        except orjson.JSONDecodeError:
            pass  # not JSON, but perhaps numpy's or Python's
    if "..." in text:
        return (
            "vector was printed with '...' in the place of numbers, which are lost: write "
            "json.dumps(vector.tolist()) in its place"
        )
    if text.startswith("{") and ":" in text:
        return "vector is sparse: only dense vectors can be indexed"
    if _CALL.match(text):
        text = text[text.find("[") : text.rfind("]") + 1]
    text = _SCALARS.sub(r"\1", text)
    closing = _BRACKETS.get(text[:1])
    if closing is not None:
        if not text.endswith(closing) or len(text) < 2:
            return f"vector begins with {text[0]} and does not end with {closing}: {_shown(text)}"
        text = text[1:-1]
    words = text.translate(_SEPARATORS).split()
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        return f"vector is a str, not a list of numbers: {_shown(text)}"
    if _is_mixed(text, len(words)):
        return (
            "vector has more than one kind of separator between its numbers (decimal commas? write "
            f"points): {_shown(text)}"
        )
    if _WHOLE.fullmatch(text) and np.abs(numbers).max(initial=0) < _EXACT_MAX:
        numbers = numbers.astype(np.int64)
    return numbers_of_list(numbers)


def _is_mixed(text: str, words: int) -> bool:
    """Whether not all words are separated by the same: `0,1; 0,2` and `0,1 0,2` are two numbers,
    and would be read as four.
    """
    marks = [mark for mark in ",;|" if mark in text]
    if len(marks) != 1:
        return bool(marks)
    return text.strip().removesuffix(marks[0]).count(marks[0]) != words - 1


def numbers_of_list(values: object) -> NDArray[Any] | str:
    """The numbers of a list, (width,), whole or not; or the reason why it has none."""
    try:
        array = np.asarray(values)
    except ValueError:
        return "vector is a nested list"
    if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in "iuf":
        return "vector is empty or holds something else than numbers"
    return array


def _shown(text: str) -> str:
    cut = text[:_SHOWN_CHARACTERS]
    return repr(cut if len(text) <= _SHOWN_CHARACTERS else f"{cut}…")
