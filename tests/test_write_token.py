"""A token is small, is read as it was written, and nothing else is taken for one."""

from __future__ import annotations

import base64
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift import write_token
from bitsift.checked import checked_search
from bitsift.cluster.manifest import SHARDS_MAX
from bitsift.errors import InvalidRequest
from bitsift.options import SearchOptions
from bitsift.write_token import (
    NOTHING,
    REMEMBERED_MAX,
    TOKEN_CHARACTERS_MAX,
    Reached,
    WriteToken,
    _digest,
    check_token,
    index_mark,
    joined_text,
    read_token,
)

INDEX = index_mark("one")
NOW = 1_790_000_000_000 << 16
REACHED = st.dictionaries(
    st.integers(0, SHARDS_MAX - 1),
    st.builds(Reached, st.integers(0, 1 << 40), st.integers(0, (1 << 64) - 1)),
    min_size=1,
    max_size=30,
)
TOKENS = st.builds(WriteToken, st.just(INDEX), REACHED)


@given(TOKENS)
def test_a_token_is_read_as_it_was_written(token: WriteToken) -> None:
    assert read_token(token.text()) == token


@given(TOKENS, st.data())
def test_a_token_that_is_changed_or_cut_off_is_none(token: WriteToken, data: st.DataObject) -> None:
    text = token.text()
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from([c for c in "Aa0-_ .é\n" if c != text[place]]))
    for broken in (text[:place], text[:place] + other + text[place + 1 :], text + other):
        try:
            found = read_token(broken)
        except ValueError as error:
            assert "no token" in str(error)
        else:  # the last character has bits that say nothing
            assert found == token


def _sealed(body: bytes) -> str:
    return base64.urlsafe_b64encode(body + _digest(body)).decode().rstrip("=")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01" + bytes(30),  # another format
        b"\x02",
        b"\x02" + bytes(8),
        b"\x02" + bytes(8) + b"\x00" + bytes(8),  # of no shard
        b"\x02" + bytes(8) + b"\x00" + bytes(8) + b"\x01\x00",  # a shard without a version
        b"\x02" + bytes(8) + b"\x00" + bytes(8) + b"\x01\x00\x00" + bytes(3),  # one shard twice
        b"\x02" + bytes(8) + b"\x00" + b"\xff" * 8 + b"\x00\x00\x01",  # more than 64 bits
        b"\x02" + bytes(8) + b"\xff" * 40,  # a number without an end
    ],
)
def test_what_somebody_made_up_with_the_right_digest_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="no token"):
        read_token(_sealed(body))


def _of_shards(count: int, version: int) -> str:
    reached = {shard: Reached(7 + shard % 3, version + shard % 2) for shard in range(count)}
    return WriteToken(INDEX, reached).text()


def test_a_token_names_no_more_shards_than_an_index_may_have() -> None:
    assert write_token.SHARDS_MAX == SHARDS_MAX
    assert len(read_token(_of_shards(SHARDS_MAX, NOW)).reached) == SHARDS_MAX
    with pytest.raises(ValueError, match="no token"):
        read_token(_of_shards(SHARDS_MAX + 1, NOW))


def test_tokens_that_are_remembered_take_little_ram() -> None:
    """A caller may send another one each time."""
    read_token.cache_clear()
    texts = [_of_shards(SHARDS_MAX, NOW + count) for count in range(REMEMBERED_MAX + 8)]
    tracemalloc.start()
    try:
        for text in texts:
            read_token(text)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        read_token.cache_clear()
    assert 1 << 20 < held < 16 << 20


def test_a_token_is_small() -> None:
    assert len(WriteToken(INDEX, {0: Reached(7, NOW)}).text()) < 40
    eight = {shard: Reached(7, NOW + (shard * 977 << 16)) for shard in range(8)}
    assert len(WriteToken(INDEX, eight).text()) < 110


def test_the_longest_token_is_no_longer_than_a_token_may_be() -> None:
    """Of writes within ten years, under 16,000 replica tables."""
    years = (10 * 366 * 24 * 3600 * 1000) << 16
    one_of = Reached(1 << 40, NOW), Reached((1 << 40) + (1 << 14) - 1, NOW + years)
    text = WriteToken(INDEX, {shard: one_of[shard % 2] for shard in range(SHARDS_MAX)}).text()
    assert len(text) <= TOKEN_CHARACTERS_MAX
    assert checked_search({"query": "a", "read_your_writes": text}).read_your_writes == text
    with pytest.raises(InvalidRequest, match="at most 65536 characters"):
        checked_search({"query": "a", "read_your_writes": "A" * (TOKEN_CHARACTERS_MAX + 1)})


@given(TOKENS, TOKENS)
def test_two_tokens_joined_ask_for_what_either_asks_for(one: WriteToken, two: WriteToken) -> None:
    joined = one.joined(two)
    assert joined == two.joined(one)
    for shard in one.reached.keys() | two.reached.keys():
        wanted = max(one.reached.get(shard, NOTHING), two.reached.get(shard, NOTHING))
        assert joined.reached[shard] == wanted
    assert joined_text([None, one.text(), None, two.text()]) == joined.text()


def test_after_a_reshard_only_the_token_of_the_later_table_counts() -> None:
    before = WriteToken(INDEX, {0: Reached(4, 9)})
    after = WriteToken(index_mark("two"), {3: Reached(5, 7)})
    assert before.joined(after) == after.joined(before) == after


def test_of_no_tokens_there_is_none() -> None:
    assert joined_text([]) is None
    assert joined_text([None, None]) is None


def test_a_broken_token_is_an_error_of_the_caller() -> None:
    good = WriteToken(INDEX, {0: Reached(0, 1)}).text()
    assert check_token(good) == good
    with pytest.raises(InvalidRequest, match="read_your_writes: this is no token"):
        checked_search({"query": "a", "read_your_writes": good[:-3]})
    assert SearchOptions("a", read_your_writes=good).given() == {
        "query": "a",
        "read_your_writes": good,
    }


def test_tokens_need_no_server() -> None:
    script = "import sys, bitsift.write_token; print('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "False", done.stderr
