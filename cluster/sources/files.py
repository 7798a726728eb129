"""Sources: which files a user's arguments stand for, and what is in them.

`plan_sources` is the whole interface; the plan it makes is read by `cluster.readers` (one file,
no Ray) and `cluster.datasource` (all files, through Ray Data).

What a source may be
* a file of a format in `kinds`, most of them also compressed
* a folder: the files below it that `listing` finds and `selection` chooses. What is not read is
  listed in the plan, with the reason. JSON files that hold no records are passed over too.
* synthetic:10M,dim=1024,seed=0: so many made-up vectors (`cluster.synthetic`), ids 0, 1, 2 …
* sqlite:///path.db?table=NAME: a table or a query of a database (`cluster.sqlite`)
* `-`: standard input (`cluster.stdin`)
* a URL that fsspec opens (s3://… where s3fs is installed), file or folder; npy must be local.

Precomputed embeddings: a field of the records, an npy file that is named in `vectors`, or a lone
npy file, whose rows become documents without text, called <name>-<row in 10 digits, from 0>.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from bitsift.cluster.sources.dialect import DETECT_LAYOUT, Layout
from bitsift.cluster.sources.json_files import with_layout
from bitsift.cluster.sources.kinds import SUPPORTED, kind_of
from bitsift.cluster.sources.listing import Found, list_folder, list_url
from bitsift.cluster.sources.matrix_files import open_matrix
from bitsift.cluster.sources.partitions import with_partitions
from bitsift.cluster.sources.plan import (
    FILES_MAX,
    LISTED_MAX,
    Fields,
    Format,
    PassedOver,
    SourceFile,
    SourcePlan,
)
from bitsift.cluster.sources.probe import probe_all
from bitsift.cluster.sources.selection import select
from bitsift.cluster.sources.sqlite import PREFIX as SQLITE
from bitsift.cluster.sources.sqlite import Database
from bitsift.cluster.sources.stdin import STDIN, copied
from bitsift.cluster.sources.stored_vectors import ASSUMED, FLOATS, Stored, VectorType
from bitsift.cluster.sources.streams import is_url, size_of
from bitsift.cluster.sources.synthetic import PREFIX, SyntheticSpec
from bitsift.cluster.sources.widths import look_at_vectors
from bitsift.errors import InvalidRequest

__all__ = ["SUPPORTED", "Fields", "SourceFile", "SourcePlan", "plan_sources"]

DETECT_ALL = Fields()
_REASONS_SHOWN = 3


def plan_sources(
    paths: Sequence[str | os.PathLike[str]],
    fields: Fields = DETECT_ALL,
    vectors: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    stored: Stored = FLOATS,
    stdin: str | None = None,
    layout: Layout = DETECT_LAYOUT,
) -> SourcePlan:
    """Finds every file that `paths` stand for, looks into each, and fixes their order.

    `vectors` names an npy file, or one per source file, whose row i is the vector of record i.
    A single one goes with a single file; several go with the files of the same stem. `stored` says
    how vectors are stored, `stdin` the format of standard input, as an ending without its dot.
    `layout` is what the caller says of text tables.

    Raises InvalidRequest where a path is missing, empty or of no supported kind, where a named
    field does not exist, where there is no text, or where vectors and records do not match.
    """
    if not paths:
        raise InvalidRequest(f"no source given; a source is {SUPPORTED}")
    _require_distinct(fields)
    matrices = _matrix_paths(vectors)
    if matrices and fields.vector is not None:
        raise InvalidRequest(
            "--vectors and --vector-field both say where the vectors are: give one of them; of "
            "several arrays in a file of --vectors save one as .npy"
        )
    found: dict[str, Found] = {}
    passed: list[PassedOver] = []
    for path in paths:
        chosen, skipped = _find(path, fields) if path != STDIN else ([_of_stdin(stdin)], [])
        found.update(
            (item.path, item)
            for item in chosen
            if item.path not in matrices and (item.is_named or item.path not in found)
        )
        passed += skipped
    if len(found) > FILES_MAX:
        raise InvalidRequest(
            f"{len(found)} source files are too many; at most {FILES_MAX} are allowed"
        )
    files = _named_apart([_source_file(found[path]) for path in sorted(found)])
    files = _pair(with_partitions(files), matrices)
    files = [with_layout(replace(file, stored=stored)) for file in files]
    files = probe_all(files, fields, layout)
    width = _common_width(files)
    _check_ranges(stored, width)
    planned = (replace(file, index=index, width=width) for index, file in enumerate(files))
    listed = {item.path: item for item in passed if item.path not in found}
    passed_over = tuple(listed[path] for path in sorted(listed))
    return SourcePlan(tuple(planned), fields, width, passed_over, stored, _notes(files))


def _notes(files: list[SourceFile]) -> tuple[str, ...]:
    """What is assumed, and what of a file is not read, in lines for people."""
    notes = [file.note for file in files if file.note]
    if len(notes) > LISTED_MAX:
        notes = [*notes[:LISTED_MAX], f"and {len(notes) - LISTED_MAX:,} other files alike"]
    if any(_is_assumed(file) for file in files):
        notes.append(ASSUMED)
    for file in files:
        matrix = file.vectors or (file.path if file.format is Format.VECTORS else None)
        others = matrix and open_matrix(matrix, file.fields.vector, file.stored).others
        if others:
            notes.append(f"{matrix}: arrays that are not read: {', '.join(others)}")
    return tuple(notes)


def _is_assumed(file: SourceFile) -> bool:
    is_bytes = file.stored.type is VectorType.INT8 and file.stored.ranges is None
    return is_bytes and not file.is_export


def _check_ranges(stored: Stored, width: int | None) -> None:
    if stored != FLOATS and width is None:
        raise InvalidRequest(f"--vector-type {stored.type} is for sources that have vectors")
    if stored.ranges is not None and len(stored.ranges.low) != width:
        raise InvalidRequest(
            f"--ranges has {len(stored.ranges.low)} dimensions, the vectors have {width}"
        )


def _require_distinct(fields: Fields) -> None:
    counts = Counter(name for _, name in fields.named())
    for name, count in counts.items():
        if count > 1:
            raise InvalidRequest(f"field {name!r} is named for {count} roles; name it once")


def _matrix_paths(
    vectors: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
) -> list[str]:
    if vectors is None:
        return []
    named = [vectors] if isinstance(vectors, str | os.PathLike) else vectors
    return [_absolute(os.fspath(path)) for path in named]


def _absolute(path: str) -> str:
    """Where a worker process with another working directory finds the path."""
    if path.startswith(PREFIX):
        return str(SyntheticSpec.parse(path))
    if path.startswith(SQLITE):
        return str(Database.parse(path))
    return path if is_url(path) else os.path.abspath(os.path.expanduser(path))


def _of_stdin(kind: str | None) -> Found:
    path = copied(kind)
    name = f"stdin{''.join(path.suffixes)}"
    return Found(str(path), name, path.stat().st_size, is_named=True)


def _find(source: str | os.PathLike[str], fields: Fields) -> tuple[list[Found], list[PassedOver]]:
    """The files of one source that are read, and those that are passed over."""
    if not os.fspath(source):
        raise InvalidRequest(
            f"a source is an empty text: is a variable not set? A source is {SUPPORTED}"
        )
    path = _absolute(os.fspath(source))
    if path.startswith(PREFIX):
        return [Found(path, path, 0, is_named=True)], []
    if path.startswith(SQLITE):
        file = Database.parse(path).file
        return [Found(path, PurePosixPath(file).name, size_of(file), is_named=True)], []
    if is_url(path):
        listing = list_url(path)
    elif os.path.isdir(path):
        listing = list_folder(path)
    elif os.path.isfile(path):
        listing = None
    else:
        problem = (
            f"is neither a file nor a folder: pipe it into the source {STDIN}"
            if os.path.exists(path)
            else "does not exist"
        )
        raise InvalidRequest(f"{path} {problem}; a source is {SUPPORTED}")
    if listing is None:
        kind, _ = kind_of(path)  # a file that is named must be readable, not passed over
        if kind is Format.SQLITE:
            return _find(str(Database.parse(path)), fields)
        return [Found(path, PurePosixPath(path).name, size_of(path), is_named=True)], []
    chosen, passed = select(listing[0], fields)
    passed = [*listing[1], *passed]
    if not chosen:
        raise InvalidRequest(_nothing_in(path, passed))
    return chosen, passed


def _nothing_in(folder: str, passed: list[PassedOver]) -> str:
    reasons = "; ".join(f"{item.path}: {item.reason}" for item in passed[:_REASONS_SHOWN])
    if len(passed) > _REASONS_SHOWN:
        reasons += f"; and {len(passed) - _REASONS_SHOWN} others"
    found = f" ({reasons})" if passed else ""
    return f"{folder} contains no file to read{found}; supported: {SUPPORTED}"


def _source_file(found: Found) -> SourceFile:
    kind, compression = kind_of(found.path)
    try:
        found.path.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{found.path!r}: rename this file: its name is not UTF-8") from error
    return SourceFile(0, found.path, found.name, kind, compression, found.size_bytes)


def _named_apart(files: list[SourceFile]) -> list[SourceFile]:
    """Gives files whose name becomes an id, and is not unique in the plan, their whole path."""
    counts = Counter(file.name for file in files)
    return [
        replace(file, name=file.path.lstrip("/")) if counts[file.name] > 1 else file
        for file in files
    ]


def _stem(file: SourceFile) -> str:
    name = PurePosixPath(file.path.removesuffix(file.compression.value))
    return name.stem


def _pair(files: list[SourceFile], matrices: list[str]) -> list[SourceFile]:
    """Gives each file its npy file of vectors, if it has one."""
    owners = [f for f in files if not f.format.is_whole_document and not f.format.is_matrix]
    if not matrices:
        _refuse_unnamed_companions(owners, files)
        return files
    if len(matrices) == 1 and len(owners) == 1:
        pairs = {owners[0].path: matrices[0]}
    else:
        by_stem = {PurePosixPath(path).stem: path for path in matrices}
        pairs = {file.path: by_stem[_stem(file)] for file in owners if _stem(file) in by_stem}
    if sorted(pairs.values()) != sorted(matrices):
        raise InvalidRequest(
            f"{len(matrices)} npy files of vectors were named for {len(owners)} source files, and "
            f"{len(pairs)} go together: name one per file, with the same stem (a.npy, a.jsonl.gz)"
        )
    return [replace(file, vectors=pairs.get(file.path)) for file in files]


def _refuse_unnamed_companions(owners: list[SourceFile], files: list[SourceFile]) -> None:
    """An npy file next to a file of the same stem may be its vectors or not: the caller must
    say.
    """
    beside = {(os.path.dirname(file.path), _stem(file)): file.path for file in owners}
    for file in files:
        owner = beside.get((os.path.dirname(file.path), _stem(file)))
        if file.format is Format.VECTORS and owner is not None:
            raise InvalidRequest(
                f"{file.path} lies next to {owner}: name it with --vectors if it holds the vectors "
                "of its records, or index one of the two alone"
            )


def _common_width(files: list[SourceFile]) -> int | None:
    """The width of all vectors, or None where no file has any. Raises InvalidRequest."""
    filled = [file for file in files if file.records != 0]
    with_vectors = [file for file in filled if file.carries_vectors]
    without = [file for file in filled if not file.carries_vectors]
    if with_vectors and without:
        raise InvalidRequest(
            f"{with_vectors[0].path} comes with vectors and {without[0].path} does not: "
            "index them separately, or give vectors for all"
        )
    known = [file for file in with_vectors if file.width is not None]
    if with_vectors and not known:
        file = with_vectors[0]
        raise InvalidRequest(
            f"no good vector in {file.path}, field {file.fields.vector!r}: "
            f"{look_at_vectors(file).reason}"
        )
    for file in known:
        fixed = file.format.is_matrix or file.vectors is not None
        if fixed and file.width != known[0].width:
            raise InvalidRequest(
                f"{known[0].path} has vectors of {known[0].width} numbers, "
                f"{file.vectors or file.path} of {file.width}: an index has one width"
            )
    return known[0].width if known else None
