"""Files of text as many programs write them, read by Bitsift and by other readers, and compared.

    python -m tests.sources_differential [--files 5000] [--seed 0] [--out FILE]

Each file is made of a seed: rows, a writer (Python's csv, pandas, PyArrow; the ways of Spark, MySQL
and PostgreSQL; orjson and json), an encoding, a compression and perhaps a fault. Its rows have to
come back, each with its id, title and text. Its records, good and bad, are counted by another
reader too: Python's csv module, json line by line, or `wc`'s count of lines that are not blank.

A file *agrees* where both counts are the same and no row is lost. Where a fault makes the counts
differ it is *explained* if each row that was written is a document or stands in the lines of a
reject with its reason, and no document is there that nobody wrote. Anything else is *unexplained*.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import io
import json
import lzma
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import zstandard

from bitsift.cluster.sources.dialect import Layout, checked_layout
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.readers import read_documents
from bitsift.errors import InvalidRequest

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "sources_differential.json"
ROWS_MAX = 40
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
PIECES = [
    *("word", "two words", "naïve", "naïve", "日本", "it's", 'a "quote"', '"', '""', "a;b", "x|y"),
    *("a, b", "C:\\new\\table", "\\", "end\\", "tab\there", "two\nlines", "\r\n", "Twilight", " "),
]
PLAIN = [piece for piece in PIECES if not set(piece) & set('"\t\n\r\\')]

Row = tuple[str, str, str]


@dataclass(frozen=True)
class Written:
    """A file: its lines in the order of its rows, the header not among them, and who counts it."""

    writer: str
    ending: str
    header: str
    lines: list[str]
    rows: list[Row]
    layout: Layout = field(default_factory=Layout)
    rules: dict[str, Any] | None = None
    newline: str = "\n"

    @property
    def text(self) -> str:
        return self.header + "".join(self.lines)


def _texts(draw: random.Random, pieces: list[str], count: int) -> list[Row]:
    rows = list[Row]()
    for number in range(count):
        parts = draw.choices(pieces, k=draw.randint(1, 4))
        text = " ".join(parts) if draw.random() < 0.7 else "".join(parts)
        text = text if text.strip() else "blank"
        rows.append((f"k{number}", draw.choice(["", "title", draw.choice(pieces)]).strip(), text))
    return rows


def _with_csv(draw: random.Random, delimiter: str | None = None) -> Written:
    rules: dict[str, Any] = {
        "delimiter": delimiter or draw.choice([",", ";", "\t", "|"]),
        "quoting": draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "lineterminator": draw.choice(["\n", "\r\n"]),
    }
    rows = _texts(draw, PIECES, draw.randint(1, ROWS_MAX))

    def line(cells: tuple[str, ...]) -> str:
        stream = io.StringIO(newline="")
        csv.writer(stream, **rules).writerow(cells)
        return stream.getvalue()

    ending = ".tsv" if rules["delimiter"] == "\t" and draw.random() < 0.5 else ".csv"
    header = line(("id", "title", "text"))
    said = Layout(delimiter=rules["delimiter"], quote='"') if draw.random() < 0.2 else Layout()
    if rules["delimiter"] == ";" and draw.random() < 0.3:
        header = f"sep=;{rules['lineterminator']}{header}"
    return Written("csv module", ending, header, list(map(line, rows)), rows, said, rules)


def _with_pandas(draw: random.Random) -> Written:
    rows = _texts(draw, PIECES, draw.randint(1, ROWS_MAX))
    has_index = draw.random() < 0.5
    frame = pd.DataFrame(rows, columns=["id", "title", "text"])

    def write(part: pd.DataFrame, *, header: bool) -> str:
        return str(part.to_csv(index=has_index, header=header, lineterminator="\n"))

    header = write(frame.iloc[:0], header=True)
    lines = [write(frame.iloc[place : place + 1], header=False) for place in range(len(rows))]
    return Written("pandas", ".csv", header, lines, rows, rules={"delimiter": ","})


def _with_arrow(draw: random.Random) -> Written:
    rows = _texts(draw, PIECES, draw.randint(1, ROWS_MAX))

    def write(some: list[Row], *, header: bool) -> str:
        columns = {
            name: [row[place] for row in some] for place, name in enumerate(("id", "title", "text"))
        }
        schema = pa.schema([(name, pa.string()) for name in columns])
        sink = pa.BufferOutputStream()
        options = pa.csv.WriteOptions(include_header=header)
        pa.csv.write_csv(pa.table(columns, schema=schema), sink, options)
        return str(sink.getvalue().to_pybytes(), "utf-8")

    lines = [write([row], header=False) for row in rows]
    header = write([], header=True)
    return Written("pyarrow", ".csv", header, lines, rows, rules={"delimiter": ","})


def _with_tabs(draw: random.Random) -> Written:
    """Cells between tabs, as they are: ``"Twilight" is a novel``."""
    pieces = [piece for piece in PIECES if not set(piece) & set("\t\n\r")]
    rows = _texts(draw, pieces, draw.randint(1, ROWS_MAX))
    if draw.random() < 0.3:  # without title and header, as MS MARCO's collection.tsv
        rows = [(str(number), "", text) for number, (_, _, text) in enumerate(rows)]
        lines = [f"{key}\t{text}\n" for key, _, text in rows]
        said = Layout(header=False, columns=("id,text",)) if draw.random() < 0.5 else Layout()
        return Written("tabs, no header", ".tsv", "", lines, rows, replace(said, quote="none"))
    lines = ["\t".join(row) + "\n" for row in rows]
    return Written(
        "tabs",
        ".tsv",
        "id\ttitle\ttext\n",
        lines,
        rows,
        draw.choice([Layout(), Layout(quote="none")]),
    )


def _dump(draw: random.Random, writer: str, escape: Callable[[str], str]) -> Written:
    rows = _texts(draw, PIECES, draw.randint(1, ROWS_MAX))
    rows = [(str(number + 1), *row[1:]) for number, row in enumerate(rows)]
    lines = ["\t".join(escape(cell) if cell else "\\N" for cell in row) + "\n" for row in rows]
    said = Layout(delimiter="tab", escape="\\", header=False, columns=("id,title,text",))
    ending = draw.choice([".tsv", ".csv", ".txt"])
    return Written(writer, ending, "", lines, rows, said)


def _as_mysql(text: str) -> str:
    for letter in ("\\", "\t", "\n"):
        text = text.replace(letter, "\\" + letter)
    return text


def _as_postgres(text: str) -> str:
    text = text.replace("\\", "\\\\")
    for letter, name in (("\t", "t"), ("\n", "n"), ("\r", "r")):
        text = text.replace(letter, f"\\{name}")
    return text


def _with_spark(draw: random.Random) -> Written:
    rows = _texts(draw, PIECES, draw.randint(1, ROWS_MAX))

    def cell(text: str) -> str:
        if not set(text) & set('",\n\r'):
            return text or '""'
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [",".join(map(cell, row)) + "\n" for row in rows]
    said = Layout(escape="\\") if draw.random() < 0.5 else Layout()
    plain = not any("\\" in text and text == cell(text) for row in rows for text in row)
    is_seen = any('\\"' in line.replace("\\\\", "") for line in lines)
    if said.escape is None and (not plain or not is_seen):
        said = Layout(escape="\\")  # nothing to find it by
    rows = [_unescaped(row) if said.escape else row for row in rows]
    return Written("spark", ".csv", "id,title,text\n", lines, rows, said)


def _unescaped(row: Row) -> Row:
    """Cells that Spark writes without quotes keep their backslashes; an escape is one in any."""
    key, title, text = (
        cell if set(cell) & set('",\n\r') else cell.replace("\\\\", "\\") for cell in row
    )
    return key, title, text


def _with_json(draw: random.Random) -> Written:
    rows = _texts(draw, PIECES, draw.randint(1, ROWS_MAX))
    newline = draw.choice(["\n", "\r\n"])
    dumps: list[Callable[[object], str]] = [json.dumps, lambda row: orjson.dumps(row).decode()]
    dump = draw.choice(dumps)
    lines = [dump({"id": key, "title": title, "text": text}) + newline for key, title, text in rows]
    return Written("json lines", ".jsonl", "", lines, rows)


WRITERS: list[Callable[[random.Random], Written]] = [
    _with_csv,
    lambda draw: _with_csv(draw, "\t"),
    _with_pandas,
    _with_arrow,
    _with_tabs,
    lambda draw: _dump(draw, "mysql", _as_mysql),
    lambda draw: _dump(draw, "postgresql", _as_postgres),
    _with_spark,
    _with_json,
]


# --- faults --------------------------------------------------------------------------------------


def _open_quote(draw: random.Random, file: Written) -> tuple[Written, set[int]] | None:
    """The last quote of a row is gone. Not where the one before it then looks escaped: such a file
    is one of another dialect.
    """
    places = [
        place
        for place, line in enumerate(file.lines)
        if line.rstrip("\r\n").endswith('"') and not line.rstrip("\r\n").endswith('\\"""')
    ]
    if not places or file.writer.startswith("tabs") or file.rules is None:
        return None
    place = draw.choice(places)
    line = file.lines[place]
    body = line.rstrip("\r\n")
    return _changed(file, place, body[:-1] + line[len(body) :])


def _ragged(draw: random.Random, file: Written) -> tuple[Written, set[int]] | None:
    place = draw.randrange(len(file.lines))
    line = file.lines[place]
    body = line.rstrip("\r\n")
    if file.ending == ".jsonl" or not body.endswith('"'):
        return None
    delimiter = (file.rules or {}).get("delimiter", "\t")
    return _changed(file, place, f"{body}{delimiter}more{line[len(body) :]}")


def _bad_byte(draw: random.Random, file: Written) -> tuple[Written, set[int]]:
    place = draw.randrange(len(file.lines))
    line = file.lines[place]
    at = line.find("word")
    return _changed(file, place, line[:at] + "\udcff" + line[at:]) if at >= 0 else (file, set())


def _broken_line(draw: random.Random, file: Written) -> tuple[Written, set[int]] | None:
    if file.ending != ".jsonl":
        return None
    place = draw.randrange(len(file.lines))
    return _changed(file, place, file.lines[place].replace("}", "", 1))


def _blank_lines(draw: random.Random, file: Written) -> tuple[Written, set[int]]:
    lines = [line + draw.choice(["", "", "\n"]) for line in file.lines]
    return replace(file, lines=lines), set()


def _changed(file: Written, place: int, line: str) -> tuple[Written, set[int]]:
    lines = list(file.lines)
    lines[place] = line
    return replace(file, lines=lines), {place}


FAULTS: list[Callable[[random.Random, Written], tuple[Written, set[int]] | None]] = [
    _open_quote, _ragged, _bad_byte, _broken_line, _blank_lines,
]  # fmt: skip


# --- reading and comparing -----------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a file. `kind` is agrees, explained or unexplained; `why` is for people."""

    kind: str
    writer: str
    fault: str
    codec: str
    why: str = ""


def made(seed: int) -> tuple[Written, str, set[int], str, str]:
    """The file of a seed, its fault and the rows that it touches, its encoding and codec."""
    draw = random.Random(seed)
    file, fault, touched = draw.choice(WRITERS)(draw), "none", set[int]()
    if draw.random() < 0.5:
        change = draw.choice(FAULTS)
        changed = change(draw, file)
        if changed is not None:
            file, touched = changed
            fault = change.__name__.strip("_")
    encodings = ["utf-8", "utf-8", "utf-8-sig"]
    is_wide = any(ord(letter) > 255 for letter in file.text)
    if fault != "bad_byte":
        encodings += ["utf-16"] if file.writer != "tabs" else []
        encodings += [] if is_wide else ["cp1252"]
    encoding, codec = draw.choice(encodings), draw.choice(list(CODECS))
    if encoding == "cp1252":
        file = replace(file, layout=replace(file.layout, encoding="cp1252"))
    return file, fault, touched, encoding, codec


def check(seed: int, folder: Path) -> Outcome:
    """Make the file of a seed, read it, and compare."""
    file, fault, touched, encoding, codec = made(seed)
    path = folder / f"{seed}{file.ending}{codec}"
    errors = "surrogateescape" if fault == "bad_byte" else "strict"
    path.write_bytes(CODECS[codec](file.text.encode(encoding, errors)))

    def outcome(kind: str, why: str = "") -> Outcome:
        return Outcome(kind, file.writer, fault, codec, why)

    try:
        plan = plan_sources([path], layout=checked_layout(file.layout))
        tables = [table for source in plan.files for table in read_documents(source)]
    except InvalidRequest as error:
        return outcome("unexplained", str(error))
    finally:
        path.unlink()
    found = [row for table in tables for row in table.to_pylist()]
    good = {row["id"]: row for row in found if row["reject"] is None}
    bad = [row for row in found if row["reject"] is not None]
    why = _lost(file, touched, good, bad)
    if why:
        return outcome("unexplained", why)
    if len(found) == counted(file):
        return outcome("agrees")
    if bad:
        return outcome("explained", bad[0]["reject"])
    if len(good) == len(file.rows):
        return outcome("explained", "every row is a document, the other reader loses some")
    return outcome("unexplained", f"{len(found)} records, another reader counts {counted(file)}")


def _lost(file: Written, touched: set[int], good: dict[str, Any], bad: list[dict[str, Any]]) -> str:
    """Which row is lost or changed, or which document nobody wrote; "" where all is well."""
    rows = {row[0]: row for row in file.rows}
    hurt = {file.rows[place][0] for place in touched}
    for key, row in rows.items():
        if key in good:
            same = (good[key]["title"], good[key]["text"]) == (row[1], row[2])
            if not same and key not in hurt:
                return f"{row} came back as {good[key]['title']!r}, {good[key]['text']!r}"
        elif key not in hurt and not _is_said(file, key, bad):
            return f"{row} is lost; rejects: {[(it['line'], it['reject']) for it in bad]}"
    missing = hurt - good.keys()
    if missing and not bad:
        return f"{missing} are lost without a reject"
    if bad and not touched:
        return f"rejected without a fault: {bad[0]['reject']}"
    invented = good.keys() - rows.keys()
    return f"nobody wrote {good[min(invented)]}" if invented else ""


def _is_said(file: Written, key: str, bad: list[dict[str, Any]]) -> bool:
    """Whether the lines of a row are among those that a reject names."""
    before = file.header
    for row, line in zip(file.rows, file.lines, strict=True):
        if row[0] == key:
            break
        before += line
    first = before.count("\n") + 1
    said = (re.search(r"\(lines (\d+) to (\d+)\)", reject["reject"]) for reject in bad)
    return any(found and int(found[1]) <= first <= int(found[2]) for found in said)


def counted(file: Written) -> int:
    """How many records another reader finds in the file, the header not among them."""
    if file.rules is None:
        if file.writer == "spark":
            return len(file.lines)
        text = re.sub(r"(?s)\\(.)", "", file.text) if file.writer == "mysql" else file.text
        return sum(bool(line.strip("\r")) for line in text.split("\n")) - bool(file.header)
    text = file.text.removeprefix("sep=;\r\n").removeprefix("sep=;\n")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=file.rules["delimiter"])
    return sum(bool(row) for row in reader) - 1


def run(seeds: range) -> tuple[Counter[str], dict[str, Counter[str]], list[str]]:
    """How many files agree, are explained or not; the same by writer; those that are not."""
    kinds, by_writer, unexplained = Counter[str](), dict[str, Counter[str]](), list[str]()
    with tempfile.TemporaryDirectory() as name:
        for seed in seeds:
            found = check(seed, Path(name))
            kinds[found.kind] += 1
            by_writer.setdefault(found.writer, Counter())[f"{found.fault}: {found.kind}"] += 1
            if found.kind == "unexplained":
                said = f"seed {seed}, {found.writer}, {found.fault}: {found.why}"
                unexplained.append(said)
    return kinds, by_writer, unexplained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    kinds, by_writer, unexplained = run(range(asked.seed, asked.seed + asked.files))
    result = {
        "files": asked.files,
        "first_seed": asked.seed,
        **{kind: kinds[kind] for kind in ("agrees", "explained", "unexplained")},
        "by_writer": {name: dict(sorted(by_writer[name].items())) for name in sorted(by_writer)},
        "unexplained_first": unexplained[:20],
    }
    asked.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
