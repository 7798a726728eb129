"""A file that came over HTTP, read by a process of its own with the readers of `bitsift index`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

from bitsift.errors import DeadlineExceeded
from bitsift.problem_lines import last_error

READER = "bitsift.cluster.ingest.uploaded"
"""By its name, for nothing of it is imported here; its docstring says what it prints."""
ERRORS = ".errors"
"""No file that is kept beside it begins with a dot."""
BEGIN_TIMEOUT_S = 60.0
"""Until a file's form and fields are found out."""
_CHUNK_BYTES = 64 << 10


class Reader:
    """A reader that has begun: ``notes`` is what it says of the file."""

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        self.notes: list[str] = []
        self._process = process
        self._output = cast(BufferedReader, process.stdout)
        self._said = said

    async def begin(self) -> None:
        """Raises what it says is wrong with the file, and DeadlineExceeded."""
        try:
            async with asyncio.timeout(BEGIN_TIMEOUT_S):
                first = await asyncio.to_thread(self._output.readline)
        except TimeoutError as error:
            late = f"the form of the file was not found in {BEGIN_TIMEOUT_S:.0f} s"
            raise DeadlineExceeded(late) from error
        if not first:
            await self._ended()
        self.notes = json.loads(first)

    async def chunks(self) -> AsyncIterator[bytes]:
        """All lines of records. Raises what broke it off."""
        while chunk := await asyncio.to_thread(self._output.read1, _CHUNK_BYTES):
            yield chunk
        await self._ended()

    async def _ended(self) -> None:
        if await asyncio.to_thread(self._process.wait):
            self._said.seek(0)
            said = self._said.read().decode(errors="replace")
            raise last_error(said, "the process that read the file ended")


@contextlib.asynccontextmanager
async def reading(path: Path, said: Mapping[str, Any]) -> AsyncIterator[Reader]:
    """A reader of ``path``, until the end; ``said`` names fields and the form of a table. Raises as
    ``Reader.begin``. What it says of errors goes to a file beside ``path``.
    """
    command = [sys.executable, "-m", READER, str(path), json.dumps(said)]
    with path.with_name(ERRORS).open("w+b") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            reader = Reader(process, errors)
            await reader.begin()
            yield reader
        finally:
            process.kill()  # a thread that still reads comes to the end then
            await asyncio.shield(asyncio.to_thread(process.communicate))
