"""Encodings: detected by what a file begins with, named by what people call them."""

import codecs
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.sources.encoding import checked_encoding, detected_encoding, utf8_blocks
from bitsift.cluster.sources.streams import DamagedStream

TABLE = "id,text\n1,prénom\n2,日本語\n" * 3


def read(data: bytes, encoding: str = "", size: int = 3) -> bytes:
    parts = (data[start : start + size] for start in range(0, len(data), size))
    return b"".join(utf8_blocks(parts, encoding))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("size", [1, 2, 5, 1 << 20])
def test_unicode_encodings_are_detected(encoding: str, size: int) -> None:
    assert read(TABLE.encode(encoding), size=size) == TABLE.encode()


def test_the_other_byte_order_and_utf32_are_detected_by_their_marks() -> None:
    assert read(codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be")) == TABLE.encode()
    assert read(TABLE.encode("utf-32")) == TABLE.encode()
    assert read(codecs.BOM_UTF32_BE + TABLE.encode("utf-32-be")) == TABLE.encode()


@pytest.mark.parametrize("encoding", ["cp1252", "shift_jis", "gb18030", "utf-16-le", "utf-8"])
def test_an_encoding_that_is_named_is_used(encoding: str) -> None:
    text = "id,text\n1,日本語\n" if encoding != "cp1252" else "id,text\n1,prénom\n"
    assert read(text.encode(encoding), encoding) == text.encode()
    assert read(("\ufeff" + text).encode("utf-16-le"), "utf-16-le") == text.encode()


@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("text", ["番号,本文\n一,日本語の文章\n", TABLE, "a", ""])
def test_unicode_that_is_named_needs_no_mark(encoding: str, order: str, text: str) -> None:
    assert read(text.encode(f"{encoding}-{order}"), encoding) == text.encode()
    assert read(b"id,text", encoding) != b"id,text"  # wrongly named, it is no error of Python's


@pytest.mark.parametrize("name", ["idna", "punycode", "rot13", "zlib", "undefined"])
def test_a_codec_that_reads_no_files_is_no_encoding(name: str) -> None:
    with pytest.raises(ValueError, match=f"there is no encoding '{name}'"):
        checked_encoding(name)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"a\x81b\nc\n", "cp1252"),
        ("a".encode("utf-16-le") + b"\x00\xd8" + "b\nc\n".encode("utf-16-le"), "utf-16-le"),
    ],
)
def test_bytes_that_an_encoding_does_not_have_are_no_utf8_either(
    data: bytes, encoding: str
) -> None:
    bad, good, _ = read(data, encoding).split(b"\n")
    assert good == b"c"
    with pytest.raises(UnicodeDecodeError):
        bad.decode()


@given(st.binary(max_size=200))
def test_no_bytes_are_lost_where_no_mark_is(data: bytes) -> None:
    if detected_encoding(data) == "utf-8":
        assert read(data) == data.removeprefix(codecs.BOM_UTF8)
    else:
        read(data)


def test_a_few_zeros_make_no_utf16() -> None:
    assert detected_encoding(b'{"text": "a\0b"}\n') == "utf-8"
    assert detected_encoding(b"\0" * 100) == "utf-8"
    assert detected_encoding(b"") == "utf-8"


def test_what_comes_before_damage_is_read() -> None:
    def damaged() -> Iterator[bytes]:
        yield b"1,a\n"
        raise DamagedStream("cut")

    blocks = utf8_blocks(damaged())
    assert next(blocks) == b"1,a\n"
    with pytest.raises(DamagedStream):
        next(blocks)


def test_encodings_are_called_by_any_of_their_names() -> None:
    assert checked_encoding("UTF8") == checked_encoding("utf-8-sig") == "utf-8"
    assert checked_encoding("windows-1252") == "cp1252"
    assert checked_encoding("latin1") == "iso8859-1"


@pytest.mark.parametrize(
    ("name", "said"),
    [("utf-88", "did you mean utf-8?"), ("base64", "such as cp1252"), ("", "such as cp1252")],
)
def test_an_unknown_encoding_is_refused_and_a_near_one_offered(name: str, said: str) -> None:
    with pytest.raises(ValueError, match="there is no encoding") as error:
        checked_encoding(name)
    assert said in str(error.value)
