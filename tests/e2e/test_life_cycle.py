"""Signals at every step of a command's start, and starts that fail: nothing is left of either.

`make test` takes some of the steps, `make chaos` all. SIGINT to a server that answers is the end of
each `answering`, SIGTERM to one that answers that of the demo.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
import time
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from bitsift.cluster.ingest.build import build_index
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.serving.launch import serve
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.errors import InvalidRequest, Unavailable
from bitsift.router.http.access import AccessSettings
from tests.commands import (
    DEMO,
    ended,
    family,
    lines_until,
    started,
    wait_until,
)
from tests.e2e.support import SERVE_STEPS, START_S, check_unlocked
from tests.sweeps import chosen

ROWS, DIMENSION = 400, 64
NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize(
    ("step", "number"),
    chosen(zip(SERVE_STEPS, cycle(NUMBERS), strict=False), {"starting Ray", "opening the shards"}),
)
def test_a_signal_at_any_step_of_serve_ends_it_with_all_that_it_started(
    ready_index: Path, step: str, number: signal.Signals
) -> None:
    with started("serve", ready_index, "--port", 0) as process:
        lines_until(process, step)
        time.sleep(random.random())  # anywhere in it
        process.send_signal(number)
        status, said = ended(process)
    assert status == 0, said
    assert said.splitlines()[-1] == "stopped"
    assert "Traceback" not in said and "***" not in said
    assert not list(Path(tempfile.gettempdir()).glob(f"ray/session_*_{process.pid}"))
    check_unlocked(ready_index)


INDEX_STEPS = {"": 3.0, "reading": 1.0, "calibrating": 1.0, "indexing": 0.3}
"""The lines of a build, none while it starts Ray, and up to how many seconds after them."""


def has_children(session: int) -> bool:
    return len(family(session)) > 1


@pytest.mark.parametrize(
    "steps",
    [("", "indexing"), pytest.param(("reading", "calibrating"), marks=pytest.mark.long)],
    ids=" ".join,
)
def test_a_signal_at_any_moment_of_index_leaves_nothing_and_the_next_run_ends_it(
    tmp_path: Path, steps: tuple[str, ...]
) -> None:
    rows = np.random.default_rng(0).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    source, vectors = tmp_path / "corpus.jsonl", tmp_path / "corpus.npy"
    np.save(vectors, rows)
    source.write_text("\n".join(json.dumps({"id": f"v{i}", "text": f"{i}"}) for i in range(ROWS)))
    for step in steps:
        out = tmp_path / f"killed {step}"
        command = ["index", source, "--vectors", vectors, "--out", out, "--shards", 2]
        with started(*command) as process:
            lines_until(process, step)
            assert wait_until(partial(has_children, process.pid), START_S), "no Ray"
            time.sleep(random.random() * INDEX_STEPS[step])
            process.send_signal(signal.SIGTERM)
            status, said = ended(process)
        assert status in (0, 1), said  # it may have ended before
        assert "Traceback" not in said and "***" not in said
        if status:
            assert said.splitlines()[-1] == "stopped; run the same command again to resume"
    with ray_cluster(None):
        for step in steps:
            out = tmp_path / f"killed {step}"
            report = build_index([str(source)], out, BuildOptions(vectors=vectors, shards=2))
            assert report.documents == ROWS


@pytest.mark.parametrize(
    "step", chosen(["calibrating", "opening the shards", "indexing"], {"opening the shards"})
)
def test_a_signal_at_any_step_of_the_demo_ends_it_with_all_that_it_started(
    tmp_path: Path, step: str
) -> None:
    rows = [json.dumps({"id": f"w{i}", "text": f"the word for {i} things"}) for i in range(1_500)]
    (tmp_path / "words.jsonl").write_text("\n".join(rows))
    program = [sys.executable, "-c", DEMO, tmp_path / "words.jsonl"]
    with started("demo", "--index", tmp_path / "index", "--port", 0, program=program) as process:
        lines_until(process, step)
        time.sleep(random.random())
        process.send_signal(signal.SIGTERM)
        status, said = ended(process)
    assert status == 0, said
    assert said.splitlines()[-1] == "stopped"
    assert "Traceback" not in said and "***" not in said
    if (tmp_path / "index" / "manifest.json").exists():
        check_unlocked(tmp_path / "index")


def test_a_host_that_is_none_is_named_and_the_next_server_starts_at_once(
    ready_index: Path,
) -> None:
    with ray_cluster(None):
        with pytest.raises(InvalidRequest, match="cannot listen on a\0b:0"):
            serve(
                ready_index, "a\0b", 0, access=AccessSettings(insecure=True)
            )  # a TypeError, not an OSError
        check_unlocked(ready_index)
        serving = serve(ready_index, "127.0.0.1", 0)
        try:
            with pytest.raises(Unavailable, match="not ready after 0 s"):
                serving.wait_ready(timeout_s=0)
            serving.wait_ready()
        finally:
            serving.stop()
        check_unlocked(ready_index)
