"""Small indexes for the tests of the commands' lives, and one with a model."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.sources.synthetic import SyntheticSpec
from tests.commands import bitsift

XQUAD = Path(__file__).parents[1] / "data" / "xquad_en"


@pytest.fixture(scope="module")
def ready_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors in two shards: they need no model, so a start takes seconds."""
    folder = tmp_path_factory.mktemp("ready") / "index"
    write_index(folder, SyntheticSpec(400, 64), 2)
    return folder


@pytest.fixture(scope="session")
def xquad_index() -> Path:
    """XQuAD's 1,180 sentences in two shards, by the real command; to be copied, and left alone.

    Built once for all workers of a run, which share a cache: two processes load the model for it.
    Next to it lie corpus.jsonl, with two bad records and one that is there twice, and the
    command's report.json.
    """
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "xquad"
    folder.mkdir(exist_ok=True)
    index, source, report = (folder / name for name in ("index", "corpus.jsonl", "report.json"))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.exists():
            lines = (XQUAD / "corpus.jsonl").read_text().splitlines()
            bad = ['{"_id": "broken', '{"_id": "blank", "text": " "}', lines[5]]
            source.write_text("\n".join([*lines[:10], *bad, *lines[10:]]) + "\n")
            done = bitsift("index", source, "--out", index, "--shards", 2, "--json")
            report.write_text(done.stdout)
    return index
