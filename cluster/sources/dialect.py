"""Dialects: how the rows of a text table are written, as it was said or as it was found.

Plain frozen data. `cluster.sources.sniffing` makes a `Dialect` of what the caller says (`Layout`)
and of the first rows; `cluster.sources.delimited` reads by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitsift.cluster.sources.encoding import checked_encoding

NONE = "none"
_WORDS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


@dataclass(frozen=True)
class Layout:
    """What the caller says of text tables; None, and no columns, is for the program to find out.

    `quote` and `escape` are "" where cells are not quoted, or nothing is escaped. So many
    `skip_lines` come before the header, or before the first row.
    """

    delimiter: str | None = None
    encoding: str | None = None
    quote: str | None = None
    escape: str | None = None
    header: bool | None = None
    columns: tuple[str, ...] = ()
    skip_lines: int | None = None


DETECT_LAYOUT = Layout()


@dataclass(frozen=True)
class Dialect:
    """How a text table is to be read.

    `quote` is "" where no cell is quoted; a quote in a quoted cell is doubled. `escape` is "" or
    what takes the meaning from the character after it; where nothing is quoted, it also writes
    line ends and tabs as letters, and null as ``N``. `columns` are the names of the columns where
    the first row does not say them, or where they were said. `skipped_lines` come before the first
    row. `carriage_returns`: lines end with them alone. `skips_blanks`: blanks at the start of a
    cell, before its quote as well, are no part of it.
    """

    delimiter: str = ","
    quote: str = '"'
    escape: str = ""
    has_header: bool = True
    columns: tuple[str, ...] = ()
    skipped_lines: int = 0
    carriage_returns: bool = False
    skips_blanks: bool = False


def checked_character(text: str) -> str:
    """A delimiter, quote or escape as one character; "" for "none". Raises ValueError."""
    if text.lower() == NONE:
        return ""
    found = _WORDS.get(text.lower(), text)
    if len(found) > 1 and found.startswith("\\"):
        try:
            found = found.encode("ascii").decode("unicode_escape")
        except UnicodeError:
            found = text
    if len(found) != 1 or found in "\r\n":
        raise ValueError(f"{text!r} is not one character, such as ; or tab or |")
    return found


def _checked(name: str, text: str | None) -> str | None:
    try:
        return None if text is None else checked_character(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def checked_layout(layout: Layout) -> Layout:
    """The same layout, its characters and its encoding as they are used. Raises ValueError."""
    delimiter, quote, escape = (
        _checked(name, getattr(layout, name)) for name in ("delimiter", "quote", "escape")
    )
    if delimiter == "":
        raise ValueError("delimiter: it is one character, such as ; or tab or |")
    said = [text for text in (delimiter, quote, escape) if text]
    if len(set(said)) < len(said) and quote != escape:
        raise ValueError("delimiter, quote and escape: they have to be different characters")
    if quote and quote == escape:
        escape = ""  # as PostgreSQL and DuckDB call doubled quotes
    columns = tuple(name.strip() for part in layout.columns for name in part.split(","))
    if "" in columns or len(set(columns)) < len(columns):
        raise ValueError(f"columns: each needs a name of its own, not {', '.join(columns)!r}")
    encoding = layout.encoding
    if encoding is not None:
        try:
            encoding = checked_encoding(encoding)
        except ValueError as error:
            raise ValueError(f"encoding: {error}") from error
    return replace(
        layout,
        delimiter=delimiter,
        encoding=encoding,
        quote=quote,
        escape=escape,
        columns=columns,
    )
