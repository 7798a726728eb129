"""Converted models on disk: read back as they were, and made again when they are not."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13

from bitsift.router.model.graph_cache import GRAPHS_MAX, cache_folder, cached


class Converter:
    """Makes a graph that multiplies its input (n, 4) by ``weights``; counts how often."""

    def __init__(self, factor: float = 1.0) -> None:
        self.calls = 0
        self.weights = factor * np.linspace(0.1, 1.3, 400, dtype=np.float32).reshape(4, 100)

    def __call__(self) -> openvino.Model:
        self.calls += 1
        given = opset13.parameter([-1, 4], np.float32)
        return openvino.Model([opset13.matmul(given, self.weights, False, False)], [given])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


def product(graph: openvino.Model) -> np.ndarray:
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled.create_infer_request().infer([np.ones((1, 4), np.float32)])[0])


def test_a_graph_is_converted_once_and_its_weights_keep_every_bit(folder: Path) -> None:
    convert = Converter()
    first = cached(openvino.Core(), "model", convert)
    again = cached(openvino.Core(), "model", convert)
    assert convert.calls == 1
    assert folder == Path(os.environ["XDG_CACHE_HOME"]) / "bitsift" / "graphs"
    assert sorted(path.name for path in folder.iterdir()) == ["model"]
    np.testing.assert_array_equal(product(again), product(first))


def test_another_key_is_another_graph() -> None:
    one = cached(openvino.Core(), "one", Converter(1.0))
    other = cached(openvino.Core(), "other", Converter(2.0))
    assert not np.allclose(product(one), product(other))


@pytest.mark.parametrize("name", ["graph.xml", "graph.bin", "checksums.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_graph_is_made_again(folder: Path, name: str, damage: str) -> None:
    convert = Converter()
    first = product(cached(openvino.Core(), "model", convert))
    file = folder / "model" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x01
    if damage == "flip":
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    np.testing.assert_array_equal(product(cached(openvino.Core(), "model", convert)), first)
    assert convert.calls == 2
    cached(openvino.Core(), "model", convert)
    assert convert.calls == 2


def test_a_folder_that_cannot_be_written_costs_time_only(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    convert = Converter()
    for calls in (1, 2):
        cached(openvino.Core(), "model", convert)
        assert convert.calls == calls


def test_processes_that_write_the_same_graph_at_once_leave_one(folder: Path) -> None:
    converters = [Converter() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        graphs = list(pool.map(lambda c: cached(openvino.Core(), "model", c), converters))
    assert sum(convert.calls for convert in converters) >= 1
    assert [path.name for path in folder.iterdir()] == ["model"]
    for graph in graphs:
        np.testing.assert_array_equal(product(graph), product(graphs[0]))
    last = Converter()
    cached(openvino.Core(), "model", last)
    assert last.calls == 0


def test_the_least_recently_used_graphs_are_forgotten(folder: Path) -> None:
    for number in range(GRAPHS_MAX):
        cached(openvino.Core(), f"model-{number}", Converter())
        os.utime(folder / f"model-{number}", (number, number))
    cached(openvino.Core(), "model-0", Converter())  # used again: now the newest
    cached(openvino.Core(), "one-more", Converter())
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"one-more", "model-0", *(f"model-{n}" for n in range(2, GRAPHS_MAX))}
