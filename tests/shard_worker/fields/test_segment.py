"""Segments and their columns: what they say of a filter is what the documents say."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import orjson
import pytest

from bitsift.filters.matching import matches
from bitsift.filters.operands import FilterError
from bitsift.filters.tree import Node
from bitsift.shard_worker.fields import segment as segments
from bitsift.shard_worker.fields.bounds import Bounds, Unindexed, bounds_of, full, packed, put
from bitsift.shard_worker.fields.building import COLUMN_BYTES_MIN, Builder, packed_hashes
from bitsift.shard_worker.fields.column import STRING_BYTES_MAX, Column
from bitsift.shard_worker.fields.segment import FIELD_BYTES_MAX, FIELDS_MAX, Segment, build
from tests.shard_worker.fields.labelled import node, random_documents, random_filters

Said = dict[str, Any]


class Made:
    """A segment of documents, and what it knows of filters."""

    def __init__(self, documents: dict[str, Said]) -> None:
        texts = [(name, orjson.dumps(said).decode()) for name, said in documents.items()]
        self.documents = list(documents.items())
        made, self.blocks = build(0, len(texts), texts)
        unpacked = Segment.unpacked(0, len(texts), self.blocks[0])
        assert unpacked is not None
        self.segment = unpacked
        assert self.segment.facts == made.facts
        assert dict(self.segment.columns) == dict(made.columns)

    def column(self, name: str) -> Column | None:
        number = self.segment.columns.get(name)
        if number is None and (name in self.segment.facts or not self.segment.is_complete):
            raise Unindexed
        return None if number is None else Column(self.blocks[number])

    def bounds(self, tree: Node) -> Bounds:
        return bounds_of(tree, self.column, len(self.documents))

    def of(self, written: Said | str) -> tuple[list[str], list[str]]:
        """Ids that pass, and ids of which it is not known."""
        found = self.bounds(node(written))
        return self.names(found.lower), self.names(found.doubtful)

    def names(self, bits: np.ndarray) -> list[str]:
        flags = np.unpackbits(bits, count=len(self.documents), bitorder="little")
        return [self.documents[row][0] for row in np.flatnonzero(flags)]


def of_field(*values: Any) -> Made:
    return Made({str(row): {"a": value} for row, value in enumerate(values)})


def test_of_fields_that_are_not_chosen_only_the_rows_are_counted() -> None:
    said = {"a": {"b": 1, "c": 2}, "ab": 3, "d": [4, 5]}
    texts = [(str(row), orjson.dumps(said).decode()) for row in range(3)]
    made, _ = build(0, 3, texts, ("a", "d"))
    assert set(made.columns) == {"$id", "a", "a.b", "a.c", "d"}
    assert made.facts["ab"] == {"rows": 3}
    assert made.facts["d"] == {"rows": 3, "number": 2}
    assert made.is_complete


def test_fields_that_are_not_chosen_take_no_room_from_those_that_are() -> None:
    many = {f"f{n:03}": n for n in range(FIELDS_MAX + 1)}
    texts = [("0", orjson.dumps({**many, "a": 1}).decode())]
    made, _ = build(0, 1, texts, ("a",))
    assert set(made.columns) == {"$id", "a"}
    assert len(made.facts) == FIELDS_MAX + 1
    assert not made.is_complete


@pytest.mark.parametrize("seed", range(4))
def test_what_it_says_of_random_documents_and_filters_is_what_they_say(seed: int) -> None:
    chance = random.Random(seed)
    made = Made(random_documents(chance, [str(n) for n in range(100)]))
    exact = 0
    filters = random_filters(chance, 400)
    for written in filters:
        tree = node(written)
        found = made.bounds(tree)
        truth = np.flatnonzero([matches(tree, name, said) for name, said in made.documents])
        bits = packed([truth], 100)
        assert not (found.lower & ~bits).any(), written
        assert not (bits & ~found.upper).any(), written
        assert not (found.upper & ~full(100)).any(), "beyond the last row"
        exact += np.array_equal(found.lower, found.upper)
    assert exact > len(filters) // 2


OF_A_KIND: dict[str, list[Any]] = {
    "whole": [*range(-3, 8), 2**40], "any": [0.5, -1.25, 3, 7, 2**53 + 1, 1e300, -(2**60) - 1],
    "text": ["a", "ab", "b", "ba", "c", "x" * (STRING_BYTES_MAX + 5)],
    "date": [{"$date": f"2026-01-0{day}"} for day in range(1, 8)],
    "mixed": [1, 2.5, "a", True, None, {"$date": "2026-01-03"}, 2**53 + 1],
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_A_KIND)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.9])  # few rows are numbered, many have codes
def test_a_range_is_what_both_of_its_ends_say(kind: str, several: bool, share: float) -> None:
    """Of an array one value may be above the one end, and another below the other."""
    chance, values = random.Random(kind + str(several)), OF_A_KIND[kind]

    def drawn() -> Any:
        if several and chance.random() < 0.5:
            return chance.choices(values, k=3)
        return chance.choice(values)

    rows = [{"a": drawn()} if chance.random() < share else {"b": 1} for _ in range(120)]
    made = Made({str(row): said for row, said in enumerate(rows)})
    exact = 0
    for _ in range(150):
        ends = chance.choices(values, k=2)
        low, high = chance.choice(["$gt", "$gte"]), chance.choice(["$lt", "$lte"])
        written = {"a": {low: ends[0], high: ends[1]}}
        try:
            tree = node(written)
        except FilterError:  # None and booleans have no order
            continue
        found = made.bounds(tree)
        truth = packed([np.flatnonzero([matches(tree, *it) for it in made.documents])], 120)
        assert not (found.lower & ~truth).any(), written
        assert not (truth & ~found.upper).any(), written
        exact += np.array_equal(found.lower, found.upper)
    assert exact or kind != "whole"


def test_a_long_string_is_in_doubt_only_where_it_may_pass() -> None:
    short, long = "x" * STRING_BYTES_MAX, "x" * (STRING_BYTES_MAX + 1)
    made = of_field(short, long, "y", 5)
    assert made.of({"a": short}) == (["0"], [])
    assert made.of({"a": "y"}) == (["2"], [])
    assert made.of({"a": long}) == ([], ["1"])
    assert made.of({"a": {"$prefix": "x"}}) == (["0"], ["1"])
    assert made.of({"a": {"$gte": "y"}}) == (["2"], ["1"])
    assert made.of({"a": {"$exists": True}}) == (["0", "1", "2", "3"], [])
    assert made.of({"a": {"$gt": 1}}) == (["3"], [])
    assert made.of({"$not": {"a": {"$prefix": "x"}}}) == (["2", "3"], ["1"])


def test_a_number_that_no_float_is_equal_to_is_in_doubt_only_where_it_may_pass() -> None:
    made = of_field(2**53, 2**53 + 1, 2.0**53, 7)
    assert made.of({"a": 2**53}) == (["0", "2"], [])
    assert made.of({"a": 2**53 + 1}) == ([], ["1"])
    assert made.of({"a": {"$gt": 2**53}}) == ([], ["1"])
    assert made.of({"a": {"$gte": 7.5}}) == (["0", "2"], ["1"])
    assert made.of({"a": {"$lt": 2**53 + 1}}) == (["0", "2", "3"], ["1"])


@pytest.mark.parametrize(
    "numbers",
    [[0], [255, 0], [-1, 5], [70_000, 3], [-(2**31), 2**31], [2**52, -(2**52)], [0.5, -0.25],
     [0.1, 1e300, 5e-324], [-0.0, 0.0]],
)  # fmt: skip
def test_numbers_of_every_width_are_kept_as_they_are(numbers: list[float]) -> None:
    made = of_field(*numbers)
    for row, number in enumerate(numbers):
        assert str(row) in made.of({"a": number})[0]
        expected = [str(r) for r, other in enumerate(numbers) if other > number]
        assert made.of({"a": {"$gt": number}}) == (expected, [])


def test_years_of_all_rows_take_a_byte_each() -> None:
    count = 20_000
    made = Made({str(row): {"a": 1900 + row % 120} for row in range(count)})
    assert len(made.blocks[made.segment.columns["a"]]) < count + 1_000


@pytest.mark.parametrize("count", [7, 8, 40, 300])
@pytest.mark.parametrize("gaps", [1, 2, 3])
def test_values_that_few_rows_have_are_found_as_those_that_most_have(count: int, gaps: int) -> None:
    """With codes for each row, and with rows for each value; more of them than a byte numbers."""
    for values in (range(count), [f"{row:04}" for row in range(count)]):
        said = {str(row): {"a": it} if row % gaps == 0 else {} for row, it in enumerate(values)}
        made, names = Made(said), [str(row) for row in range(0, count, gaps)]
        for row in (0, gaps, count // 2 // gaps * gaps, (count - 1) // gaps * gaps):
            here, value = str(row), values[row]
            assert made.of({"a": value}) == ([here] if row < count else [], [])
            assert made.of({"a": {"$gt": value}})[0] == [it for it in names if int(it) > row]
            assert made.of({"a": {"$lte": value}})[0] == [it for it in names if int(it) <= row]
        assert made.of({"a": {"$exists": True}})[0] == names
        assert made.of({"a": {"$in": [values[0], values[gaps]]}})[0] == ["0", str(gaps)]


@pytest.mark.parametrize("at", [0, 3, 8])
@pytest.mark.parametrize("skipped", [0, 5, 16])
def test_bits_are_put_behind_others_wherever_a_byte_begins(at: int, skipped: int) -> None:
    random = np.random.default_rng(0)
    flags, before = random.random(29) < 0.5, random.random(at) < 0.5
    bits = np.zeros(4, dtype=np.uint8)
    put(bits, 0, packed([before], at), 0, at)
    put(bits, at, packed([flags], 29), skipped, 29)
    expected = np.concatenate([before, flags[skipped:], np.zeros(32, np.bool_)])[:32]
    assert np.unpackbits(bits, bitorder="little").tolist() == expected.tolist()


def test_a_value_that_a_document_has_twice_is_kept_once() -> None:
    once, twice = of_field(["a", 1, True]), of_field(["a", "a", 1, 1.0, True, True])
    assert once.blocks == twice.blocks


def test_a_field_of_many_long_values_is_not_indexed_and_said_so() -> None:
    count = 2 * COLUMN_BYTES_MIN // 100
    texts = {str(row): {"a": f"{row:0100}", "b": row} for row in range(count)}
    made = Made(texts)
    assert made.segment.facts["a"] == {"rows": count}
    assert "a" not in made.segment.columns
    assert made.of({"a": f"{3:0100}"}) == ([], [str(row) for row in range(count)])
    assert made.of({"a": f"{3:0100}", "b": 3}) == ([], ["3"])


def test_fields_beyond_the_limit_are_looked_for_in_the_documents() -> None:
    def said(row: int) -> Said:
        return {f"f{field}": row for field in range(FIELDS_MAX + 1)}

    made = Made({str(row): said(row) for row in range(3)})
    assert not made.segment.is_complete
    assert made.of({"f0": 2}) == (["2"], [])
    assert made.of({f"f{FIELDS_MAX}": 2}) == ([], ["0", "1", "2"])
    assert made.of({"absent": 2}) == ([], ["0", "1", "2"])
    assert Made({"0": {"x" * FIELD_BYTES_MAX: 1}}).segment.is_complete
    assert not Made({"0": {"x" * (FIELD_BYTES_MAX + 1): 1}}).segment.is_complete


def test_a_document_that_cannot_be_read_is_named() -> None:
    made, _ = build(0, 3, [("a", '{"a":1}'), None, ("c", "")])
    assert list(made.unread) == [1]


def test_the_column_of_ids_is_that_of_a_builder() -> None:
    hashes = [5, 9, 5, -1, 70_000, 0]
    builder = Builder()
    for row, number in enumerate(hashes):
        if number >= 0:
            builder.add(row, [number])
    assert packed_hashes(hashes) == builder.packed(len(hashes))
    assert packed_hashes([7] * 9) == of_field(*[7] * 9).blocks[2]


def test_metadata_may_have_what_the_column_of_ids_is_called() -> None:
    made = Made({str(row): {"$id": row, "a": row} for row in range(5)})
    assert made.of({"id": "3"}) == ([], ["3"])
    assert made.of({"a": 3}) == (["3"], [])


def test_the_same_documents_make_the_same_bytes() -> None:
    documents = random_documents(random.Random(5), [str(n) for n in range(50)])
    assert Made(documents).blocks == Made(documents).blocks


def test_two_ids_of_one_hash_are_told_apart_by_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made({str(row): {} for row in range(3)})
    assert made.of({"id": "1"}) == ([], ["1"])
    monkeypatch.setattr(segments, "id_hash", lambda _: 5)
    monkeypatch.setattr("bitsift.shard_worker.fields.bounds.id_hash", lambda _: 5)
    made = Made({str(row): {} for row in range(3)})
    assert made.of({"id": "1"}) == ([], ["0", "1", "2"])
    assert made.of({"id": {"$exists": True}}) == (["0", "1", "2"], [])


def test_a_document_whose_paths_would_fill_the_memory_is_sealed_and_found() -> None:
    long = "k" * 1_000_000
    made = Made(
        {"a": {"b." + long: {f"x{n}": n for n in range(50_000)}}, "c": {"." * 1_000_000: 1}}
    )
    assert not made.segment.is_complete
    bounds = made.bounds(node({"b": {"$exists": True}}))
    assert bounds.is_exact
    assert np.unpackbits(bounds.lower, count=2, bitorder="little").tolist() == [1, 0]
