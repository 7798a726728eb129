"""A filter as a line of text, for shells and URLs: ``year >= 2020 and lang in [en, de]``.

    filter  = both { "or" both }
    both    = one { "and" one }
    one     = "not" one | "(" filter ")" | test
    test    = FIELD ( "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" ) VALUE
            | FIELD [ "not" ] "in" LIST | FIELD "all" LIST
            | FIELD "prefix" VALUE | FIELD "exists"
    LIST    = "[" [ VALUE { "," VALUE } ] "]", or the same in parentheses

Words of the language may be upper case. A word without quotes is what it reads as: a number as JSON
has it, true, false, null, a date (2026-01-31, 2026-01-31T08:00Z), else a string. In quotes, ' or ",
it is always a string, with a backslash before a quote or a backslash. A field is written as in
JSON, in quotes if it holds spaces or is a word of the language.

A recursive parser by hand, since the grammar has nine rules: no dependency for the base install,
and errors that say what was expected where.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from bitsift.filters.dates import date_of
from bitsift.filters.operands import FilterError, path_of, test_of
from bitsift.filters.parse import check_depth, check_nodes, join
from bitsift.filters.tree import And, Node, Not, Operator, Or, Value

LINE_CHARACTERS_MAX = 8_192
"""Of a line. Reading it takes 2 us a character, in the event loop of a router."""
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<sign>[<>=!]{1,3}|[()\[\],])
      | (?P<word>[^\s"'()\[\],<>=!]+)
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(
    r"-?(?=\.?\d)(?:0|[1-9]\d*)?(?P<fraction>\.\d+)?(?P<power>[eE][+-]?\d+)?", re.ASCII
)
_SIGNS = {
    "=": Operator.EQ,
    "==": Operator.EQ,
    "!=": Operator.NE,
    "<": Operator.LT,
    "<=": Operator.LTE,
    ">": Operator.GT,
    ">=": Operator.GTE,
}
_CONSTANTS = {"true": True, "false": False, "null": None}
_KEYWORDS = ("and", "or", "not", "in", "all", "prefix", "exists")
_LISTS = {"[": "]", "(": ")"}
_MEANT = {
    "&&": "and", "&": "and", "||": "or", "|": "or", "!": "not",
    "=>": ">=", "=<": "<=", "<>": "!=", "===": "=", "!==": "!=",
}  # fmt: skip
NUMBER_CHARACTERS_MAX = 400
"""Of a number: with more digits it is more than a float can be. A longer word is a string."""


def parse_text(text: str) -> Node:
    """The tree of a filter in this form; blank text passes everything. Raises FilterError."""
    if len(text) > LINE_CHARACTERS_MAX:
        raise FilterError(
            f"a line of {len(text):,} characters, at most {LINE_CHARACTERS_MAX:,}: send a longer "
            "filter as JSON"
        )
    reader = _Reader(text)
    if reader.now.kind == "end":
        return And()
    root = reader.either(0)
    if reader.now.kind != "end":
        raise reader.expected("and, or, or the end")
    check_nodes(root)
    return root


class _Token(NamedTuple):
    """``kind`` is the group of _TOKEN; ``at`` counts characters from 1."""

    kind: str
    text: str
    at: int

    def is_word(self, keyword: str) -> bool:
        return self.kind == "word" and self.text.lower() == keyword

    def is_sign(self, sign: str) -> bool:
        return self.kind == "sign" and self.text == sign


class _Reader:
    """Reads one token after the other; ``now`` is the next one."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self.now = next(self._tokens)

    def either(self, depth: int) -> Node:
        parts = [self._both(depth)]
        while self._skip_word("or"):
            parts.append(self._both(depth))
        return join(Or, parts)

    def _both(self, depth: int) -> Node:
        parts = [self._one(depth)]
        while self._skip_word("and"):
            parts.append(self._one(depth))
        return join(And, parts)

    def _one(self, depth: int) -> Node:
        check_depth(depth, _place(self.now))
        if self._skip_word("not"):
            return Not(self._one(depth + 1))
        if self._skip_sign("("):
            inner = self.either(depth + 1)
            if not self._skip_sign(")"):
                raise self.expected("and, or, or a closing parenthesis")
            return inner
        return self._test()

    def _test(self) -> Node:
        name = self._take_name("a field")
        path, at = path_of(name.text, _place(name)), self.now
        if at.kind == "sign" and at.text in _SIGNS:
            self._take()
            return test_of(path, _SIGNS[at.text], self._value(), _place(at))
        if self._skip_word("exists"):
            return test_of(path, Operator.EXISTS, True, _place(at))
        if self._skip_word("prefix"):
            return test_of(path, Operator.PREFIX, self._value(), _place(at))
        if self._skip_word("all"):
            return test_of(path, Operator.ALL, self._list(), _place(at))
        operator = Operator.NIN if self._skip_word("not") else Operator.IN
        if not self._skip_word("in"):
            raise self.expected("=, !=, <, <=, >, >=, in, not in, all, prefix or exists")
        return test_of(path, operator, self._list(), _place(at))

    def _list(self) -> list[Value | None]:
        closing = _LISTS.get(self.now.text) if self.now.kind == "sign" else None
        if closing is None:
            raise self.expected("a list such as [en, de]")
        self._take()
        values: list[Value | None] = []
        if self._skip_sign(closing):
            return values
        while True:
            values.append(self._value())
            if self._skip_sign(closing):
                return values
            if not self._skip_sign(","):
                raise self.expected(f"a comma or {closing}")

    def _value(self) -> Value | None:
        token = self._take_name("a value")
        return token.text if token.kind == "quoted" else _read(token.text)

    def _take_name(self, what: str) -> _Token:
        token = self.now
        if token.kind == "quoted":
            return self._take()
        if token.kind != "word":
            raise self.expected(what)
        if token.text.lower() in _KEYWORDS:
            raise self.expected(f'{what} (in quotes, "{token.text}" is one)')
        return self._take()

    def _take(self) -> _Token:
        token = self.now
        if token.kind != "end":
            self.now = next(self._tokens)
        return token

    def _skip_word(self, keyword: str) -> bool:
        return self.now.is_word(keyword) and bool(self._take())

    def _skip_sign(self, sign: str) -> bool:
        return self.now.is_sign(sign) and bool(self._take())

    def expected(self, what: str) -> FilterError:
        """That something else stands where ``what`` should."""
        token = self.now
        found = "the end" if token.kind == "end" else repr(token.text[:40])
        meant = f"; did you mean {_MEANT[token.text]}?" if token.text in _MEANT else ""
        return FilterError(f"{_place(token)}: expected {what}, not {found}{meant}")


def _place(token: _Token) -> str:
    return f"character {token.at}"


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while True:
        found = _TOKEN.match(text, at)
        if found is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise FilterError(f"character {at + 1}: a quote that is not closed")
        kind = str(found.lastgroup)
        token, at = found[kind], found.end()
        if kind == "quoted":
            token = re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
        yield _Token(kind, token, found.start(kind) + 1)


def _read(word: str) -> Any:
    """A word without quotes, as what it reads as."""
    if word.lower() in _CONSTANTS:
        return _CONSTANTS[word.lower()]
    number = _NUMBER.fullmatch(word)
    if number and len(word) <= NUMBER_CHARACTERS_MAX:
        return float(word) if number["fraction"] or number["power"] else int(word)
    return date_of(word) or word
