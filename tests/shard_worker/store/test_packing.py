"""The layout of rows in LMDB values, as version 1 of the format has it."""

from __future__ import annotations

import hashlib

import google_crc32c
import numpy as np
import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bitsift.shard_worker.operations import Insert
from bitsift.shard_worker.store.packing import (
    id_keys,
    pack_codes,
    pack_documents,
    pack_keys,
    row_salt,
    sum_of,
)


@pytest.mark.parametrize("length", [0, 1, 20, 40, 41, 42, 43, 44, 45, 46, 80, 5_000])
def test_a_document_of_any_size_is_a_checksum_and_a_zstd_frame(length: int) -> None:
    text = ("words " * 1_000)[:length]
    codes = np.zeros((2, 8), dtype=np.int8)
    documents = Insert(["é", "b"], ["", ""], ["", text], ["", '{"n":1}'], [5, 6], codes)
    ((key, value),) = pack_documents(documents, [1], 300)
    assert int.from_bytes(key, "big") == 300
    salt = int(row_salt(np.array([300]))[0])
    assert google_crc32c.value(value[4:]) ^ salt == int.from_bytes(value[:4], "little")
    body = zstandard.ZstdDecompressor().decompress(value[4:])
    assert orjson.loads(body) == ["b", "", text, '{"n":1}', 6]
    assert len(value) < 200


def test_codes_are_followed_by_their_checksums() -> None:
    codes = np.random.default_rng(0).integers(-128, 128, (3, 40), dtype=np.int8)
    records = pack_codes(codes[::-1], 7)
    for row, (record, code) in enumerate(zip(records, codes[::-1], strict=True), start=7):
        assert record[:40].tobytes() == code.tobytes()
        salt = int(row_salt(np.array([row]))[0])
        crc = google_crc32c.value(code.tobytes()) ^ salt
        assert record[40:].tobytes() == crc.to_bytes(4, "little")


def test_the_key_of_an_id_is_its_hash() -> None:
    names = ["a", "ü", ""]
    expected = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    assert pack_keys(id_keys(names)) == expected


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=10, max_size=40), st.integers(0, 8))
def test_the_sum_of_a_set_is_that_of_its_parts_however_few(numbers: list[int], few: int) -> None:
    whole = np.array(numbers, dtype=np.uint64)
    assert sum_of(whole) == (sum_of(whole[:few]) + sum_of(whole[few:])) % (1 << 64)
    assert sum_of(whole) == sum(sum_of(whole[at : at + 1]) for at in range(len(whole))) % (1 << 64)
