"""Hive partitions: fields that the folders above a file name, as in `lang=en/year=2020/p.jsonl`.

Values are percent-decoded, `__HIVE_DEFAULT_PARTITION__` is null. A field whose values are whole
numbers in all files of a plan, written without leading zeros, holds numbers; else all are strings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import unquote

from bitsift.cluster.sources.plan import SourceFile

_NULL = "__HIVE_DEFAULT_PARTITION__"
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")


def with_partitions(files: Sequence[SourceFile]) -> list[SourceFile]:
    """The same files with the fields that their folders name."""
    found = [partitions_of(file.path) for file in files]
    texts = {
        name
        for fields in found
        for name, value in fields.items()
        if value is not None and not _WHOLE.fullmatch(value)
    }
    return [
        replace(file, partitions=tuple(_typed(name, fields[name], texts) for name in fields))
        for file, fields in zip(files, found, strict=True)
    ]


def _typed(name: str, value: str | None, texts: set[str]) -> tuple[str, str | int | None]:
    return name, value if value is None or name in texts else int(value)


def partitions_of(path: str) -> dict[str, str | None]:
    """The fields that the folders of a path or URL name; the innermost folder decides."""
    fields: dict[str, str | None] = {}
    if "://" in path:
        path = path.partition("?")[0]
    for folder in path.split("/")[:-1]:
        name, equals, value = folder.partition("=")
        if name and equals:
            fields[unquote(name)] = None if value == _NULL else unquote(value)
    return fields
