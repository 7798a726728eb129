"""The documents of a file that came over HTTP.

The gateway runs `python -m bitsift.cluster.ingest.uploaded FILE SAID` as a process of its own, for
what a reader takes of RAM and processors. SAID is a JSON object of the options of ``BuildOptions``
that name fields and the form of a table. It prints a line of JSON, what is to be said of the file,
then a line for each record:

    12<tab>{"id": …}        the document at line 12
    13<tab>"no text"        why the record at line 13 is none

Where the file cannot be read, the last line of standard error is a problem document.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from bitsift.client.sending import document_json
from bitsift.cluster.ingest.options import BuildOptions, checked_build
from bitsift.cluster.sources.live import live_documents
from bitsift.errors import BitsiftError
from bitsift.problem_lines import problem_document
from bitsift.router.http.documents_schema import LINE_BYTES_MAX

_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
_PLACE_BYTES = 24
"""The number of a line, its tabulator and its end."""


def print_documents(file: Path, said: dict[str, Any], out: BinaryIO) -> None:
    """Raises InvalidRequest where the file, or what is ``said`` of it, is wrong."""
    options = checked_build(BuildOptions(**said))
    found, notes = live_documents([str(file)], options.fields, options.layout)
    out.write(orjson.dumps([_over_http(note, file) for note in notes]) + b"\n")
    out.flush()
    for record in found:
        reason = record.reason or "no document"
        if record.document is not None:
            line = document_json(record.document)
            reason = f"the document has more than {LINE_BYTES_MAX:,} bytes as JSON"
        if record.document is None or len(line) > LINE_BYTES_MAX - _PLACE_BYTES:
            line = orjson.dumps(_over_http(reason, file))
        out.write(b"%d\t%b\n" % (record.line, line))
    out.flush()


def _over_http(said: str, file: Path) -> str:
    """Options as parameters are called, and no folder of this machine."""
    return _OPTION.sub(
        lambda found: found[1].replace("-", "_"), said.replace(f"{file.parent}/", "")
    )


def main() -> None:
    """Exit status 1 with a problem document where it fails."""
    os.nice(10)  # searches go first
    file, said = sys.argv[1:]
    try:
        print_documents(Path(file), orjson.loads(said), sys.stdout.buffer)
    except BrokenPipeError:  # nobody waits for it any more
        sys.stderr.close()
        sys.exit(1)
    except BitsiftError as error:
        problem = problem_document(error)
        problem["detail"] = _over_http(problem["detail"], Path(file))
        sys.stderr.write(f"{orjson.dumps(problem).decode()}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
