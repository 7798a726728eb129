"""Indexes to measure on: synthetic vectors, real texts, written straight into shards or built."""

from __future__ import annotations

import gzip
import itertools
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.cluster import manifest as manifests
from bitsift.cluster.demo import CORPUS
from bitsift.cluster.manifest import BuildReport, Manifest
from bitsift.cluster.sources.synthetic import BLOCK_ROWS, SyntheticSpec, synthetic_block
from bitsift.router.description import ModelSpec
from bitsift.router.shards.placement import Placement
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.operations import Insert, statuses
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import LIVE_POSITION

_CALIBRATION_ROWS = 4_096


def glosses(count: int) -> list[str]:
    """``count`` texts of the shipped WordNet, "word: gloss", over and over where it has fewer."""
    lines = gzip.decompress(CORPUS.read_bytes()).splitlines()[:count]
    records = [orjson.loads(line) for line in lines]
    texts = [f"{record['title']} {record['text']}" for record in records]
    return list(itertools.islice(itertools.cycle(texts), count))


def abstracts(count: int, folder: Path | None = None) -> list[str]:
    """``count`` texts of 120 to 250 words.

    From the BEIR folder's corpus where one is given (those that are that long, over and over), else
    made of consecutive WordNet glosses, whose words are as rare as those of real abstracts.
    """
    if folder is not None:
        lines = (folder / "corpus.jsonl").read_bytes().splitlines()
        texts = [str(orjson.loads(line)["text"]) for line in lines]
        long = [text for text in texts if 120 <= len(text.split()) <= 250]
        return list(itertools.islice(itertools.cycle(long), count))
    wanted = np.random.default_rng(0).integers(120, 251, count)
    words = itertools.chain.from_iterable(text.split() for text in itertools.cycle(glosses(20_000)))
    return [" ".join(itertools.islice(words, int(length))) for length in wanted]


def blocks(spec: SyntheticSpec) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, unit vectors float32 (n, dim)) of the whole corpus."""
    for first in range(0, spec.rows, BLOCK_ROWS):
        yield first, synthetic_block(spec, first, min(BLOCK_ROWS, spec.rows - first))


def write_index(
    folder: Path,
    spec: SyntheticSpec,
    shards: int = 1,
    *,
    model: ModelSpec | None = None,
    texts: Sequence[str] = ("",),
) -> Manifest:
    """A finished index of the corpus, written by this process without Ray.

    Rows go to the shards in turn. ``model`` is what the manifest claims the vectors come from: so a
    text index of a million rows can be timed without encoding a million texts. ``texts`` are
    stored with the rows, over and over.
    """
    sample = synthetic_block(spec, 0, min(spec.rows, _CALIBRATION_ROWS))
    manifest = Manifest(
        uuid=str(uuid.uuid4()),
        name=folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        shards=shards,
        calibration=Calibration.from_sample(sample, spec.dim),
        model=model,
        request={"benchmark": str(spec)},
        records=spec.rows,
    )
    opened = [_create(folder, manifest, number) for number in range(shards)]
    for first, units in blocks(spec):
        codes, _ = manifest.calibration.quantize(manifest.calibration.units(units))
        ids = [str(row) for row in range(first, first + len(units))]
        for number, places in Placement(shards).by_owner(ids).items():
            rows = (first + places).tolist()
            statuses(opened[number].write([_insert(rows, codes[places], texts)]))
    for shard in opened:
        shard.save_bits()
    manifests.write_manifest(folder, manifest)
    manifests.write_complete(folder, _report(spec, opened))
    for shard in opened:
        shard.close()
    return manifest


def _create(folder: Path, manifest: Manifest, number: int) -> Shard:
    path = shard_folder(folder, number)
    Shard.create(path, manifest.identity(number))
    return Shard(path, manifest.calibration, manifest.identity(number))


def _insert(rows: Sequence[int], codes: NDArray[np.int8], texts: Sequence[str]) -> Insert:
    blank = [""] * len(rows)
    return Insert(
        ids=[str(row) for row in rows],
        titles=blank,
        texts=[texts[row % len(texts)] for row in rows],
        metadata=blank,
        positions=[LIVE_POSITION] * len(rows),
        codes=codes,
    )


def _report(spec: SyntheticSpec, shards: list[Shard]) -> BuildReport:
    reports = [shard.status() for shard in shards]
    return BuildReport(
        documents=spec.rows,
        rejects=0,
        encoded=spec.rows,
        seconds=0.0,
        clipped_values=0,
        bits_bytes=sum(status.bits_bytes for status in reports),
        disk_bytes=sum(status.disk_bytes for status in reports),
        float32_bytes=spec.rows * spec.dim * 4,
        shard_documents=tuple(status.documents for status in reports),
    )


def raw_bits(manifest: Manifest, spec: SyntheticSpec, rows: int) -> NDArray[np.uint8]:
    """The packed bits (rows, width/8) of the first rows, for raw FAISS to search."""
    calibration = manifest.calibration
    parts = []
    for first, units in blocks(spec):
        if first >= rows:
            break
        codes, _ = calibration.quantize(calibration.units(units[: rows - first]))
        parts.append(calibration.bits(codes))
    return np.concatenate(parts)
