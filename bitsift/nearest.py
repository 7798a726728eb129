"""Which name is meant by one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def no_such_key(what: str, key: str, known: Collection[str], otherwise: str) -> str:
    """That there is no ``what`` called ``key``, such as ``serve.prot``, and which is meant.

    The same name in another table comes first, then the nearest of ``known``. ``otherwise`` is
    said where none is near.
    """
    name = key.rpartition(".")[2]
    same = [other for other in known if "." in other and other.rpartition(".")[2] == name]
    return _no_such(what, same[:1] or difflib.get_close_matches(key, known, 1), otherwise)


def nearest(name: str, known: Collection[str]) -> str | None:
    """Which of ``known`` may be meant by ``name``."""
    return next(iter(difflib.get_close_matches(name, known, 1)), None)


def no_such_name(what: str, name: str, known: Collection[str], otherwise: str) -> str:
    """The same for a name that belongs to no table."""
    return _no_such(what, difflib.get_close_matches(name, known, 1), otherwise)


def _no_such(what: str, meant: list[str], otherwise: str) -> str:
    return f"there is no such {what}; " + (f"did you mean {meant[0]}?" if meant else otherwise)
