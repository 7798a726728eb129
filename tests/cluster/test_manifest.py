"""The manifest says which model made the vectors; what it lacks is found when it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitsift.cluster.manifest import Manifest, read_manifest, write_manifest
from bitsift.errors import Corrupt
from bitsift.router.description import ModelSpec
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.layout import MANIFEST_FILE, read_json, write_json

MODEL = ModelSpec("minilm", "0123", 64, "query: ", "", 256)


def written(folder: Path, model: ModelSpec | None) -> Manifest:
    sample = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    manifest = Manifest("u", "n", "", 2, Calibration.from_sample(sample, 64), model, {}, 7)
    write_manifest(folder, manifest)
    return manifest


@pytest.mark.parametrize("model", [MODEL, None])
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, model: ModelSpec | None) -> None:
    written(tmp_path, model)
    manifest = read_manifest(tmp_path)
    assert (manifest.model, manifest.shards, manifest.records) == (model, 2, 7)
    encoder = manifest.encoder("torch")
    assert (encoder and encoder.expected) == model
    told = manifest.describe().to_json()["model"]
    assert told == (model and model.to_json())


def test_a_manifest_whose_model_lacks_a_fact_is_corrupt(tmp_path: Path) -> None:
    written(tmp_path, MODEL)
    data = read_json(tmp_path / MANIFEST_FILE)
    del data["model"]["revision"]
    write_json(tmp_path / MANIFEST_FILE, data)
    with pytest.raises(Corrupt, match="model lacks 'revision'"):
        read_manifest(tmp_path)
