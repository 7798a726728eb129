"""Command-line options made from the fields of a dataclass: SearchOptions or BuildOptions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import annotated_types
import typer
from pydantic.fields import FieldInfo

from bitsift.checked import LIMIT, TOP_K
from bitsift.cluster.ingest.options import BuildOptions

QueryPrompt = Annotated[
    str | None,
    typer.Option(help="Text before each query. Default: the model's own; an empty text is none."),
]
DocumentPrompt = Annotated[
    str | None, typer.Option(help="Text before each document. Default: the model's own.")
]

_OF_SOURCES = (
    *("id_field", "text_field", "title_field", "vector_field", "vector_type", "ranges"),
    *("delimiter", "encoding", "quote", "escape", "header", "columns", "skip_lines"),
    "format",
)
NOT_OF_SOURCES = tuple(
    field.name for field in fields(BuildOptions) if field.name not in _OF_SOURCES
)
"""Options of a build that do not say how records are read."""


def with_options(kind: type, *without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of ``kind`` in place of its ``**options``.

    Type, default, limits and help are those of the field; ``without`` names fields that have no
    option of their own.
    """
    hints = get_type_hints(kind, include_extras=True)
    added = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=list(field.default) if isinstance(field.default, tuple) else field.default,
            annotation=_option(field.name, hints[field.name]),
        )
        for field in fields(kind)
        if field.name not in without
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return command

    return decorate


def _option(name: str, hint: Any) -> Any:
    """A field's annotation as Typer reads it: the same type, limits and help; and both names of
    ``top_k``.
    """
    field = FieldInfo.from_annotation(hint)
    limits: dict[str, Any] = {}
    for limit in field.metadata:
        if isinstance(limit, annotated_types.Ge):
            limits["min"] = limit.ge
        if isinstance(limit, annotated_types.Le):
            limits["max"] = limit.le
    kind: Any = field.annotation
    if get_origin(kind) is Sequence:  # of a Literal, of which Typer lists the values, or of texts
        (of,) = get_args(kind)
        values = get_args(of) if get_origin(of) is Literal else ()
        kind = list[StrEnum("Value", {it: it for it in values}) if values else str]  # type: ignore[misc]
    names = [f"--{it.replace('_', '-')}" for it in (TOP_K, LIMIT)] if name == TOP_K else []
    return Annotated[kind, typer.Option(*names, help=field.description, **limits)]
