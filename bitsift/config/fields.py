"""Each setting of the tree on its own: its name, variable, flag, limits, and how it is shown."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from bitsift.config.tree import TEXTS_MAX, Flag, Named, Place, Section, Settings, Size

PREFIX = "BITSIFT_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of the tree."""

    section: str
    name: str
    field: FieldInfo

    @property
    def key(self) -> str:
        """What it is called: ``serve.port``."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"{PREFIX}{self.section}_{self.name}".upper()

    @property
    def flag(self) -> str:
        """Its flag on the command line."""
        named = [mark.name for mark in self.field.metadata if isinstance(mark, Flag)]
        return named[0] if named else f"--{self.name.replace('_', '-')}"

    @property
    def help(self) -> str:
        """A sentence, or two."""
        return self.field.description or ""

    @property
    def default(self) -> Any:
        """Its value where no source has one."""
        return self.field.default

    @property
    def type(self) -> Any:
        """The plain type of its value, None left out: ``int``, ``Path``, a Literal, …"""
        return _plain(self.field.annotation)

    @property
    def is_size(self) -> bool:
        return any(isinstance(mark, Size) for mark in self.field.metadata)

    @property
    def is_path(self) -> bool:
        """Whether it names something on disk: in a file, relative to the folder of the file."""
        return self.type is Path or any(isinstance(mark, Place) for mark in self.field.metadata)

    @property
    def needs_a_name(self) -> bool:
        """Whether a file that nobody named may not say it."""
        return any(isinstance(mark, Named) for mark in self.field.metadata)

    @property
    def is_switch(self) -> bool:
        return self.type is bool

    @property
    def is_list(self) -> bool:
        return get_origin(self.type) is tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a setting that has a few; else none."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the most of a number."""
        low = [mark.ge for mark in self.field.metadata if isinstance(mark, Ge)]
        high = [mark.le for mark in self.field.metadata if isinstance(mark, Le)]
        return (low[0], high[0]) if low and high else None  # type: ignore[return-value]

    @property
    def allowed(self) -> str:
        """What it may be, in words: ``a whole number from 0 to 65,535``."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.is_switch:
            return "true or false"
        if self.range is not None:
            low, high = (shown(self, end) for end in self.range)
            kind = "a size" if self.is_size else _NUMBERS[self.type]
            return f"{kind} from {low} to {high}"
        if self.is_list:
            return f"a list of at most {TEXTS_MAX} texts"
        return "a file" if self.type is Path else "a folder or a URL" if self.is_path else "a text"

    def of(self, settings: Settings) -> Any:
        """Its value there."""
        return getattr(getattr(settings, self.section), self.name)


_NUMBERS = {int: "a whole number", float: "a number"}
_SIZES = ((1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))


def _plain(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(annotation) if part is not type(None))
        return _plain(kind)
    return annotation


_PASSWORD = re.compile(r"//[^/@]*@")


def shown(setting: Setting, value: Any) -> str:
    """A value as a person reads it; never the password in a URL."""
    if setting.is_size:
        unit, name = next(((u, n) for u, n in _SIZES if value % u == 0), (1, ""))
        return f"{value // unit:,}{name}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        grouped = "," if value >= 10_000 else ""
        return format(value, grouped if isinstance(value, int) else f"{grouped}g")
    return _PASSWORD.sub("//***@", str(value))


def _settings() -> Iterator[Setting]:
    for section, table in Settings.model_fields.items():
        kind = table.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Section)
        for name, field in kind.model_fields.items():
            yield Setting(section, name, field)


SETTINGS = tuple(_settings())
BY_KEY = {setting.key: setting for setting in SETTINGS}
BY_VARIABLE = {setting.variable: setting for setting in SETTINGS}
