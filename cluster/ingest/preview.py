"""preview: what `bitsift index` would read, cut and take, from a look at some documents.

Everything is done in this process; no index is made. Of texts the model encodes some, to say how
long all would take on this machine; only its compiled form is kept, in the cache, as any run does.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from bitsift.cluster.ingest.build import Build, plan_build
from bitsift.cluster.ingest.chunks import chunked
from bitsift.cluster.ingest.model_width import check_model_width
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.sources.plan import Format, SourceFile
from bitsift.cluster.sources.readers import read_documents, read_text_files
from bitsift.errors import InvalidRequest
from bitsift.router.model.location import model_location
from bitsift.router.write.document_rules import model_text
from bitsift.shard_worker.operations import Insert
from bitsift.shard_worker.store.packing import pack_documents

if TYPE_CHECKING:
    from bitsift.router.model.encoder import Encoder

SAMPLE_DOCUMENTS = 1_000
"""Looked at, as many of each file."""
SAMPLE_FILES = 200
ENCODED = 64
"""Texts that are encoded to measure how fast the model is."""
SHOWN = 3
SHOWN_CHARACTERS = 200
FILES_LISTED = 100
START_S = 15.0
"""What a build takes before it reads: Ray and the model (2 cores)."""
ROW_OVERHEAD = 1.25, 80
"""Of a row on the disk: of what is packed, the share that pages and indexes add, and bytes for
version, checksum and id."""
SHARD_BYTES = 1_500_000
"""Of each shard besides: pages that its first commits have left. So the 1,398 abstracts of
Cranfield in two shards were estimated at 4.8 MB and took 5.0, 300 short texts in one at 1.7 and
took 1.8."""
_KINDS = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "list",
    dict: "object",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class FieldPreview:
    """A field of the metadata: its types, and in which share of the sample it is."""

    name: str
    types: tuple[str, ...]
    share: float


@dataclass(frozen=True, slots=True)
class TokensPreview:
    """Tokens of the texts of the sample, with title, prompt and marks; ``cut`` of them have more
    than the ``limit`` that the model reads.
    """

    limit: int | None
    mean: float
    median: int
    p95: int
    longest: int
    cut: int
    of: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a build would do. ``records`` are counted where the format says how many there are, else
    estimated, as are ``seconds`` and bytes. ``passages`` are those of a document, with --chunk.
    """

    files: int
    listed: tuple[dict[str, Any], ...]
    passed_over: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    records: int
    records_estimated: bool
    sample: int
    rejects: tuple[dict[str, Any], ...]
    fields: tuple[FieldPreview, ...]
    documents: tuple[dict[str, Any], ...]
    model: str | None
    prompts: str
    dimension: int
    vectors: bool
    shards: int
    tokens: TokensPreview | None
    passages: float
    documents_s: float
    seconds: float
    disk_bytes: int
    bits_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def preview(sources: Sequence[str | Path], options: BuildOptions = BuildOptions()) -> Preview:  # noqa: B008 (frozen)
    """Look at ``sources`` as `build_index` would read them.

    Raises what `build_index` raises before it has read them.
    """
    if options.model is not None:
        model_location(options.model)
    build = plan_build(sources, os.devnull, options)
    begun_s = time.perf_counter()
    tables = list(_sampled(build.plan.files))
    if not tables:
        raise InvalidRequest(
            f"no record in {len(build.plan.files)} files: there is nothing to index"
        )
    table = pa.concat_tables(tables)
    read_s = (time.perf_counter() - begun_s) / max(1, table.num_rows) / (os.cpu_count() or 1)
    good = table.filter(table["reject"].is_null())
    if not good.num_rows:
        raise _none_usable(table, _rejects(table))
    encoder = None if build.model is None else build.model.load()
    width = build.plan.expected_width
    if encoder is not None:
        check_model_width(encoder.spec, width)
    passages, rejects = good, _rejects(table)
    if encoder is not None and width is None and options.chunking is not None:
        options.chunking.check(encoder.tokens, encoder.spec.name)
        passages = chunked(good, encoder.tokens, options.chunking)
        rejects += _rejects(passages)
        passages = passages.filter(passages["reject"].is_null())
        if not passages.num_rows:
            raise _none_usable(table, rejects)
    texts = [
        model_text(title, text)
        for title, text in zip(
            *(passages[name].to_pylist() for name in ("title", "text")), strict=True
        )
    ]
    rate = 0.0 if encoder is None or width is not None else _rate(encoder, texts)
    records, is_estimate = _records(build, table)
    kept = records * good.num_rows / table.num_rows * len(passages) / good.num_rows
    dimension = width if width is not None or encoder is None else encoder.spec.dimension
    assert dimension is not None
    return Preview(
        files=len(build.plan.files),
        listed=tuple(_file_facts(file) for file in build.plan.files[:FILES_LISTED]),
        passed_over=build.plan.passed_over_listed,
        notes=build.plan.notes,
        records=records,
        records_estimated=is_estimate,
        sample=table.num_rows,
        rejects=tuple(rejects),
        fields=tuple(_fields(good)),
        documents=tuple(_shown(row) for row in passages.slice(0, SHOWN).to_pylist()),
        model=None if encoder is None else encoder.spec.name,
        prompts="" if encoder is None else encoder.prompts_said,
        dimension=dimension,
        vectors=width is not None,
        shards=build.shards,
        tokens=None if encoder is None or width is not None else _tokens(encoder, texts),
        passages=round(len(passages) / good.num_rows, 2),
        documents_s=round(rate, 1),
        seconds=round(START_S + 2 * records * read_s + (kept / rate if rate else 0.0), 1),
        disk_bytes=round(build.shards * SHARD_BYTES + kept * _row_bytes(passages, dimension)),
        bits_bytes=round(kept * dimension / 8),
    )


def _none_usable(table: pa.Table, rejects: list[dict[str, Any]]) -> InvalidRequest:
    reasons = "; ".join(row["reason"] for row in rejects[:SHOWN])
    return InvalidRequest(f"no usable document among the first {table.num_rows} records: {reasons}")


def _sampled(files: Sequence[SourceFile]) -> Iterator[pa.Table]:
    """The first records of files that lie evenly among all."""
    each = _each(files)
    for file in _chosen(files):
        left = each
        if file.format.is_whole_document:
            tables: Any = read_text_files([file], each)
        else:
            last = None if file.records is None else min(each, file.records)
            is_cut = last is not None and (file.format.is_matrix or file.format is Format.PARQUET)
            tables = read_documents(file, each, (0, last or 0) if is_cut else None)
        for table in tables:
            yield table.slice(0, left)
            left -= table.num_rows
            if left <= 0:
                break


def _chosen(files: Sequence[SourceFile]) -> Sequence[SourceFile]:
    return files[:: -(-len(files) // SAMPLE_FILES)] if files else files


def _each(files: Sequence[SourceFile]) -> int:
    """How many records of each file are looked at."""
    return -(-SAMPLE_DOCUMENTS // max(1, len(_chosen(files))))


def _records(build: Build, sample: pa.Table) -> tuple[int, bool]:
    """How many records there are, and whether that is an estimate by the size of those seen."""
    files, each = build.plan.files, _each(build.plan.files)
    seen = Counter(sample["file"].to_pylist())
    known, unknown = 0, list[SourceFile]()
    for file in files:
        if file.format.is_whole_document or file.records is not None:
            known += 1 if file.records is None else file.records
        elif 0 < seen[file.path] < each:  # all of it was read
            known += seen[file.path]
        else:
            unknown.append(file)
    if not unknown:
        return known, False
    row_bytes = max(1.0, sample.nbytes / sample.num_rows)
    return known + round(sum(file.memory_bytes for file in unknown) / row_bytes), True


def _rate(encoder: Encoder, texts: Sequence[str]) -> float:
    """Texts a second: those of the sample that lie evenly among it, after one run to warm up."""
    chosen = texts[:: -(-len(texts) // ENCODED)]
    encoder.encode_documents(chosen[:8])
    begun_s = time.perf_counter()
    encoder.encode_documents(chosen)
    return len(chosen) / (time.perf_counter() - begun_s)


def _tokens(encoder: Encoder, texts: Sequence[str]) -> TokensPreview | None:
    tokens = encoder.tokens
    if not tokens.can_count:
        return None
    counts = tokens.counts(texts)
    return TokensPreview(
        limit=tokens.limit,
        mean=round(float(counts.mean()), 1),
        median=int(np.median(counts)),
        p95=int(np.percentile(counts, 95)),
        longest=int(counts.max()),
        cut=tokens.count_cut(texts) or 0,
        of=len(texts),
    )


def _row_bytes(table: pa.Table, dimension: int) -> float:
    """About what a document of the sample takes on the disk, with code and bits."""
    names = ("id", "title", "text", "metadata", "position")
    ids, titles, texts, metadata, positions = (table[name].to_pylist() for name in names)
    codes = np.empty((len(table), 0), dtype=np.int8)
    documents = Insert(ids, titles, texts, metadata, positions, codes)
    packed = sum(len(key) + len(value) for key, value in
                 pack_documents(documents, range(len(table)), 0))  # fmt: skip
    share, more = ROW_OVERHEAD
    return share * (packed / len(table) + dimension) + dimension / 8 + more


def _file_facts(file: SourceFile) -> dict[str, Any]:
    return {
        "path": file.path,
        "format": file.format.value,
        "compression": file.compression.value.lstrip(".") or None,
        "size_bytes": file.size_bytes,
        "records": 1 if file.format.is_whole_document else file.records,
        "fields": dict(file.fields.named()),
        "vectors": file.vectors,
    }


def _rejects(table: pa.Table) -> list[dict[str, Any]]:
    bad = table.filter(table["reject"].is_valid()).select(["file", "line", "reject"])
    return [
        {"file": row["file"], "line": row["line"], "reason": row["reject"]}
        for row in bad.to_pylist()
    ]


def _fields(good: pa.Table) -> list[FieldPreview]:
    """Those of the metadata, in the order in which they come."""
    kinds: dict[str, Counter[str]] = {}
    for text in good["metadata"].to_pylist():
        for name, value in (orjson.loads(text) if text else {}).items():
            kinds.setdefault(name, Counter())[_KINDS[type(value)]] += 1
    return [
        FieldPreview(name, tuple(sorted(found)), round(found.total() / good.num_rows, 4))
        for name, found in kinds.items()
    ]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A document for people: its beginning."""
    text = row["text"]
    cut = f"{text[:SHOWN_CHARACTERS]}…" if len(text) > SHOWN_CHARACTERS else text
    metadata = orjson.loads(row["metadata"]) if row["metadata"] else {}
    return {"id": row["id"], "title": row["title"], "text": cut, "metadata": metadata}
