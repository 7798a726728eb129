"""Files of documents for the tests of the readers, and what comes out when they are read."""

import itertools
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from bitsift.cluster.sources.documents import SCHEMA
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.readers import read_documents

GOOD = b'{"id": "good", "text": "words"}\n'
_NUMBERS = itertools.count()
in_one_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def fresh(folder: Path, ending: str) -> Path:
    """A path that no file has yet."""
    return folder / f"file{next(_NUMBERS)}{ending}"


def put(folder: Path, content: bytes, ending: str = ".jsonl") -> Path:
    """A new file with this content."""
    path = fresh(folder, ending)
    path.write_bytes(content)
    return path


def read(path: Path, batch_rows: int = 4096, **plan: Any) -> list[dict[str, Any]]:
    """All rows of a source, planned and read; every table is checked on the way."""
    tables = []
    for file in plan_sources([path], **plan).files:
        tables += list(read_documents(file, batch_rows))
    for table in tables:
        assert table.schema.equals(SCHEMA)
        assert 0 < table.num_rows <= batch_rows
        table.validate(full=True)
    return [row for table in tables for row in table.to_pylist()]


def rejects(rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """(line, reason) of every rejected row."""
    return [(row["line"], row["reject"]) for row in rows if row["reject"] is not None]
