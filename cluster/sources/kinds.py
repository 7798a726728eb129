"""What the name of a file says: its format and compression, or why it is not read."""

from __future__ import annotations

from pathlib import PurePosixPath

from bitsift.cluster.sources.plan import Compression, Format
from bitsift.cluster.sources.sqlite import ENDINGS
from bitsift.cluster.sources.sqlite import PREFIX as SQLITE
from bitsift.cluster.sources.synthetic import PREFIX
from bitsift.errors import InvalidRequest

FORMATS = {
    ".jsonl": Format.JSON_LINES,
    ".ndjson": Format.JSON_LINES,
    ".json": Format.JSON,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".feather": Format.ARROW,
    ".ipc": Format.ARROW,
    ".npy": Format.VECTORS,
    ".npz": Format.VECTORS,
    ".safetensors": Format.VECTORS,
    **dict.fromkeys(ENDINGS, Format.SQLITE),
    ".txt": Format.TEXT,
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
}
_UNPACKED = (Format.PARQUET, Format.ARROW, Format.VECTORS, Format.SQLITE)
"""Formats that are mapped, or read from the middle, and so never compressed."""
SUPPORTED = (
    f"{' '.join(FORMATS)}, all but parquet, arrow, sqlite and matrices also with "
    f"{' '.join(ending.value for ending in Compression if ending.value)}, "
    "or a folder of such files"
)
_UNPACK = "an archive: unpack it first"
_REPACK = "a compression that is not read: unpack it, or use gzip, zstd, bzip2 or xz"
_SAVE_CSV = "a spreadsheet: save its sheet as CSV"
_RUNS_CODE = "it may run code when it is opened: load it yourself and write numpy.save(…)"
_EXPORT = "a database: export it as JSON lines, CSV or Parquet"
_CONVERT = "convert it to Parquet or JSON lines"
_TEXT_OF = "extract its text to .txt, .md or JSON lines"
HINTS = {
    **dict.fromkeys((".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar"), _UNPACK),
    **dict.fromkeys((".lz4", ".br", ".z", ".snappy", ".lzo", ".lzma"), _REPACK),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), _SAVE_CSV),
    **dict.fromkeys(
        (".pkl", ".pickle", ".p", ".joblib", ".pt", ".pth", ".ckpt", ".bin"), _RUNS_CODE
    ),
    **dict.fromkeys((".duckdb", ".mdb", ".accdb", ".lance", ".rdb"), _EXPORT),
    **dict.fromkeys(
        (".avro", ".orc", ".h5", ".hdf5", ".mat", ".rds", ".rdata", ".dta", ".sav", ".xml"),
        _CONVERT,
    ),
    **dict.fromkeys((".yaml", ".yml", ".tfrecord", ".msgpack", ".bson", ".mmdb"), _CONVERT),
    **dict.fromkeys(
        (".pdf", ".docx", ".doc", ".odt", ".rtf", ".epub", ".html", ".htm", ".pptx"), _TEXT_OF
    ),
    ".bson": "MongoDB's own format: write it as JSON lines with bsondump or mongoexport",
    ".faiss": "a FAISS index: write numpy.save('v.npy', index.reconstruct_n()) and index that",
    ".index": "a FAISS index? write numpy.save('v.npy', index.reconstruct_n()) and index that",
    ".usearch": "a USearch index: write numpy.save('v.npy', index.get(index.keys)) and index that",
    ".ann": "an Annoy index: write its vectors with numpy.save",
    ".hnsw": "an HNSW index: write its vectors with numpy.save",
}
"""What to do with files of endings that are not read."""


def kind_of(path: str) -> tuple[Format, Compression]:
    """Format and compression of a path, by its ending.

    Raises InvalidRequest, which says what to do, where the ending is not supported.
    """
    if path.startswith(PREFIX):
        return Format.SYNTHETIC, Compression.NONE
    if path.startswith(SQLITE):
        return Format.SQLITE, Compression.NONE
    problem = unread(path)
    if problem is not None:
        raise InvalidRequest(f"{path} has an {problem}; supported: {SUPPORTED}")
    name, compression = _without_compression(path)
    return FORMATS[name.suffix.lower()], compression


def unread(path: str) -> str | None:
    """Why a file of this name is not read; None where it is."""
    name, compression = _without_compression(path)
    kind = FORMATS.get(name.suffix.lower())
    if kind is None:
        hint = HINTS.get(name.suffix.lower()) or HINTS.get(PurePosixPath(path).suffix.lower())
        return f"unsupported ending: {hint}" if hint else "unsupported ending"
    if kind in _UNPACKED and compression is not Compression.NONE:
        return "ending that cannot be read compressed: unpack it first"
    return None


def _without_compression(path: str) -> tuple[PurePosixPath, Compression]:
    name = PurePosixPath(path)
    if name.suffix.lower() in {item.value for item in Compression if item.value}:
        return name.with_suffix(""), Compression(name.suffix.lower())
    return name, Compression.NONE
