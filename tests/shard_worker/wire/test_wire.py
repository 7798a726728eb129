"""What a shard is sent and sends back comes out as it went in."""

from __future__ import annotations

import dataclasses
import math
import pickle
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsift.errors import (
    BitsiftError,
    ChecksumMismatch,
    Corrupt,
    DeadlineExceeded,
    FormatMismatch,
    RequestOutcome,
)
from bitsift.filters.dates import Date
from bitsift.filters.tree import Value
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker import deadline
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.maintenance.backup import BackupFile, ShardCopy
from bitsift.shard_worker.operations import Delete, Documents, Insert
from bitsift.shard_worker.search.facets import ValueCounts
from bitsift.shard_worker.search.listing import KEY_MAX, Listed, Listing
from bitsift.shard_worker.types import (
    Candidates,
    Document,
    FilterPlan,
    Message,
    Origin,
    Plan,
    Query,
    Read,
    ShardStatus,
    Unread,
    Wanted,
)
from bitsift.shard_worker.wire.frames import (
    _HEAD,
    HEAD_BYTES,
    WIRE_VERSION,
    Kind,
    Stamp,
    framed,
    head_of,
)
from bitsift.shard_worker.wire.listing import (
    pack_listed,
    pack_listing,
    unpack_listed,
    unpack_listing,
)
from bitsift.shard_worker.wire.search import (
    _COLUMNS,
    MESSAGE_S,
    AnswerPart,
    CandidatesPart,
    PlanPart,
    pack_candidates,
    pack_documents,
    pack_queries,
    pack_reads,
    unpack_candidates,
    unpack_documents,
    unpack_queries,
    unpack_reads,
)
from bitsift.shard_worker.wire.structures import Part, _classes, encode, pack_fact, unpack_fact
from bitsift.shard_worker.wire.write import (
    pack_outcomes,
    pack_writes,
    unpack_outcomes,
    unpack_writes,
)
from bitsift.sorting import SortKey
from bitsift.write_status import WriteStatus
from bitsift.write_token import Reached

WIDTH = 16
ORIGIN = Origin(replica=(1 << 64) - 1, generation=3)


def assert_same(found: object, expected: object) -> None:
    for field in dataclasses.fields(expected):  # type: ignore[arg-type]
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        assert type(ours) is type(theirs), field.name
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype


def some_candidates(count: int, seed: int) -> Candidates:
    random = np.random.default_rng(seed)
    return Candidates(
        shard=3,
        origin=ORIGIN,
        rows=random.integers(0, 2**40, count),
        distances=random.integers(0, WIDTH, count, dtype=np.int32),
        hamming_ranks=random.integers(1, 400, count, dtype=np.int32),
        estimates=random.standard_normal(count).astype(np.float32),
        scores=random.standard_normal(count).astype(np.float32),
        codes=random.integers(-128, 128, (count, WIDTH), dtype=np.int8),
        corrupt=seed % 2,
        documents={5: Document("five", "", "text", {"n": 1})} if seed % 2 else {},
        plan=FilterPlan(Plan.GATHER, 1 << 40, seed % 3 or None) if seed % 2 else None,
        rows_there=1 << 40 if seed % 2 else None,
    )


def test_queries_keep_every_field() -> None:
    random = np.random.default_rng(0)
    options = [
        {},
        {"candidates": 7, "mode": Mode.EXHAUSTIVE, "nprobe": 9, "top_k": 77},
        {"mode": Mode.APPROXIMATE, "explain": True},
        {"include": ["title"], "query": "a text"},
    ]
    queries = [
        Query(
            SearchOptions(vector=random.standard_normal(WIDTH).astype(np.float32), **given),  # type: ignore[arg-type]
            documents_bytes_max=place,
            documents_max=place or None,
        )
        for place, given in enumerate(options)
    ]
    for found, expected in zip(unpack_queries(pack_queries(queries)), queries, strict=True):
        assert_same(found.options, expected.options)
        assert found.documents_bytes_max == expected.documents_bytes_max
        assert found.documents_max == expected.documents_max


def test_listings_keep_every_field() -> None:
    fields = frozenset(["title"])
    asked = Listing('{"a":1}', KEY_MAX, 7, Wanted(fields, 9), Reached(3, 1 << 63), facets=["a.b"])
    places = ((1, True), (2, 1.0), (2, 5e-324), (3, b"\xff"), (4, -(1 << 62)), None)
    keys = [SortKey("a"), SortKey("b.c", descending=True)]
    ordered = Listing(after=7, limit=1, sort=keys, behind=places[:2])
    for listing in (asked, ordered, Listing()):
        found = unpack_listing(pack_listing(listing))
        for field in dataclasses.fields(Listing):
            if field.name != "deadline":
                ours, theirs = getattr(found, field.name), getattr(listing, field.name)
                several = field.name in ("facets", "sort")
                assert theirs == (type(theirs)(ours) if several else ours), field.name
    document = Document("five", "", "text", {"n": 1})
    for listed in (Listed(9, [0, KEY_MAX], [document, document], KEY_MAX - 1), Listed(0)):
        found_listed = unpack_listed(pack_listed(listed))
        assert (found_listed.matching, found_listed.upto) == (listed.matching, listed.upto)
        assert list(found_listed.keys) == list(listed.keys)
        assert list(found_listed.documents) == list(listed.documents)
    sorted_ones = Listed(1, [5], [document], 5, places=[places], upto_places=places)
    found_listed = unpack_listed(pack_listed(sorted_ones))
    assert repr(found_listed.places) == repr([places])
    assert repr(found_listed.upto_places) == repr(places)
    values: list[tuple[Value, int]] = [
        ("x", 3),
        (True, 1),
        (1, 1),
        (1.5, 2),
        (1 << 63, 1),
        (Date(-1), 1),
    ]
    counted = Listed(9, facets=[ValueCounts(values, False), ValueCounts([])])
    for found_facet, facet in zip(
        unpack_listed(pack_listed(counted)).facets, counted.facets, strict=True
    ):
        assert repr(found_facet) == repr(facet)  # True and 1 are equal


def test_a_filter_applied_in_a_way_that_is_not_known_here_is_not_explained() -> None:
    unknown = PlanPart("by a release to come", 7)
    answers: list[Any] = [AnswerPart(3, 1, 0, 0, 0, {}, unknown), AnswerPart(3, 1, 0, 0, 0, {})]
    body = encode(CandidatesPart(answers, [b""] * len(_COLUMNS)))
    for found in unpack_candidates(framed(Kind.CANDIDATES, body)):
        assert isinstance(found, Candidates)
        assert found.plan is None
        assert found.rows_there is None  # as of a shard of before


def test_a_query_that_several_shards_are_asked_is_packed_once_while_it_is_fresh() -> None:
    alone = a_query(Deadline.after(5.0))
    asked = dataclasses.replace(alone, message=Message())
    branched = dataclasses.replace(asked, deadline=asked.deadline.branch())  # to other replicas
    packed = pack_queries([asked])
    assert pack_queries([branched]) is packed
    assert pack_queries([alone])[HEAD_BYTES + 16 :] == packed[HEAD_BYTES + 16 :]
    assert len(unpack_queries(pack_queries([asked, asked]))) == 2
    time.sleep(2 * MESSAGE_S)
    later = pack_queries([asked])
    assert head_of(later, Kind.QUERIES).left_s < head_of(packed, Kind.QUERIES).left_s


@pytest.mark.parametrize("counts", [[5], [0], [3, 0, 40, 1], [0, 0]])
def test_candidates_keep_every_field_whatever_their_number(counts: list[int]) -> None:
    answers = [some_candidates(count, seed) for seed, count in enumerate(counts)]
    late = DeadlineExceeded("too late")
    packed = pack_candidates([late, *answers, late])
    first, *all_found, last = unpack_candidates(packed)
    assert [str(first), str(last)] == ["too late"] * 2
    for found, sent in zip(all_found, answers, strict=True):
        assert_same(found, dataclasses.replace(sent, codes=np.empty((len(sent), 0), np.int8)))


def test_documents_and_the_errors_between_them_keep_their_places() -> None:
    first = Document("1", "title", "text 🕷️", {"tags": ["a", 1.5, None], "deep": {"b": True}}, 12)
    error = ChecksumMismatch("row 7 of shard 3 is damaged")
    late = DeadlineExceeded("too late")
    packed = pack_documents([[first, error, Unread(99)], late, [], [first]])
    found = unpack_documents(packed)
    assert isinstance(found[0], list)
    assert (found[0][0], found[0][2], found[2], found[3]) == (first, Unread(99), [], [first])
    assert isinstance(found[0][1], ChecksumMismatch)
    assert found[0][1].message == error.message
    assert isinstance(found[1], DeadlineExceeded)
    assert unpack_documents(pack_documents([])) == []


def test_what_crosses_is_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SearchOptions(vector=np.ones(WIDTH, dtype=np.float32))
    query = Query(options, deadline=Deadline.after(5.0))
    packed = pack_queries([query])
    packed_read = pack_reads([Read(ORIGIN, [1, 2], Wanted(frozenset(), 7), Deadline.after(3.0))])
    time.sleep(0.3)  # as a call that waits in a queue of the same machine
    (found,), (read,) = unpack_queries(packed), unpack_reads(packed_read)
    assert 0 < found.deadline.remaining_s() <= 4.7
    assert 0 < read.deadline.remaining_s() <= 2.7
    assert (read.origin, read.rows) == (ORIGIN, [1, 2])
    assert read.wanted == Wanted(frozenset(), 7)
    monkeypatch.setattr(deadline, "_BOOT", b"another machine!")  # whose clock counts from elsewhere
    (found,) = unpack_queries(packed)
    assert 4.9 < found.deadline.remaining_s() <= 5.0


# --- frames and structures -----------------------------------------------------------------------

STAMP = Stamp(replica=0xFEDC_BA98_7654_3210, clock=0xF123_4567_89AB_CDEF)
MESSAGES: dict[Kind, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
    Kind.QUERIES: (
        lambda: pack_queries([a_query(Deadline.after(5.0))], STAMP),
        unpack_queries,
    ),
    Kind.CANDIDATES: (lambda: pack_candidates([some_candidates(3, 1)], STAMP), unpack_candidates),
    Kind.READS: (
        lambda: pack_reads([Read(ORIGIN, [1], deadline=Deadline.after(5.0))], STAMP),
        unpack_reads,
    ),
    Kind.DOCUMENTS: (lambda: pack_documents([[Unread(7)]], STAMP), unpack_documents),
    Kind.WRITES: (lambda: pack_writes([Delete(["a"])], STAMP), unpack_writes),
    Kind.HINTS: (
        lambda: pack_writes([Delete(["a"])], STAMP, Kind.HINTS),
        lambda data: unpack_writes(data, Kind.HINTS),
    ),
    Kind.OUTCOMES: (lambda: pack_outcomes([[WriteStatus.CREATED]], STAMP), unpack_outcomes),
    Kind.LISTING: (
        lambda: pack_listing(Listing(deadline=Deadline.after(5.0)), STAMP),
        unpack_listing,
    ),
    Kind.LISTED: (lambda: pack_listed(Listed(7), STAMP), unpack_listed),
    Kind.FACTS: (
        lambda: pack_fact(ShardStatus(3, "READY"), STAMP),
        lambda data: unpack_fact(data, ShardStatus),
    ),
}
every_message = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)


def a_query(deadline: Deadline) -> Query:
    return Query(SearchOptions(vector=np.ones(WIDTH, dtype=np.float32)), deadline=deadline)


@every_message
def test_every_message_says_who_sends_it_what_is_left_and_the_newest_version(kind: Kind) -> None:
    pack, unpack = MESSAGES[kind]
    head = head_of(pack(), kind)
    assert (head.kind, head.stamp) == (kind, STAMP)
    waits = kind in (Kind.QUERIES, Kind.READS, Kind.LISTING)
    assert 4.0 < head.left_s <= 5.0 if waits else head.left_s == math.inf
    assert head.sent[0] == deadline._BOOT
    unpack(pack())


@every_message
@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_message_of_another_version_is_refused_and_says_who_must_act(
    kind: Kind, version: int
) -> None:
    pack, unpack = MESSAGES[kind]
    data = pack()
    behind = "its sender" if version < WIRE_VERSION else "this process"
    said = rf"wire version {version}, this process reads version 1: update and restart {behind}"
    for rest in (data[3:], data[3:60], b"", b"\xc1" * 90):  # it is not read any further
        with pytest.raises(FormatMismatch, match=said) as raised:
            unpack(data[:2] + bytes([version]) + rest)
    assert raised.value.outcome is RequestOutcome.NOT_DONE


@every_message
def test_a_message_of_before_there_were_versions_is_refused(kind: Kind) -> None:
    _, unpack = MESSAGES[kind]
    for old in (pickle.dumps(([1.0], [None]), 5), b"", b"B"):
        with pytest.raises(FormatMismatch, match="no wire version"):
            unpack(old)


@every_message
def test_a_message_of_another_kind_or_cut_off_is_refused(kind: Kind) -> None:
    pack, unpack = MESSAGES[kind]
    other = next(one for one in Kind if one is not kind)
    with pytest.raises(Corrupt, match=f"message of {kind.name}, got {other.name}"):
        unpack(MESSAGES[other][0]())
    data = pack()
    for end in (3, 20, 51, 52, len(data) - 1):
        with pytest.raises(Corrupt):
            unpack(data[:end])
    with pytest.raises(Corrupt):
        unpack(data[:3] + b"\xff" + data[4:])


def test_a_shard_refuses_a_message_with_an_option_that_it_does_not_know() -> None:
    pack, _ = MESSAGES[Kind.QUERIES]
    plain = msgspec.msgpack.decode(pack()[HEAD_BYTES:])
    plain[0][0][2]["filter"] = {"year": 1999}  # of a newer router
    newer = framed(Kind.QUERIES, msgspec.msgpack.encode(plain))
    with pytest.raises(FormatMismatch, match=r"filter.*update and restart this process"):
        unpack_queries(newer)
    del plain[0][0][2]["filter"]
    (found,) = unpack_queries(framed(Kind.QUERIES, msgspec.msgpack.encode(plain)))
    assert found.options.top_k == 10


def test_a_field_that_is_added_at_the_end_is_passed_over() -> None:
    (item,) = unpack_documents(pack_documents([[Unread(7)]]))
    plain = msgspec.msgpack.decode(pack_documents([[Unread(7)]])[HEAD_BYTES:])
    plain[0][1][0].append("of a newer shard")
    assert unpack_documents(framed(Kind.DOCUMENTS, msgspec.msgpack.encode(plain))) == [item]


STORED = ("ids", "titles", "texts", "metadata", "positions", "codes", "version")


def test_the_fields_of_each_structure_and_their_order_are_those_of_version_1() -> None:
    """Another order is read as other values, without an error: it needs another version."""
    assert WIRE_VERSION == 1
    assert {part.__name__: part.__struct_fields__ for part in parts_of(Part)} == {
        "ErrorPart": ("name", "message", "outcome", "retry_after_s"),
        "DocumentPart": ("id", "title", "text", "metadata", "position", "size_bytes", "code",
            "version",
        ),
        "QueryPart": ("left_s", "documents_bytes_max", "options", "documents_max"),
        "QueriesPart": ("queries", "vectors"),
        "PlanPart": ("kind", "matching", "least"),
        "AnswerPart": (
            "shard", "replica", "generation", "count", "corrupt", "documents", "plan", "rows_there",
        ),
        "CandidatesPart": ("answers", "columns"),
        "ReadPart": ("left_s", "replica", "generation", "rows", "fields", "bytes_max"),
        "UnreadPart": ("size_bytes",),
        "ListingPart": (
            "filter", "after", "limit", "fields", "bytes_max", "term", "version", "facets",
            "sort", "behind",
        ),
        "FacetPart": ("values", "counts", "is_exact"),
        "ListedPart": (
            "matching", "keys", "documents", "upto", "facets", "places", "upto_places",
        ),
        "FoundPart": ("items",),
        "_DocumentsPart": STORED,
        "UpsertPart": STORED,
        "InsertPart": STORED,
        "DeletePart": ("ids", "version"),
        "ConfirmPart": ("ids", "digests", "version"),
        "ResumePart": ("ids", "positions", "version"),
        "UpsertIfPart": (*STORED, "expected"),
            "DeleteIfPart": ("ids", "version", "expected"),
            "StatusesPart": ("statuses", "versions"),
    }  # fmt: skip
    assert list(_COLUMNS) == ["rows", "distances", "hamming_ranks", "estimates", "scores"]
    assert _HEAD.format == "<2sBBdQQ16sd"


def parts_of(kind: type[Part]) -> list[type[Part]]:
    found = []
    for narrower in kind.__subclasses__():
        found += [narrower, *parts_of(narrower)]
    return found


def test_arrays_that_arrive_lie_as_numpy_and_faiss_want_them() -> None:
    (query,) = unpack_queries(pack_queries([a_query(Deadline())]))
    (found,) = unpack_candidates(pack_candidates([some_candidates(5, 1)]))
    assert isinstance(found, Candidates)
    for array in (query.vector, found.rows, found.distances, found.estimates, found.scores):
        assert array.flags.aligned
        assert array.flags.c_contiguous


@pytest.mark.parametrize("kind", sorted(_classes(BitsiftError).values(), key=str))
def test_errors_keep_their_class_their_outcome_and_when_to_ask_again(
    kind: type[BitsiftError],
) -> None:
    error = kind("what to do 🕷️").with_outcome(RequestOutcome.DONE)
    error.retry_after_s = 7.5
    for sent in (error, kind("plain")):
        (found,) = unpack_documents(pack_documents([sent]))
        assert type(found) is kind
        assert (found.message, found.outcome, found.retry_after_s) == (
            sent.message, sent.outcome, sent.retry_after_s,
        )  # fmt: skip


def test_an_error_of_a_class_that_is_not_known_names_it() -> None:
    plain = msgspec.msgpack.decode(pack_documents([DeadlineExceeded("late")])[HEAD_BYTES:])
    plain[0][1] = "OfTheFuture"
    (found,) = unpack_documents(framed(Kind.DOCUMENTS, msgspec.msgpack.encode(plain)))
    assert isinstance(found, BitsiftError)
    assert found.message == "OfTheFuture: late"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.text(), st.text(), st.dictionaries(st.text(), json_values), st.integers(-3, 2**62))
def test_whatever_a_document_holds_comes_out_as_it_went_in(
    document_id: str, text: str, metadata: dict[str, object], position: int
) -> None:
    sent = Document(document_id, text, text, metadata, position, 12)
    assert unpack_documents(pack_documents([[sent]])) == [[sent]]


def test_writes_keep_every_column() -> None:
    codes = np.arange(48, dtype=np.int8).reshape(6, 8)[::2]  # not contiguous
    sent = Insert(("a", "b", "c"), ["t"] * 3, ["🕷️"] * 3, ["{}"] * 3, range(3), codes, 7)
    nothing = Insert([], [], [], [], [], np.empty((0, 8), np.int8))
    first, second, third = unpack_writes(pack_writes([sent, Delete(("x",)), nothing]))
    assert isinstance(first, Documents)
    np.testing.assert_array_equal(first.codes, codes)
    assert (first.ids, first.positions, first.version) == (["a", "b", "c"], [0, 1, 2], 7)
    assert second == Delete(["x"])
    assert len(third) == 0


def test_facts_of_another_release_are_read_as_far_as_they_are_known() -> None:
    status = ShardStatus(3, "READY", rows=7, writes_stopped="the disk")
    assert unpack_fact(pack_fact(status), ShardStatus) == status
    known = {"shard": 3, "state": "READY", "of_a_newer_release": 1}
    newer = framed(Kind.FACTS, msgspec.msgpack.encode(known))
    assert unpack_fact(newer, ShardStatus) == ShardStatus(3, "READY")
    copy = ShardCopy((BackupFile("a", 7, ("b" * 64,)),), 1, 7)
    assert unpack_fact(pack_fact(copy), ShardCopy) == copy
