"""What `bitsift export` wrote, read again: the same documents with the same vectors.

Metadata are the text of a JSON object there, and a vector is int8 with a scale of its own, which
changes no direction.
"""

from __future__ import annotations

from typing import Any

import orjson

from bitsift.cluster.sources.plan import Fields

EXPORT_KEY = b"bitsift"
"""In the metadata of the schema of an exported Parquet file."""
EXPORT_FIELDS = Fields(id="id", title="title", text="text", vector="int8")
_SCALE = "scale"


def as_before(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a document, from a row of an export."""
    row.pop(_SCALE, None)
    metadata = row.pop("metadata", None)
    return {**row, "metadata": orjson.loads(metadata)} if metadata else row
