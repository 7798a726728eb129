"""Several indexes on one server: created, filled, searched, switched and deleted while it answers,
and all there after a restart.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.commands import COMMAND, answering, bitsift, wait_until

DIMENSION = 64


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The indexes `main` and `damaged`, of which nothing but the manifest's name is left."""
    folder = tmp_path_factory.mktemp("root")
    bitsift("create", folder / "main", "--dimensions", DIMENSION, "--shards", 1)
    shutil.copytree(folder / "main", folder / "damaged")
    (folder / "damaged" / "manifest.json").write_text("{")
    return folder


def serving(root: Path) -> Any:
    return answering(
        [*COMMAND, "serve", "--indexes-root", root, "--default", "main", "--port", "0", "--json"]
    )


def vector(place: int) -> list[float]:
    found: list[float] = np.random.default_rng(place).standard_normal(DIMENSION).round(3).tolist()
    return found


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=120) as client:
        yield client


def states(http: httpx.Client, url: str) -> dict[str, str]:
    listed = http.get(f"{url}/v1/indexes").json()["indexes"]
    return {one["name"]: one["state"] for one in listed}


def best(http: httpx.Client, prefix: str, place: int) -> Any:
    answer = http.post(f"{prefix}/search", json={"vector": vector(place), "top_k": 1})
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def test_indexes_live_side_by_side_and_are_there_after_a_restart(
    root: Path, http: httpx.Client
) -> None:
    with serving(root) as (url, _):
        v1 = f"{url}/v1"
        assert states(http, url) == {"damaged": "FAILED", "main": "READY"}
        broken = http.post(f"{v1}/indexes/damaged/search", json={"vector": vector(0)})
        assert (broken.status_code, "manifest.json" in broken.text) == (503, True)
        for name in ("one", "two"):
            body = {"name": name, "dimensions": DIMENSION, "shards": 1}
            made = http.post(f"{v1}/indexes", json=body)
            assert made.json() == {
                "name": name, "model": None, "dimension": DIMENSION, "shards": 1,
            }, made.text  # fmt: skip
            assert wait_until(partial(written, http, f"{v1}/indexes/{name}/documents", name))
        assert best(http, f"{v1}/indexes/one", 1) == ["of one"]
        assert best(http, v1, 1) == []
        again = http.post(f"{v1}/indexes", json=body)
        assert (again.status_code, "already" in again.text) == (422, True)

        for name in ("one", "two"):
            assert http.put(f"{v1}/aliases/live", json={"index": name}).status_code == 200
            assert best(http, f"{v1}/indexes/live", 1) == [f"of {name}"]
        kept = http.delete(f"{v1}/indexes/two")
        assert (kept.status_code, "aliases (live)" in kept.text) == (422, True)
        assert http.delete(f"{v1}/indexes/main").status_code == 422
        (root / "one" / "notes.txt").write_text("mine")
        assert http.delete(f"{v1}/indexes/one").json()["status"] == "deleted"
        assert http.get(f"{v1}/indexes/one").status_code == 404
        assert [path.name for path in (root / "one").iterdir()] == ["notes.txt"]
        metrics = http.get(f"{url}/metrics").text
        assert 'bitsift_shard_documents{index="two",shard="0"} 1.0' in metrics

    with serving(root) as (url, _):
        assert wait_until(lambda: states(http, url)["two"] == "READY")
        assert best(http, f"{url}/v1/indexes/live", 1) == ["of two"]
        gone = http.delete(f"{url}/v1/indexes/two?with_aliases=true")
        assert gone.json() == {"name": "two", "status": "deleted", "aliases": ["live"]}
        assert not (root / "two").exists()
        assert states(http, url) == {"damaged": "FAILED", "main": "READY"}


def written(http: httpx.Client, path: str, name: str) -> bool:
    document = {"id": f"of {name}", "vector": vector(1)}
    answer = http.post(path, json={"documents": [document]})
    return answer.status_code == 200 and answer.json()["created"] == 1
