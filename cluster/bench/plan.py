"""`bitsift plan`: what an index of so many documents needs, and how fast it will answer.

Everything is scaled from one measured run of a large index (`bitsift bench --synthetic`):

    bytes of a row     counted: codes, bits, lists, ids (store-…/, lists.py)
    overhead           what HTTP, router and actors add to a shard's own time: the approximate p50
                       over HTTP minus the approximate p50 of the bare shard
    scan               the rest of the exact p50 over HTTP, per byte of bits that one core scans
                       while the other cores scan too: linear, a scan runs at the speed of memory
    visits             an approximate search reads the signs of all lists and the rows of ``nprobe``
    batches            the inverse of the rate under 16 clients, per byte, above the approximate one
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitsift.errors import Corrupt, InvalidRequest, NotFound

DEFAULT_SOURCE = Path(__file__).parents[1] / "data" / "measured.json"
"""A run that is shipped, so that a plan can be made before anything is measured."""
SHARD_PROCESS_BYTES = 80_000_000
"""RAM of a shard's process without a row (measured: 76 MB)."""
ENCODER_RUNTIME_BYTES = 280_000_000
"""torch, OpenVINO and tokenizers; the weights come twice, once for each (measured: 456 MB in all
with the 91 MB of all-MiniLM-L6-v2)."""
ROWS_PER_SHARD_MAX = 1 << 32
CRC_BYTES = 4
LIST_ROW_BYTES = 4
"""RAM of a row in the lists in addition to its bits: its number. On disk twice that (lists.py)."""
_MODEL = "minilm"


@dataclass(frozen=True, slots=True)
class Measured:
    """What is taken from a run: sizes of its index, milliseconds, queries a second, bytes of RAM.

    ``shard_*`` were measured in one process without Ray, the others over HTTP.
    """

    source: str
    machine: dict[str, Any]
    rows: int
    dimension: int
    shards: int
    codes_bytes: int
    ids_bytes: int
    free_bytes: int
    documents_s: float
    train_s: float
    exact_ms: float
    approximate_ms: float
    shard_exact_ms: float
    shard_approximate_ms: float
    exact_queries_s: float
    approximate_queries_s: float
    nprobe: int
    served_bytes: int
    recall_at_10: float

    @property
    def cores(self) -> int:
        """Cores of the machine, at least one."""
        return max(1, int(self.machine["cores"]))

    @classmethod
    def read(cls, path: Path | None) -> Measured:
        """From a result of `bitsift bench --synthetic`; None takes the shipped one.

        Raises NotFound, or Corrupt when the run has not come to its end.
        """
        path = path or DEFAULT_SOURCE
        try:
            data = json.loads(path.read_text())
            return cls(**_taken(data), source=path.name)
        except FileNotFoundError as error:
            raise NotFound(f"{path} does not exist; run: bitsift bench --synthetic 10M") from error
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(
                f"{path} is not the result of a whole 'bitsift bench --synthetic' ({error!r})"
            ) from error


def _taken(data: dict[str, Any]) -> dict[str, Any]:
    disk, served, alone = data["disk"], data["serve"], data["candidates"]
    sizes = {key: data[key] for key in ("machine", "rows", "dimension", "shards")}
    clients = "warm_16_clients"
    return sizes | {
        "codes_bytes": disk["codes"],
        "ids_bytes": disk["ids"],
        "free_bytes": disk["free"],
        "documents_s": float(data["build"]["documents_s"]),
        "train_s": float(data["train"]["seconds"] or 0.0),
        "exact_ms": served["exact_warm"]["p50_ms"],
        "approximate_ms": served["approximate_warm"]["p50_ms"],
        "shard_exact_ms": alone["shard_exact_p50_ms"],
        "shard_approximate_ms": alone["shard_approximate_p50_ms"],
        "exact_queries_s": served[f"exact_{clients}"]["queries_s"],
        "approximate_queries_s": served[f"approximate_{clients}"]["queries_s"],
        "nprobe": max(data["train"]["nprobe"]),
        "served_bytes": data["memory"]["by_phase"]["serve"]["total"],
        "recall_at_10": served["recall_at_10"],
    }


@dataclass(frozen=True, slots=True)
class Plan:
    """What to expect. Times are p50 of a vector query over HTTP on a warm index, in milliseconds;
    a text query takes its encoding on top. Disk is without the documents' own texts.
    """

    documents: int
    dimension: int
    shards: int
    ram_bytes: int
    ram_bytes_per_document: float
    disk_bytes: int
    exact_ms: float
    approximate_ms: float
    exact_queries_s: float
    approximate_queries_s: float
    build_s: float
    train_s: float
    measured: str
    machine: str
    notes: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        each = f"{self.ram_bytes_per_document:.1f} bytes of bits and lists per document"
        return [
            ("documents", f"{self.documents:,} x {self.dimension}, {self.shards} shards"),
            ("RAM, all processes", f"{self.ram_bytes / 1e9:,.2f} GB ({each})"),
            ("disk without texts", f"{self.disk_bytes / 2**30:,.1f} GiB"),
            ("exact, p50", f"{self.exact_ms:,.1f} ms, up to {self.exact_queries_s:,.0f} queries/s"),
            (
                "approximate, p50",
                f"{self.approximate_ms:,.1f} ms, up to {self.approximate_queries_s:,.0f} queries/s",
            ),
            ("building (precomputed embeddings)", f"{self.build_s / 60:,.1f} minutes"),
            ("making the lists", f"{self.train_s / 60:,.1f} minutes"),
            ("measured on", f"{self.machine} ({self.measured})"),
            *(("note", note) for note in self.notes),
        ]


def make_plan(
    documents: int,
    dimension: int | None,
    shards: int | None,
    model: str | None,
    measured: Measured,
) -> Plan:
    """Scale ``measured`` to an index. Shards default to one a core, or what their size needs.

    Raises InvalidRequest when neither ``dimension`` nor ``model`` says how wide a vector is.
    """
    weights_bytes, width = _model_facts(model or _MODEL, dimension)
    least = -(-documents // ROWS_PER_SHARD_MAX)
    shards = max(shards or measured.cores, least)
    ram_row = ram_per_row(documents, width, shards)
    base = _process_bytes(measured, shards) + ENCODER_RUNTIME_BYTES + 2 * weights_bytes
    ram = round(base + ram_row * documents)
    exact = _exact_ms(measured, documents, width, shards)
    approximate = _approximate_ms(measured, documents, width, shards)
    exact_rate, approximate_rate = _rates(measured, documents, width, approximate)
    machine = measured.machine
    return Plan(
        documents=documents,
        dimension=width,
        shards=shards,
        ram_bytes=ram,
        ram_bytes_per_document=round(ram_row, 2),
        disk_bytes=disk_bytes(measured, documents, width, shards),
        exact_ms=round(exact, 2),
        approximate_ms=round(approximate, 2),
        exact_queries_s=round(exact_rate, 1),
        approximate_queries_s=round(approximate_rate, 1),
        build_s=round(documents * width / measured.dimension / measured.documents_s, 1),
        train_s=round(measured.train_s * documents * width / measured.rows / measured.dimension, 1),
        measured=f"{measured.source}: {measured.rows:,} x {measured.dimension}",
        machine=f"{machine['processor']}, {measured.cores} cores, {machine['memory_gib']} GiB",
        notes=_notes(measured, ram, shards),
    )


def _model_facts(model: str, dimension: int | None) -> tuple[int, int]:
    """Bytes of a model's weights (0 where they are not on this disk), and the width of a vector."""
    from bitsift.router.model.location import model_location

    with contextlib.suppress(InvalidRequest):  # a model that is to come is planned with too
        model = model_location(model)
    folder = Path(model)
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    if dimension is None:
        try:
            config = json.loads((folder / "config.json").read_text())
            dimension = int(config["hidden_size"])
        except (OSError, KeyError, ValueError) as error:
            raise InvalidRequest(
                f"the model {model!r} is not a folder on this machine; give the width "
                "of its vectors with --dim"
            ) from error
    return sum(path.stat().st_size for path in weights), dimension


def _lists(documents: int, shards: int) -> int:
    """Lists of one shard."""
    from bitsift.shard_worker.bits.clustering import lists_for

    return lists_for(-(-documents // shards))


def ram_per_row(documents: int, dimension: int, shards: int) -> float:
    """Its bits, its number in the lists, its share of the lists' centroids, which are bits too."""
    centroids = shards * _lists(documents, shards) * dimension / 8 / documents
    return dimension / 8 + LIST_ROW_BYTES + centroids


def _process_bytes(measured: Measured, shards: int) -> float:
    """All processes without rows or encoder: what was measured while serving, less its rows."""
    rows = ram_per_row(measured.rows, measured.dimension, measured.shards) * measured.rows
    base = max(0.0, measured.served_bytes - rows)
    return max(base + (shards - measured.shards) * SHARD_PROCESS_BYTES, 0.0)


def disk_bytes(measured: Measured, documents: int, dimension: int, shards: int) -> int:
    """Codes with their checksums as they were measured to pack; bits in lists; ids; free pages."""
    codes = measured.codes_bytes / measured.rows
    codes *= (dimension + CRC_BYTES) / (measured.dimension + CRC_BYTES)
    bits = ram_per_row(documents, dimension, shards)
    ids = (measured.ids_bytes + measured.free_bytes) / measured.rows
    return round((codes + bits + ids) * documents)


def _scanned_bytes(documents: int, dimension: int, shards: int, cores: int) -> float:
    """Bits that the busiest core reads for an exact query: a shard is scanned by one core."""
    turns = -(-shards // cores)
    return documents / shards * turns * dimension / 8


def _overhead_ms(measured: Measured) -> float:
    """What router, actors and HTTP add to a shard's own time; never more than a whole answer."""
    added = max(0.0, measured.approximate_ms - measured.shard_approximate_ms)
    return min(added, measured.exact_ms)


def _exact_ms(measured: Measured, documents: int, dimension: int, shards: int) -> float:
    overhead, cores = _overhead_ms(measured), measured.cores
    seen = _scanned_bytes(measured.rows, measured.dimension, measured.shards, cores)
    per_byte = max(0.0, measured.exact_ms - overhead) / seen
    return overhead + per_byte * _scanned_bytes(documents, dimension, shards, cores)


def _visited_bytes(documents: int, dimension: int, shards: int, nprobe: int) -> float:
    """Bits that one shard reads for an approximate query: signs of lists, rows of ``nprobe``."""
    lists = _lists(documents, shards)
    rows = documents / shards * min(1.0, nprobe / lists)
    return (lists + rows) * dimension / 8


def _approximate_ms(measured: Measured, documents: int, dimension: int, shards: int) -> float:
    turns = -(-shards // measured.cores)
    alone = shard_approximate_ms(measured, documents, dimension, shards)
    return _overhead_ms(measured) + alone * turns


def shard_approximate_ms(measured: Measured, documents: int, dimension: int, shards: int) -> float:
    """Of one shard, without Ray: what was measured, and the price of what is visited beyond it."""
    seen = _scanned_bytes(measured.rows, measured.dimension, measured.shards, measured.shards)
    per_byte = measured.shard_exact_ms / seen
    before = _visited_bytes(measured.rows, measured.dimension, measured.shards, measured.nprobe)
    now = _visited_bytes(documents, dimension, shards, measured.nprobe)
    return max(0.1, measured.shard_approximate_ms + (now - before) * per_byte)


def _rates(
    measured: Measured, documents: int, dimension: int, approximate_ms: float
) -> tuple[float, float]:
    """Exact and approximate queries a second under 16 clients, which are answered in batches."""
    fixed_s = 1 / measured.approximate_queries_s
    scanned = measured.rows * measured.dimension / 8
    per_byte_s = max(0.0, 1 / measured.exact_queries_s - fixed_s) / scanned
    exact_s = fixed_s + per_byte_s * documents * dimension / 8
    slower = approximate_ms / measured.approximate_ms
    return 1 / exact_s, measured.approximate_queries_s / max(1.0, slower)


def _notes(measured: Measured, ram_bytes: int, shards: int) -> tuple[str, ...]:
    notes = ["texts come on top, compressed: about half of their bytes"]
    available = measured.machine["memory_gib"] * 2**30
    if ram_bytes > available:
        notes.append(
            f"{ram_bytes / 2**30:,.1f} GiB of RAM do not fit the measured machine's "
            f"{available / 2**30:.1f} GiB: spread the shards over several machines"
        )
    if shards > measured.cores:
        notes.append(f"{shards} shards share {measured.cores} cores: they scan in turns")
    return tuple(notes)
