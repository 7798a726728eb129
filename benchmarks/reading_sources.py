"""How fast sources are read, beside PyArrow's own readers, and how much RAM a large one takes.

    python -m benchmarks.reading_sources [--rows 1000000] [--gib 4] [--out FILE]

Rate: a JSON lines, a CSV and a Parquet file of the same rows, read into Python objects by
`read_records` (not Parquet: its columns become documents without any), into checked tables of
documents by `read_documents`, and into Python objects by PyArrow, in turns, each
in a process of its own on one core, after a file of one row. The best of the turns counts: a busy
machine makes them slower, never faster.
RAM: the peak of a process that reads a source of so many GiB, a record of JSON a line, the last one
a line of 100 MB, which has to be refused.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.records import read_records
from bitsift.cluster.sources.streams import TOO_LONG

WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "a"),
    *("lazy", "dog", "while", "nobody", "looks", "at", "it"),
)
TURNS = 3
LONG_LINE_BYTES = 100_000_000
RATIO_MIN = 0.7
PEAK_MB_MAX = 400
RESULTS = Path(__file__).parent / "results" / "reading_sources.json"


def write_rows(folder: Path, rows: int) -> None:
    """The same rows as JSON lines, CSV and Parquet: a fifth of the texts needs quotes."""
    draw, rows_of_parquet = random.Random(1), []
    with (
        (folder / "a.jsonl").open("wb") as lines,
        (folder / "a.csv").open("w", newline="") as sheet,
    ):
        table = csv.writer(sheet)
        table.writerow(["id", "title", "text", "year"])
        for number in range(rows):
            text = " ".join(draw.choices(WORDS, k=30)) + (', "so"' if number % 5 == 0 else "")
            row = {"id": f"doc{number}", "title": f"title {number}", "text": text, "year": 1900}
            lines.write(orjson.dumps(row) + b"\n")
            table.writerow(row.values())
            rows_of_parquet.append(row)
    pa.parquet.write_table(pa.Table.from_pylist(rows_of_parquet), folder / "a.parquet")


def write_large(path: Path, size_bytes: int) -> int:
    """A file of JSON lines of about `size_bytes`, the last one too long; returns its rows."""
    draw = random.Random(2)
    texts = [" ".join(draw.choices(WORDS, k=150)) for _ in range(1_000)]
    rows = 0
    with path.open("wb", buffering=1 << 20) as lines:
        while lines.tell() < size_bytes:
            for text in texts:
                lines.write(orjson.dumps({"id": f"doc{rows}", "text": text}) + b"\n")
                rows += 1
        lines.write(b'{"text": "' + b"a" * LONG_LINE_BYTES + b'"}\n')
    return rows + 1


def with_records(path: str) -> int:
    (file,) = plan_sources([path]).files
    return sum(record.row is not None for record in read_records(file))


def with_documents(path: str) -> int:
    (file,) = plan_sources([path]).files
    return sum(table.num_rows for table in read_documents(file))


def with_reject(path: str) -> int:
    """The rows of a source of which the last one, and no other, is rejected."""
    (file,) = plan_sources([path]).files
    rows = 0
    for table in read_documents(file):
        rows += table.num_rows
        rejects = [(row["line"], row["reject"]) for row in table.to_pylist() if row["reject"]]
    assert rejects == [(rows, TOO_LONG)], rejects
    return rows


def with_arrow(path: str) -> int:
    pa.set_cpu_count(1)
    reads = {".csv": pa.csv.read_csv, ".jsonl": pa.json.read_json, ".parquet": _parquet}
    return len(reads[Path(path).suffix](path).to_pylist())


def _parquet(path: str) -> pa.Table:
    return pa.parquet.read_table(path, use_threads=False)


READERS: dict[str, Callable[[str], int]] = {
    "records": with_records, "documents": with_documents, "arrow": with_arrow,
}  # fmt: skip
"""In turns; each returns the rows that it found."""


def peak_mb() -> float:
    """The peak RSS of this process; getrusage would count what it was before it was this one."""
    (line,) = (it for it in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in it)
    return float(line.split()[1]) * 1024 / 1e6


def _one_row(path: str) -> str:
    """A file beside `path`, of its kind."""
    small = Path(path).with_stem("one")
    if small.suffix == ".parquet":
        pa.parquet.write_table(pa.table({"id": ["1"], "text": ["a"]}), small)
    else:
        line = "id,text\n1,a\n" if small.suffix == ".csv" else '{"id": "1", "text": "a"}\n'
        small.write_text(line)
    return str(small)


def _measured(reader: str, path: str) -> tuple[int, float, float, float]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if reader in READERS:
        READERS[reader](_one_row(path))  # what is imported by the first file
    before, started = time.process_time(), time.perf_counter()
    rows = (with_reject if reader == "reject" else READERS[reader])(path)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - before
    return rows, wall_s, cpu_s, peak_mb()


def measured(reader: str, path: Path) -> tuple[int, float, float, float]:
    """Rows, seconds, CPU seconds and peak RSS in MB of a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (reader, str(path)))


def rates(folder: Path, rows: int) -> dict[str, Any]:
    """Rows a CPU second of each reader and file, and their ratios to PyArrow's."""
    found: dict[str, Any] = {}
    for path in (folder / "a.jsonl", folder / "a.csv", folder / "a.parquet"):
        readers = [it for it in READERS if (it, path.suffix) != ("records", ".parquet")]
        best = dict.fromkeys(readers, 0.0)
        for _ in range(TURNS):
            for reader in readers:
                read, _, cpu_s, _ = measured(reader, path)
                assert read == rows, (reader, path.suffix, read)
                best[reader] = max(best[reader], rows / cpu_s)
        found[path.suffix[1:]] = {
            **{f"{reader}_rows_per_s": round(rate) for reader, rate in best.items()},
            **{
                f"{reader}_over_arrow": round(best[reader] / best["arrow"], 3)
                for reader in readers
                if reader != "arrow"
            },
        }
    return found


def large(folder: Path, gib: float) -> dict[str, Any]:
    """Peak RSS of reading a large source, and that of reading an empty one."""
    path = folder / "large.jsonl"
    rows = write_large(path, int(gib * (1 << 30)))
    read, wall_s, _, peak_mb = measured("reject", path)
    size_bytes = path.stat().st_size
    path.write_bytes(b'{"text": "a"}\n')
    assert read == rows
    return {
        "bytes": size_bytes, "rows": rows, "seconds": round(wall_s, 1), "peak_mb": round(peak_mb),
        "peak_mb_of_one_row": round(measured("documents", path)[3]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, asked.rows)
        found = {"rows": asked.rows, **rates(folder, asked.rows), "large": large(folder, asked.gib)}
    ratios = [found[kind]["records_over_arrow"] for kind in ("jsonl", "csv")]
    ratios.append(found["parquet"]["documents_over_arrow"])
    found["targets"] = {
        "over_arrow_min": RATIO_MIN,
        "peak_mb_max": PEAK_MB_MAX,
        "met": min(ratios) >= RATIO_MIN and found["large"]["peak_mb"] <= PEAK_MB_MAX,
    }
    found["machine"] = {"cores": os.cpu_count(), "python": platform.python_version()}
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
