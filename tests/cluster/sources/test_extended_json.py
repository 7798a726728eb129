"""Exports of MongoDB: typed values as what they stand for."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from bitsift.cluster.sources.extended_json import without_types
from bitsift.cluster.sources.plan import Fields
from tests.source_files import put, read


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"$oid": "507f1f77bcf86cd799439011"}, "507f1f77bcf86cd799439011"),
        ({"$date": "2020-01-02T03:04:05Z"}, "2020-01-02T03:04:05Z"),
        ({"$date": {"$numberLong": "1577934245678"}}, "2020-01-02T03:04:05.678Z"),
        ({"$date": -1000}, "1969-12-31T23:59:59Z"),
        ({"$numberLong": "9007199254740993"}, 9007199254740993),
        ({"$numberInt": "-5"}, -5),
        ({"$numberDouble": "0.5"}, 0.5),
        ({"$numberDecimal": "1.10"}, "1.10"),
        ({"$uuid": "x"}, "x"),
        (
            {"$binary": {"base64": "EjRWeBI0VngSNFZ4EjRWeA==", "subType": "04"}},
            "12345678-1234-5678-1234-567812345678",
        ),
        ({"$binary": {"base64": "AAE=", "subType": "00"}}, "AAE="),
        ({"$timestamp": {"t": 1, "i": 2}}, "1970-01-01T00:00:01Z"),
        ({"$regularExpression": {"pattern": "a", "options": "i"}}, "/a/i"),
        ({"a": [{"$numberInt": "1"}, {"b": {"$oid": "c"}}]}, {"a": [1, {"b": "c"}]}),
        ({"$numberLong": "many"}, {"$numberLong": "many"}),
        ({"$date": {"$numberLong": "9" * 30}}, {"$date": {"$numberLong": "9" * 30}}),
        ({"$date": None}, {"$date": None}),
        ({"$binary": "x"}, {"$binary": "x"}),
        ({"$oid": "a", "b": 1}, {"$oid": "a", "b": 1}),
        ({"$other": 1}, {"$other": 1}),
    ],
)
def test_a_typed_value_is_what_it_stands_for(value: Any, expected: Any) -> None:
    assert without_types(value) == expected


ROWS = [
    {"_id": {"$oid": f"{row:024x}"}, "text": "words", "n": {"$numberLong": "7"},
     "v": [{"$numberDouble": "0.5"}, {"$numberDouble": "1.0"}]}
    for row in range(3)
]  # fmt: skip


@pytest.mark.parametrize("is_array", [False, True])
def test_an_export_of_mongodb_is_read(tmp_path: Path, is_array: bool) -> None:
    lines = b"".join(orjson.dumps(row) + b"\n" for row in ROWS)
    path = put(tmp_path, orjson.dumps(ROWS) if is_array else lines, ".json")
    rows = read(path, fields=Fields(vector="v"))
    assert [row["id"] for row in rows] == [f"{row:024x}" for row in range(3)]
    assert [row["metadata"] for row in rows] == ['{"n":7}'] * 3
    assert [row["vector"] for row in rows] == [[0.5, 1]] * 3
