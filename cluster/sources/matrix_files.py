"""Files that hold matrices of vectors: .npy, .npz and .safetensors, on this machine.

Nothing is ever unpickled. A matrix is memory-mapped; one that is compressed in an .npz is read as a
stream, from its beginning to the rows that are asked for. bfloat16 is what its two bytes say: numpy
has no such type and calls it V2.

Of several arrays the one that is named is taken, else the only one of two dimensions.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.cluster.sources.stored_vectors import FLOATS, Stored, VectorType, suspicion
from bitsift.cluster.sources.streams import BLOCK_BYTES, DamagedStream, is_url, unreadable
from bitsift.errors import InvalidRequest

HEADER_BYTES_MAX = 100_000_000
"""Of the header of a .safetensors, as the format has it."""
_TENSORS = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<V2", "I8": "i1", "U8": "u1"}
_BFLOAT16 = np.dtype("V2")
_SAMPLE_ROWS = 100
_UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    TypeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class Matrix(Protocol):
    """Rows of stored numbers, (rows, width); `others` names the other arrays of its file."""

    shape: tuple[int, ...]
    others: tuple[str, ...]

    def rows(self, first: int, stop: int) -> NDArray[Any]:
        """Rows first…stop; DamagedStream where they cannot be read."""

    def at(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """These rows, whose numbers ascend."""


class _Mapped:
    def __init__(self, array: NDArray[Any], others: tuple[str, ...] = ()) -> None:
        self._array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.others = others

    def rows(self, first: int, stop: int) -> NDArray[Any]:
        return _numbers(self._array[first:stop])

    def at(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        return _numbers(self._array[numbers])


@dataclass(frozen=True)
class _Member:
    """An array of an .npz; `offset` is where its numbers begin in the member."""

    name: str
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    offset: int


class _Streamed:
    """A matrix that is compressed: rows are read in order, or again from the beginning."""

    def __init__(self, path: str, member: _Member, others: tuple[str, ...]) -> None:
        self._path = path
        self._member = member
        self._stream: IO[bytes] | None = None
        self._row = 0
        self.shape = member.shape
        self.dtype = member.dtype
        self.others = others
        self._row_bytes = self.dtype.itemsize * member.shape[1]

    def rows(self, first: int, stop: int) -> NDArray[Any]:
        try:
            if self._stream is None or first < self._row:
                archive = zipfile.ZipFile(self._path)  # open as long as its stream
                self._stream = archive.open(self._member.info)
                self._skip(self._member.offset)
                self._row = 0
            self._skip((first - self._row) * self._row_bytes)
            wanted = (stop - first) * self._row_bytes
            data = self._stream.read(wanted)
        except (zlib.error, zipfile.BadZipFile, EOFError) as error:
            self._stream = None  # rows after it are looked for from the beginning, in vain
            raise DamagedStream(f"{self._member.name} is damaged: {error}") from error
        self._row = stop
        if len(data) < wanted:
            raise DamagedStream(f"{self._member.name} is cut off")
        return _numbers(np.frombuffer(data, self.dtype).reshape(stop - first, self.shape[1]))

    def at(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        found = [self.rows(number, number + 1) for number in numbers.tolist()]
        return np.concatenate([self.rows(0, 0), *found])

    def _skip(self, count: int) -> None:
        assert self._stream is not None
        while count > 0:
            passed = len(self._stream.read(min(count, BLOCK_BYTES)))
            if not passed:
                raise EOFError("it ends too early")
            count -= passed


def _numbers(part: NDArray[Any]) -> NDArray[Any]:
    """float32 of bfloat16, whose two bytes are the higher ones; other numbers as they are."""
    if part.dtype != _BFLOAT16:
        return part
    return (np.ascontiguousarray(part).view("<u2").astype(np.uint32) << 16).view(np.float32)


def open_matrix(path: str, name: str | None = None, stored: Stored = FLOATS) -> Matrix:
    """The matrix of a file, `name` in one of several, without reading it.

    Raises InvalidRequest where there is none, and where its numbers are not what `stored` says.
    """
    ending = PurePosixPath(path).suffix.lower()
    if is_url(path):
        raise InvalidRequest(
            f"{path}: {ending[1:]} files are memory-mapped: copy it to a local path"
        )
    try:
        if ending == ".npz":
            matrix: _Mapped | _Streamed = _open_npz(path, name)
        elif ending == ".safetensors":
            matrix = _open_safetensors(path, name)
        else:
            matrix = _Mapped(np.lib.format.open_memmap(path, mode="r"))
    except _UNREADABLE as error:
        raise unreadable(path, ending[1:] or "matrix", error) from error
    _check(path, matrix, stored)
    return matrix


def _check(path: str, matrix: _Mapped | _Streamed, stored: Stored) -> None:
    dtype, shape = matrix.dtype, matrix.shape
    kinds = "f" if stored.type is None else "iuf"
    is_float = (dtype.kind == "f" and dtype.itemsize <= 8) or dtype == _BFLOAT16
    is_byte = dtype.kind in "iu" and dtype.itemsize == 1
    if len(shape) == 2 and is_byte and stored.type is None:
        sample = matrix.rows(0, min(_SAMPLE_ROWS, shape[0]))
        raise InvalidRequest(f"{path}: {suspicion(list(sample)) or 'it is empty'}")
    if len(shape) != 2 or not (is_float or dtype.kind in kinds):
        expected = "float16, bfloat16, float32 or float64"
        if stored.type is not None and stored.type is not VectorType.FLOAT:
            expected = f"{stored.type} numbers"
        raise InvalidRequest(
            f"{path} holds {dtype} of shape {shape}; expected {expected} of shape (rows, width)"
        )


def _choose(path: str, shapes: dict[str, tuple[int, ...]], name: str | None) -> str:
    """The array that holds the vectors. Raises InvalidRequest."""
    matrices = [key for key, shape in shapes.items() if len(shape) == 2]
    listed = ", ".join(f"{key} {shape}" for key, shape in shapes.items()) or "none"
    if name is not None:
        if name not in shapes:
            raise InvalidRequest(f"{path} has no array {name!r} (--vector-field); it has {listed}")
        return name
    if len(matrices) != 1:
        raise InvalidRequest(
            f"{path} has {len(matrices)} arrays of two dimensions; name the one that holds the "
            f"vectors with --vector-field; arrays: {listed}"
        )
    return matrices[0]


def _open_npz(path: str, name: str | None) -> _Mapped | _Streamed:
    with zipfile.ZipFile(path) as archive:
        members = {}
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                member = _member(archive, info)
                members[member.name] = member
    chosen = members[_choose(path, {key: item.shape for key, item in members.items()}, name)]
    others = tuple(key for key in members if key != chosen.name)
    if chosen.info.compress_type != zipfile.ZIP_STORED:
        if chosen.is_fortran:
            raise InvalidRequest(f"{path}: {chosen.name} is compressed by columns: use numpy.savez")
        return _Streamed(path, chosen, others)
    order = "F" if chosen.is_fortran else "C"
    start = _data_offset(path, chosen.info) + chosen.offset
    return _Mapped(_map(path, chosen.dtype, start, chosen.shape, order), others)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
        name = info.filename.removesuffix(".npy")
        return _Member(name, info, shape, is_fortran, dtype, stream.tell())


def _data_offset(path: str, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin: its own header may be longer than the listed."""
    with open(path, "rb") as stream:
        stream.seek(info.header_offset + 26)
        name_bytes, extra_bytes = struct.unpack("<HH", stream.read(4))
    return info.header_offset + 30 + int(name_bytes) + int(extra_bytes)


def _open_safetensors(path: str, name: str | None) -> _Mapped:
    with open(path, "rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        if size > HEADER_BYTES_MAX:
            raise ValueError(f"its header has {size} bytes")
        header = orjson.loads(stream.read(size))
    header.pop("__metadata__", None)
    chosen = _choose(path, {key: tuple(item["shape"]) for key, item in header.items()}, name)
    tensor = header[chosen]
    shape = tuple(tensor["shape"])
    if tensor["dtype"] not in _TENSORS:
        raise InvalidRequest(
            f"{path} holds {tensor['dtype']} of shape {shape}; expected {', '.join(_TENSORS)} of "
            "shape (rows, width)"
        )
    dtype = np.dtype(_TENSORS[tensor["dtype"]])
    start, stop = tensor["data_offsets"]
    if stop - start != dtype.itemsize * int(np.prod(shape)):
        raise ValueError(f"{chosen} has {stop - start} bytes for a shape of {shape}")
    array = _map(path, dtype, 8 + size + start, shape, "C")
    return _Mapped(array, tuple(key for key in header if key != chosen))


def _map(
    path: str, dtype: np.dtype[Any], start: int, shape: tuple[int, ...], order: Any
) -> NDArray[Any]:
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    stop = start + dtype.itemsize * int(np.prod(shape))
    if stop > os.path.getsize(path):
        raise ValueError("it is cut off")
    if not all(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, order)
