"""What is put before a query and before a document: what the caller says, else what the model's
saved prompts say.

sentence-transformers takes "document" for documents, and an empty one is there even where the model
saved none: so "passage", the word of the E5 family, is never reached. Here an empty prompt says
nothing, and the next word is tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitsift.errors import InvalidRequest

PROMPT_CHARACTERS_MAX = 2_000
"""Instructions of models have some hundred; what is put before each text is encoded with it."""
_QUERY_WORDS = ("query", "question")
_DOCUMENT_WORDS = ("document", "passage", "corpus", "doc", "text")
_TASKS = ("", "retrieval", "search")
"""Words that stand before these where a model saves prompts for several tasks."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The text before a query and before a document. None: what the model says; "": nothing."""

    query: str | None = None
    document: str | None = None

    def check(self) -> None:
        """Raises InvalidRequest where one is too long."""
        for kind, prompt in (("query", self.query), ("document", self.document)):
            if prompt is not None and len(prompt) > PROMPT_CHARACTERS_MAX:
                raise InvalidRequest(
                    f"the {kind} prompt has {len(prompt):,} characters, at most "
                    f"{PROMPT_CHARACTERS_MAX:,}"
                )


AS_SAVED = Prompts()


def settled(given: Prompts, saved: Mapping[str, str | None]) -> tuple[str, str]:
    """The prompts of queries and of documents, "" for none, of a model that ``saved`` some."""
    query, document = given.query, given.document
    if query is None:
        query = _saved_as(_QUERY_WORDS, saved)
    if document is None:
        document = _saved_as(_DOCUMENT_WORDS, saved)
    return query, document


def said(query: str, document: str, saved: Mapping[str, str | None]) -> str:
    """The prompts in words, and the names of others that the model saved."""
    used = (query, document)
    others = sorted(name for name, prompt in saved.items() if prompt and prompt not in used)
    unused = f"; the model's other prompts are not used: {', '.join(others)}" if others else ""
    return f"prompt of queries {_shown(query)}, of documents {_shown(document)}{unused}"


def _shown(prompt: str) -> str:
    return repr(prompt) if prompt else "none"


def _saved_as(words: tuple[str, ...], saved: Mapping[str, str | None]) -> str:
    """The first of ``words`` that says something, by itself and then behind the name of a task."""
    by_name = {_plain(name): prompt for name, prompt in saved.items() if prompt}
    for task in _TASKS:
        for word in words:
            if prompt := by_name.get(f"{task} {word}".strip()):
                return prompt
    return ""


def _plain(name: str) -> str:
    """Of "retrieval.passage", "Retrieval-passage" and "retrieval_passage" the same."""
    for mark in "._-":
        name = name.replace(mark, " ")
    return name.lower()
