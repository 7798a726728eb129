"""A text cut into sentences, by a rule: for a highlight, where a wrong cut costs little.

A sentence ends behind ``.``, ``!``, ``?`` or ``…`` and closing quotes or brackets where white space
follows, and behind the full stops of Chinese and Japanese without it; at an empty line, and before
a line that begins a list. No sentence ends behind a single letter or a common abbreviation, nor
where a small letter follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SENTENCE_CHARACTERS_MAX = 500
"""A longer one is cut between words."""
_CLOSING = "\"'”’»)\\]"
_END = re.compile(
    rf"[.!?…]+[{_CLOSING}]*(?=\s)"  # followed by white space
    r"|[。！？｡]+[”’」』）]*"
    r"|\n\s*\n|\n(?=\s*[-*•]\s)"
)
_NO_END = re.compile(
    r"(?:^|[\s(\"'])(?:[^\W\d_]|Dr|Mr|Mrs|Ms|Prof|St|Fig|No|Nr|vs|cf|al|ca|bzw|z\.B|d\.h|e\.g|i\.e)\.$",
    re.IGNORECASE,
)
_LOOK_BACK = 8


def sentences(text: str) -> list[tuple[int, int]]:
    """Where each begins and ends, in code points, without white space around it."""
    found, start = list[tuple[int, int]](), 0
    for match in _END.finditer(text):
        if _ends(text, match):
            found += _pieces(text, start, match.end())
            start = match.end()
    return [*found, *_pieces(text, start, len(text))]


def _ends(text: str, match: re.Match[str]) -> bool:
    if match[0][0] not in ".!?…":
        return True
    following = text[match.end() :: 1][:2].lstrip()
    if following[:1].islower():
        return False
    return match[0] != "." or not _NO_END.search(
        text, max(0, match.end() - _LOOK_BACK), match.end()
    )


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The sentence from ``start`` to ``end``, none if it is blank, several if it is long."""
    while True:
        start += len(text[start:end]) - len(text[start:end].lstrip())
        if start >= end:
            return
        stop = end
        if end - start > SENTENCE_CHARACTERS_MAX:
            limit = start + SENTENCE_CHARACTERS_MAX
            stop = max(text.rfind(" ", start + 1, limit), text.rfind("\n", start + 1, limit))
            stop = limit if stop < 0 else stop
        yield start, start + len(text[start:stop].rstrip())
        start = stop
