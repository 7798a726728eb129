"""The route that takes a file as it is: the page's upload, and curl without JSON."""

from __future__ import annotations

import asyncio
import functools
import math
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from errno import EDQUOT, ENOSPC
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Query, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from bitsift.errors import InvalidRequest, RequestTooLarge, StorageFull
from bitsift.router.admission import Admission, Held
from bitsift.router.http.bodies import announced_bytes
from bitsift.router.http.client_gone import unless_gone
from bitsift.router.http.document_stream import (
    IDLE_S,
    RATE,
    STREAM_RAM_BYTES,
    DocumentStream,
    LineWriter,
)
from bitsift.router.http.file_reader import Reader, reading
from bitsift.router.http.line_blocks import Block
from bitsift.router.http.media_types import NDJSON, OCTETS
from bitsift.router.http.pace import Pace
from bitsift.router.http.parameters import refuse_unknown_parameters
from bitsift.router.http.schema import Problem
from bitsift.router.service import SearchService
from bitsift.write_results import WriteError
from bitsift.write_status import WriteStatus

FILE_PATH = "/v1/documents/file"
FILE_BYTES_MAX = 256 << 20
"""What a temporary folder has room for; `bitsift add` takes any size."""
FILES_MAX = 4
"""Files that are sent, kept or read."""
READERS_MAX = 1
"""Each is a process of 150 to 350 MB; the other files wait for their turn."""
NAME_BYTES_MAX = 200
_ENDING_CHARACTERS = 40
"""Of a name that a folder would not take: that of a format, and of what it is packed with."""
_WRITE_BYTES = 1 << 20
_OPTIONS = (
    *("id_field", "text_field", "title_field", "vector_field"),
    *("delimiter", "encoding", "quote", "escape", "header", "columns", "skip_lines"),
)
_PARAMETERS = ("name", *_OPTIONS)
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (408, 413, 415, 422, 429, 500, 503, 507)
}
_DESCRIBED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
    }
}
Said = Annotated[str | None, Query(max_length=NAME_BYTES_MAX)]


def add_files(app: FastAPI, service: SearchService, writer: LineWriter) -> None:
    """Documents of a file are written as those of a stream are."""
    files = Admission("files", FILES_MAX, FILES_MAX * STREAM_RAM_BYTES)
    readers = asyncio.Semaphore(READERS_MAX)

    @app.post(
        FILE_PATH,
        responses={
            200: {
                "description": "Lines of JSON: records that were not stored, totals so far, and at "
                "last the totals with a token",
                "content": {NDJSON: {"schema": {"type": "string"}}},
            },
            **_PROBLEMS,
        },
        openapi_extra=_DESCRIBED,
    )
    async def add_file(
        http: Request,
        name: Annotated[str, Query(min_length=1, max_length=NAME_BYTES_MAX)],
        id_field: Said = None,
        text_field: Said = None,
        title_field: Said = None,
        vector_field: Said = None,
        delimiter: Said = None,
        encoding: Said = None,
        quote: Said = None,
        escape: Said = None,
        header: bool | None = None,
        columns: Annotated[str | None, Query(description="names, with commas")] = None,
        skip_lines: int | None = None,
    ) -> Response:
        """Add the documents of a file, which is read as `bitsift index` reads it: JSON, CSV, TSV,
        Parquet, Arrow or text, compressed or not, by its `name`. The body is the file itself.

        Fields and the form of a table are found out where they are not said. Each record that is no
        document, or was not stored, is answered by a line with its place in the file; the last line
        has the totals, a token and what is to be known of the file (`notes`), and without it
        the answer was cut off.
        """
        refuse_unknown_parameters(http, _PARAMETERS, f"there are {', '.join(_PARAMETERS)}")
        given = (
            *(id_field, text_field, title_field, vector_field, delimiter, encoding, quote, escape),
            *(header, columns and [columns], skip_lines),
        )
        pairs = zip(_OPTIONS, given, strict=True)
        said = {key: value for key, value in pairs if value not in (None, "")}
        counted = functools.partial(service.metrics.written, "upsert")
        return _FileStream(http, _stored_name(name), said, writer, files, readers, counted)


def _stored_name(name: str) -> str:
    """A name in a folder of its own: messages say it, and its ending is that of the format. Raises
    InvalidRequest for one that has none.
    """
    plain = re.sub(r"[^\w.-]", "_", name)
    if not Path(plain).suffix:
        raise InvalidRequest(
            f"name: {name[:40]!r} does not say the format: it is the file's name, such as words.csv"
        )
    if len(plain.encode(errors="replace")) > NAME_BYTES_MAX:
        plain = "".join(Path(plain).suffixes[-2:])[-_ENDING_CHARACTERS:]
    return plain if plain[0].isalnum() else f"file{plain}"


class _FileStream(DocumentStream):
    """Keeps the file, has it read, and answers as a stream does; with each block so far."""

    def __init__(
        self,
        http: Request,
        name: str,
        said: Mapping[str, Any],
        writer: LineWriter,
        admission: Admission,
        readers: asyncio.Semaphore,
        counted: Callable[[Mapping[str, int]], None],
    ) -> None:
        super().__init__(self._lines(), writer, admission, counted, only_errors=True)
        self._readers = readers
        self._http = http
        self._name = name
        self._said = said
        self._reader: Reader | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Overloaded, and what is wrong with the file, before the answer starts."""
        self._receive = receive
        await super().__call__(scope, receive, send)

    async def _answer(self, send: Send, held: Held) -> None:
        with tempfile.TemporaryDirectory(prefix="bitsift-file-") as folder:
            path = Path(folder, self._name)
            await _keep(self._http, path)
            await unless_gone(self._receive, self._read(path, send, held))

    async def _read(self, path: Path, send: Send, held: Held) -> Response:
        async with self._readers, reading(path, self._said) as self._reader:
            await super()._answer(send, held)
        return self

    async def _lines(self) -> AsyncIterator[bytes]:
        assert self._reader is not None
        async for chunk in self._reader.chunks():
            yield chunk

    def _last(self, error: WriteError | None) -> dict[str, Any]:
        assert self._reader is not None
        return super()._last(error) | {"notes": self._reader.notes}

    async def _written(self, block: Block) -> bytes:
        """What the reader gives no document for is rejected in its place."""
        places, documents, answer = list[int](), list[bytes](), list[Any]()
        for line in block.data.split(b"\n"):
            place, _, record = line.partition(b"\t")
            if record.startswith(b"{"):
                places.append(int(place))
                documents.append(record)
            elif record:
                error = WriteError.of(InvalidRequest(orjson.loads(record)))
                answer.append(
                    {"line": int(place), "id": None, "status": WriteStatus.REJECTED, "error": error}
                )
        if answer:
            self._count({WriteStatus.REJECTED.value: len(answer)})
        if documents:
            joined = Block(b"\n".join([*documents, b""]), 1, len(documents))
            results = map(orjson.loads, (await super()._written(joined)).splitlines())
            answer += [{**result, "line": places[result["line"] - 1]} for result in results]
        answer.append({"totals": self._so_far()})
        return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in answer)


async def _keep(http: Request, path: Path) -> None:
    """Write the body to ``path``. Raises RequestTooLarge, StorageFull, HTTPException (408) and
    ClientDisconnect.
    """
    _check_size(announced_bytes(http.headers.get("content-length", "")))
    size, waiting = 0, bytearray()
    with path.open("wb") as file:
        async for chunk in _timed(http.stream()):
            size += len(chunk)
            _check_size(size)
            waiting += chunk
            if len(waiting) >= _WRITE_BYTES:
                await asyncio.to_thread(_write, file, waiting)
                waiting = bytearray()
        await asyncio.to_thread(_write, file, waiting)


def _write(file: Any, data: bytearray) -> None:
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        raise StorageFull("there is no room for the file in the server's TMPDIR") from error


async def _timed(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    loop, pace = asyncio.get_running_loop(), Pace(RATE, IDLE_S, math.inf)
    while True:
        started = loop.time()
        try:
            async with asyncio.timeout(pace.left_s):
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, pace.too_slow()) from error
        if chunk is None:
            return
        pace.waited(loop.time() - started, len(chunk), has_line=True)
        yield chunk


def _check_size(size_bytes: int) -> None:
    if size_bytes > FILE_BYTES_MAX:
        raise RequestTooLarge(
            f"the file is larger than {FILE_BYTES_MAX:,} bytes: use bitsift add, or send its "
            "documents as a stream"
        )
