"""JSON cut into records: any layout, any block size, and damage that costs one record."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.sources import json_values
from bitsift.cluster.sources.json_values import Value, cut_values
from bitsift.cluster.sources.streams import LINE_BYTES_MAX, TOO_LONG, DamagedStream


def cut(text: str | bytes, size: int = 1 << 20) -> list[Value]:
    data = text.encode() if isinstance(text, str) else text
    return list(cut_values(data[at : at + size] for at in range(0, len(data), size)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), max_size=5)


@given(RECORDS, st.sampled_from([None, 0, 1, 4]), st.booleans(), st.integers(1, 60))
def test_any_layout_cut_into_any_blocks_gives_the_records(
    records: list[object], indent: int | None, is_array: bool, size: int
) -> None:
    text = json.dumps(records, indent=indent, ensure_ascii=False)
    if not is_array:
        text = "\n".join(json.dumps(record, indent=indent) for record in records)
    assert [json.loads(value.data or b"") for value in cut(text, size)] == records


@given(st.binary(max_size=60), st.integers(1, 20))
def test_no_bytes_raise_or_go_on_for_ever(data: bytes, size: int) -> None:
    for value in cut(b"[" + data, size):
        assert (value.data is None) != (value.reason is None)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("text", "good", "lines"),
    [
        ('[{"a":[1},{"b":2}]', ['{"a":[1}', '{"b":2}'], []),
        ('[\n {"a":{"x":1},\n {"b":2}\n]', ['{"b":2}'], [2]),
        ('[{"a":"x},\n{"b":2},\n{"c":3}]', ['{"b":2}', '{"c":3}'], [1]),
        ('[\n  {\n    "a": "x" y",\n    "c": {\n}\n  },\n  {"b":2}\n]', ['{"b":2}'], [2]),
        (
            '[\n  {"a": "x,\n    "c": [\n    {"d": 1}\n  ]},\n  {"b":2}\n]',
            ['{"b":2}'],
            [2],
        ),
        ('[{"a":1}', ['{"a":1}'], [1]),
        ('{"a":1}\n{"b":', ['{"a":1}'], [2]),
        ('[{"a": 1} {"b": 2},, null]', ['{"a": 1}', '{"b": 2}', "null"], []),
        ('[{"a":1}]\n[{"b":1}]', ['{"a":1}', '{"b":1}'], []),
        ("  \n", [], []),
    ],
)
def test_what_is_broken_costs_itself(
    text: str, good: list[str], lines: list[int], size: int
) -> None:
    values = cut(text, size)
    assert [value.data.decode() for value in values if value.data is not None] == good
    assert [value.line for value in values if value.data is None] == lines


def test_a_record_without_end_says_how_much_is_passed_over() -> None:
    (bad, _) = cut('[{"a":"x},{"b":2}]')
    assert bad.reason == "broken JSON: the file ends within this record; 17 bytes are passed over"


def test_a_record_of_an_array_over_the_limit_is_rejected_without_being_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert f"longer than {LINE_BYTES_MAX >> 20} MiB" in TOO_LONG
    monkeypatch.setattr(json_values, "LINE_BYTES_MAX", 100)
    fits, beyond = '{"a":"' + "x" * 92 + '"}', '{"a":"' + "x" * 93 + '"}'
    assert len(fits) == 100
    for size in (1, 10, 1000):
        values = cut(f'[{fits},{beyond},{{"b":[{{}}]}}]', size)
        assert [value.data and len(value.data) for value in values] == [100, None, 10]
        assert values[1].reason == TOO_LONG


def test_the_rest_of_a_damaged_stream_is_said_with_its_line() -> None:
    def blocks() -> Iterator[bytes]:
        yield b'[{"a":1},\n{"b":'
        raise DamagedStream("cut off")

    values = cut_values(blocks())
    assert next(values).line == 1
    with pytest.raises(DamagedStream) as raised:
        next(values)
    assert raised.value.line == 2
