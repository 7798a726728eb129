"""Character encodings: text files of any encoding as UTF-8 blocks.

UTF-8 passes as it is, without its byte order mark. UTF-16 and UTF-32 are known by their mark, and
UTF-16 without one by the zeros of its Latin letters. Encodings of one byte a letter cannot be told
apart: they have to be named, and what is not UTF-8 is rejected where it stands.

A byte that an encoding does not have becomes `BAD`, which is no UTF-8 either: so the record that
it stands in is rejected, and no other.
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterator

from bitsift.nearest import nearest

UTF8 = "utf-8"
_HEAD_BYTES = 4 << 10
"""So much is looked at; a mark has 4 bytes at most."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, UTF8),
)
MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
_LETTERS_SHARE = 0.4
"""Of a text in UTF-16, so many of its characters at least are Latin: blanks, digits, commas."""
_BAD_CHARACTER = "\udc80"
_ERRORS = "bitsift-bad-bytes"
_HINTED = ("cp1252", "latin-1", "gb18030")
_NAMES = (
    *(UTF8, "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "iso8859-2", "iso8859-15"),
    *(f"cp125{number}" for number in range(9)),
    *("cp437", "cp850", "cp932", "shift_jis", "euc_jp", "gb18030", "gbk", "big5", "euc_kr"),
    *("koi8_r", "mac_roman", "ascii"),
)


def _mark_bad(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _BAD_CHARACTER, error.end


codecs.register_error(_ERRORS, _mark_bad)


def checked_encoding(name: str) -> str:
    """The name that Python has for an encoding. Raises ValueError, with the name that is meant."""
    try:
        found = codecs.lookup(name)
        "".encode(name)
        codecs.getincrementaldecoder(name)(_ERRORS).decode(b"a", final=True)
    except (LookupError, UnicodeError, ValueError) as error:
        meant = nearest(name.lower(), _NAMES)
        raise ValueError(
            f"there is no encoding {name!r}"
            + (f"; did you mean {meant}?" if meant else ", such as cp1252, utf-16 or shift_jis")
        ) from error
    return UTF8 if found.name == "utf-8-sig" else found.name


def detected_encoding(head: bytes) -> str:
    """The encoding of a file that begins with `head`: utf-8, unless a mark or its zeros say
    another.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    head = head[: _HEAD_BYTES & ~1]
    enough = _LETTERS_SHARE * len(head) / 2
    first, second = head[0::2].count(0), head[1::2].count(0)
    if len(head) >= 4 and max(first, second) > enough and min(first, second) < enough / 10:
        return "utf-16-le" if second > first else "utf-16-be"
    return UTF8


def invalid(data: bytes, encoding: str, where: str) -> str:
    """Why `data`, which is not UTF-8, is rejected: at which byte, and what may be said of it.

    `encoding` is what it was written in; `where` is what the bytes are counted in.
    """
    if encoding not in ("", UTF8):
        return f"invalid {encoding} in {where}"
    try:
        data.decode()
    except UnicodeDecodeError as error:
        hint = _hinted_encoding(data)
        said = f": if it is in {hint}, say --encoding {hint}" if hint else ""
        return f"invalid UTF-8 at byte {error.start + 1} of {where}{said}"
    raise AssertionError(f"{where} is UTF-8")


def _hinted_encoding(data: bytes) -> str | None:
    for name in _HINTED:
        with contextlib.suppress(UnicodeDecodeError):
            if all(char.isprintable() or char.isspace() for char in data.decode(name)):
                return name
    return None


def utf8_blocks(blocks: Iterator[bytes], encoding: str = "") -> Iterator[bytes]:
    """The blocks of a text in UTF-8, without a byte order mark. Encoding "" is detected.

    Raises what `blocks` raises.
    """
    first, blocks = first_bytes(blocks)
    encoding = encoding or detected_encoding(first)
    if encoding == UTF8:
        if first := first.removeprefix(codecs.BOM_UTF8):
            yield first
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(_ordered(encoding, first))(_ERRORS)
    text = decoder.decode(first).removeprefix(MARK)
    while True:
        if text:
            yield text.encode(UTF8, "surrogatepass")
        part = next(blocks, None)
        text = decoder.decode(part or b"", final=part is None)
        if part is None:
            break
    if text:
        yield text.encode(UTF8, "surrogatepass")


def _ordered(encoding: str, head: bytes) -> str:
    """UTF-16 and UTF-32 that a caller has named, and whose mark is missing, with their order of
    bytes: that of more zeros where it is seen, in line ends and blanks at least, or Windows's.
    """
    width = {"utf-16": 2, "utf-32": 4}.get(encoding)
    if width is None or any(head.startswith(mark) for mark, name in _MARKS if name == encoding):
        return encoding
    first, last = head[0::width].count(0), head[width - 1 :: width].count(0)
    return f"{encoding}-be" if first > last else f"{encoding}-le"


def first_bytes(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of a file, enough to know its encoding by, and what comes after them."""
    first = b""
    try:
        while len(first) < _HEAD_BYTES and (block := next(blocks, b"")):
            first += block
    except Exception as error:  # a damaged stream, a failing disk: after what came before it
        return first, _raised(error)
    return first, blocks


def _raised(error: Exception) -> Iterator[bytes]:
    yield from ()
    raise error
