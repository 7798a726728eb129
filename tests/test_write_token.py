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
    REMEMBERED_MAX,
    TOKEN_CHARACTERS_MAX,
    WriteToken,
    _digest,
    check_token,
    index_mark,
    joined_text,
    read_token,
)

INDEX = index_mark("one")
NOW = 1_790_000_000_000 << 16
VERSIONS = st.dictionaries(
    st.integers(0, SHARDS_MAX - 1), st.integers(0, (1 << 64) - 1), min_size=1, max_size=30
)
TOKENS = st.builds(WriteToken, st.just(INDEX), st.integers(0, 1 << 40), VERSIONS)


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
        b"\x02" + bytes(30),  # another format
        b"\x01",
        b"\x01" + bytes(8),
        b"\x01" + bytes(8) + b"\x00" + bytes(8),  # of no shard
        b"\x01" + bytes(8) + b"\x00" + bytes(8) + b"\x01",  # a shard without a version
        b"\x01" + bytes(8) + b"\x00" + bytes(8) + b"\x01\x00\x00\x00",  # one shard twice
        b"\x01" + bytes(8) + b"\x00" + b"\xff" * 8 + b"\x00\x01",  # more than 64 bits
        b"\x01" + bytes(8) + b"\xff" * 40,  # a number without an end
    ],
)
def test_what_somebody_made_up_with_the_right_digest_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="no token"):
        read_token(_sealed(body))


def _of_shards(count: int, version: int) -> str:
    return WriteToken(INDEX, 7, {shard: version + shard % 2 for shard in range(count)}).text()


def test_a_token_names_no_more_shards_than_an_index_may_have() -> None:
    assert write_token.SHARDS_MAX == SHARDS_MAX
    assert len(read_token(_of_shards(SHARDS_MAX, NOW)).versions) == SHARDS_MAX
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
    assert len(WriteToken(INDEX, 7, {0: NOW}).text()) < 40
    eight = {shard: NOW + (shard * 977 << 16) for shard in range(8)}
    assert len(WriteToken(INDEX, 7, eight).text()) < 90


def test_the_longest_token_is_no_longer_than_a_token_may_be() -> None:
    versions = {shard: (1 << 63) * (shard % 2) for shard in range(SHARDS_MAX)}
    text = WriteToken(INDEX, 1 << 60, versions).text()
    assert len(text) <= TOKEN_CHARACTERS_MAX
    assert checked_search({"query": "a", "read_your_writes": text}).read_your_writes == text
    with pytest.raises(InvalidRequest, match="at most 65536 characters"):
        checked_search({"query": "a", "read_your_writes": "A" * (TOKEN_CHARACTERS_MAX + 1)})


@given(TOKENS, TOKENS)
def test_two_tokens_joined_ask_for_what_either_asks_for(one: WriteToken, two: WriteToken) -> None:
    joined = one.joined(two)
    assert joined == two.joined(one)
    for shard in one.versions.keys() | two.versions.keys():
        wanted = max(one.versions.get(shard, 0), two.versions.get(shard, 0))
        assert joined.versions[shard] == wanted
    assert joined_text([None, one.text(), None, two.text()]) == joined.text()


def test_after_a_reshard_only_the_token_of_the_later_table_counts() -> None:
    before, after = WriteToken(INDEX, 4, {0: 9}), WriteToken(index_mark("two"), 5, {3: 7})
    assert before.joined(after) == after.joined(before) == after


def test_of_no_tokens_there_is_none() -> None:
    assert joined_text([]) is None
    assert joined_text([None, None]) is None


def test_a_broken_token_is_an_error_of_the_caller() -> None:
    good = WriteToken(INDEX, 0, {0: 1}).text()
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
