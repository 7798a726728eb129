"""Updates of a finished index: what is encoded, what is deleted, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bitsift.cluster.cli.main import app
from bitsift.cluster.ingest.build import build_index
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.ingest.update import is_gone, key_of, settled, update_index
from bitsift.cluster.serving.local import search_local
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.errors import InvalidRequest, NotFound
from bitsift.options import SearchOptions
from tests.tiny_model import build_tiny_model


@given(st.lists(st.integers(0, 5), max_size=30).flatmap(
    lambda names: st.tuples(st.just(names), st.permutations(range(len(names))))
))  # fmt: skip
def test_of_records_with_one_id_the_last_counts(found: tuple[list[int], list[int]]) -> None:
    names, positions = found
    keys = np.array([key_of(str(name)) for name in names], dtype="S16")
    ids = settled(keys, np.array(positions, dtype=np.int64), len(names))
    last = {name: max(at for one, at in zip(names, positions, strict=True) if one == name)
            for name in names}  # fmt: skip
    assert sorted(ids.keys.tolist()) == sorted(key_of(str(name)) for name in last)
    assert sorted(ids.keys.tolist()) == ids.keys.tolist()
    assert ids.passed_by.tolist() == sorted(set(positions) - set(last.values()))


def test_what_is_gone() -> None:
    seen, ends = np.sort(np.array([key_of("a"), key_of("b")], "S16")), {key_of("a"): 2}
    assert not is_gone("a", None, seen, {})
    assert is_gone("c", None, seen, {})
    assert not is_gone("c", None, None, {})
    assert not is_gone("a#2", ("a", 2, 2), seen, ends)
    assert is_gone("a#3", ("a", 3, 5), None, ends)
    assert is_gone("c#1", ("c", 1, 1), seen, ends)


# --- on a cluster --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_cluster(None):
        yield


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def texts(index: Path, options: SearchOptions) -> dict[str, str | None]:
    return {hit.id: hit.text for hit in search_local(index, options).hits}


NEW = [("d5", "first"), ("new", "new"), ("d5", "last")]


@pytest.mark.usefixtures("cluster")
def test_only_what_changed_is_encoded_and_what_is_missing_is_deleted(tmp_path: Path) -> None:
    model = str(build_tiny_model(tmp_path / "tiny", 32))
    rows = [{"id": f"d{n}", "text": f"text {n}", "n": n} for n in range(40)]
    source, index = write(tmp_path / "a.jsonl", rows), tmp_path / "index"
    built = BuildOptions(model=model, shards=2)
    build_index([source], index, built)
    same = update_index([source], index, BuildOptions())
    assert (same.unchanged, same.created, same.updated, same.deleted) == (40, 0, 0, 0)
    rows[3]["text"], rows[4]["n"] = "another text", -4
    rows[5:10] = [
        {"id": "d5", "text": "first"},
        {"id": "new", "text": "new"},
        {"id": "d5", "text": "last"},
    ]
    write(source, [*rows, {"id": "bad", "text": 5}])
    kept = update_index([source], index, BuildOptions(), delete_missing=True)
    assert (kept.created, kept.updated, kept.replaced, kept.rejects) == (1, 3, 1, 1)
    assert (kept.deleted, kept.kept_for_rejects, kept.documents) == (0, True, 41)
    write(source, rows)
    command = ["index", source, "--out", index, "--update", "--delete-missing", "--json"]
    done = orjson.loads(CliRunner().invoke(app, list(map(str, command))).stdout)
    assert (done["unchanged"], done["deleted"], done["documents"]) == (37, 4, 37)
    found = texts(index, SearchOptions("text", top_k=100))
    assert (found["d3"], found["d5"]) == ("another text", "last")
    assert not {"d6", "d7", "d8", "d9"} & found.keys()
    with pytest.raises(InvalidRequest, match="--model was"):
        update_index([source], index, BuildOptions(model="minilm"))
    with pytest.raises(NotFound):
        update_index([source], tmp_path / "none")


@pytest.mark.usefixtures("cluster")
def test_own_vectors_are_compared_by_their_codes(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 32)).astype(np.float32)
    rows = [{"id": f"d{n}", "text": "t", "v": vectors[n].tolist()} for n in range(30)]
    source, index = write(tmp_path / "a.jsonl", rows), tmp_path / "index"
    options = BuildOptions(vector_field="v", shards=1)
    build_index([source], index, options)
    rows[7]["v"] = (-vectors[7]).tolist()
    report = update_index([write(source, rows)], index, options)
    assert (report.unchanged, report.updated, report.created) == (29, 1, 0)
    hits = search_local(index, SearchOptions(vector=-vectors[7], top_k=1)).hits
    assert hits[0].id == "d7"
    with pytest.raises(InvalidRequest, match="need vectors"):
        update_index([write(tmp_path / "b.jsonl", [{"text": "x"}])], index)


@pytest.mark.long  # which passages those are: test_what_is_gone
@pytest.mark.usefixtures("cluster")
def test_a_shorter_text_loses_its_last_passages(tmp_path: Path) -> None:
    model = str(build_tiny_model(tmp_path / "tiny", 32))
    long = " ".join(f"Now comes number {number}." for number in range(30))
    rows = [{"id": "a", "text": long}, {"id": "b", "text": long}]
    source, index = write(tmp_path / "a.jsonl", rows), tmp_path / "index"
    options = BuildOptions(model=model, shards=2, chunk="tokens=40")
    build_index([source], index, options)
    rows[0]["text"] = "Now comes number 0. Now comes number 1."
    report = update_index([write(source, rows)], index, BuildOptions())
    assert report.deleted > 0
    found = texts(index, SearchOptions("number", top_k=100))
    of_a = sorted(name for name in found if name.startswith("a#"))
    assert sum(name.startswith("b#") for name in found) > len(of_a)
    assert of_a == [f"a#{number}" for number in range(1, len(of_a) + 1)]
    assert (found[of_a[-1]] or "").endswith("number 1.")
    assert report.documents == len(found)
