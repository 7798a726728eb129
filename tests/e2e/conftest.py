"""A small index for the tests of the commands' lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.sources.synthetic import SyntheticSpec


@pytest.fixture(scope="module")
def ready_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors in two shards: they need no model, so a start takes seconds."""
    folder = tmp_path_factory.mktemp("ready") / "index"
    write_index(folder, SyntheticSpec(400, 64), 2)
    return folder
