"""Converted models on this machine's disk: converting one takes seconds, reading it back a tenth.

    $XDG_CACHE_HOME or ~/.cache / bitsift / graphs / KEY / graph.xml, graph.bin, checksums.json

What is kept is OpenVINO's own f32 format, which no CPU and no precision is bound to; compiling it
takes 0.3 s, and a compiled blob, which is bound to both, was no faster to load (all-MiniLM-L6-v2).
A graph is written aside and renamed, so that processes may write the same one at once. One that is
damaged, or that cannot be written, costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import orjson

log = logging.getLogger(__name__)

GRAPHS_MAX = 8
"""The least recently used beyond this many are removed. One of all-MiniLM-L6-v2 takes 90 MB."""
_GRAPH = "graph.xml"
_CHECKSUMS = "checksums.json"
_FILES = {_GRAPH, "graph.bin", _CHECKSUMS}
_CHUNK_BYTES = 1 << 20
_CONVERTERS = ("openvino", "torch", "transformers", "sentence-transformers")
"""Another version of one of these may convert a model to another graph."""


def cache_folder() -> Path:
    """Where graphs are kept. A model's own folder may be read-only."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bitsift" / "graphs"


def versions() -> list[str]:
    """Of what converts a model."""
    return [importlib.metadata.version(package) for package in _CONVERTERS]


def cached(core: Any, key: str, convert: Callable[[], Any]) -> Any:
    """The ``openvino.Model`` kept under ``key``, or the one that ``convert`` makes, now kept.

    ``key`` is a file name that changes with whatever changes the graph. Raises what ``convert``
    raises, and nothing else.
    """
    graph = read_graph(core, key)
    if graph is None:
        graph = convert()
        _write(graph, cache_folder() / key)
    return graph


def read_graph(core: Any, key: str) -> Any | None:
    """The graph kept under ``key``; None when there is none, or it is damaged (then it is
    removed).
    """
    place = cache_folder() / key
    if not place.exists():
        return None
    try:
        if orjson.loads((place / _CHECKSUMS).read_bytes()) != _checksums(place):
            raise ValueError("its checksums do not match")
        graph = core.read_model(place / _GRAPH)
        os.utime(place)
    except Exception as error:  # OpenVINO raises what it likes; nothing here may be fatal
        log.warning("the cached model %s is rebuilt: %s", place, error)
        _remove(place)
        return None
    return graph


def _write(graph: Any, place: Path) -> None:
    """Keep ``graph`` unless another process has just done so, or the disk does not let us."""
    import openvino

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=place.parent))
        try:
            openvino.save_model(graph, aside / _GRAPH, compress_to_fp16=False)
            (aside / _CHECKSUMS).write_bytes(orjson.dumps(_checksums(aside)))
            os.rename(aside, place)  # no fsync: what a crash leaves half is found by its checksums
        finally:
            _remove(aside)
        _forget_old(place.parent)
    except Exception as error:
        log.info("the converted model was not cached: %s", error)


def _checksums(place: Path) -> dict[str, int]:
    """CRC32C by name of the files of one graph: a truncated file that is mapped kills a process."""
    sums = {}
    for path in sorted(place.glob("graph.*")):
        checksum = 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                checksum = google_crc32c.extend(checksum, chunk)
        sums[path.name] = checksum
    return sums


def _forget_old(folder: Path) -> None:
    graphs = [path for path in folder.iterdir() if (path / _GRAPH).exists()]
    graphs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for graph in graphs[GRAPHS_MAX:]:
        _remove(graph)


def _remove(graph: Path) -> None:
    """Remove a folder that holds what is kept of a graph and nothing else."""
    with contextlib.suppress(OSError):
        files = list(graph.iterdir())
        if graph.is_symlink() or not {file.name for file in files} <= _FILES:
            return
        for file in files:
            file.unlink()
        graph.rmdir()
