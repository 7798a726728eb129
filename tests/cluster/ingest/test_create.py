"""`bitsift create`: an index without documents is whole, answers, and takes any document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bitsift.cluster.cli.main import app
from bitsift.cluster.ingest import create as module
from bitsift.cluster.ingest.create import SAMPLE_ROWS, create_index, evenly
from bitsift.cluster.maintenance.backup import back_up
from bitsift.cluster.maintenance.compact import compact
from bitsift.cluster.maintenance.export import export
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.maintenance.restore import restore
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import open_manifest, read_manifest
from bitsift.cluster.serving.local import open_local
from bitsift.errors import InvalidRequest, Unavailable
from bitsift.options import Mode, SearchOptions
from bitsift.results import Answer
from bitsift.router.model.spec import EncoderSpec
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.fields.segment import FIELDS_MAX
from bitsift.shard_worker.layout import MANIFEST_FILE
from bitsift.shard_worker.operations import Upsert, statuses
from tests.tiny_model import build_tiny_model


def vectors_of(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    """float32 (count, dimension), none of them of unit length."""
    return np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)


def fill(index: Path, vectors: np.ndarray) -> int:
    """Store ``vectors`` under their row numbers, all in shard 0: how many values clipped."""
    manifest, _ = open_manifest(index)
    codes, clipped = manifest.calibration.quantize(manifest.calibration.units(vectors))
    ids, blank = [str(row) for row in range(len(codes))], [""] * len(codes)
    with open_shard(index, manifest, 0) as shard:
        statuses(shard.write([Upsert(ids, blank, blank, blank, [0] * len(ids), codes)]))
    return clipped


def search(index: Path, vector: np.ndarray, **options: Any) -> Answer:
    with open_local(index) as service:
        return asyncio.run(service.search(SearchOptions(vector=vector.tolist(), **options)))


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    create_index(tmp_path / "empty", dimensions=64, shards=2)
    return tmp_path / "empty"


# --- what it is ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", Mode)
def test_an_empty_index_answers_whole_and_with_no_hit(empty: Path, mode: Mode) -> None:
    answer = search(empty, vectors_of(1, 64)[0], mode=mode)
    assert (answer.hits, answer.partial) == ((), False)
    assert (answer.coverage.shards, answer.coverage.answered) == (2, 2)


def test_all_that_looks_after_an_index_takes_an_empty_one(empty: Path, tmp_path: Path) -> None:
    report = verify(empty)
    assert (report.is_sound, report.rows) == (True, 0)
    assert [shard.rows_dropped for shard in compact(empty)] == [0, 0]
    assert export(empty, tmp_path / "all.parquet").documents == 0
    back_up(empty, str(tmp_path / "backup"))
    assert restore(str(tmp_path / "backup"), tmp_path / "again").documents == 0
    assert read_manifest(tmp_path / "again").calibrated_at == 0
    assert not search(tmp_path / "again", vectors_of(1, 64)[0]).hits
    assert "0 documents" in CliRunner().invoke(app, ["status", "--index", str(empty)]).output


def test_its_status_counts_what_was_written_since(empty: Path) -> None:
    fill(empty, vectors_of(30, 64))
    said = CliRunner().invoke(app, ["status", "--index", str(empty), "--json"]).output
    assert json.loads(said)["index"]["documents"] == 30


@pytest.mark.parametrize("dimension", [32, 33, 384, 4_096])
def test_without_a_sample_no_vector_clips_and_each_finds_itself(
    dimension: int, tmp_path: Path
) -> None:
    create_index(tmp_path / "i", dimensions=dimension, shards=1)
    vectors = vectors_of(40, dimension)
    vectors[0] = 0
    vectors[0, 3] = -7  # a unit vector of one dimension is the most that can be
    vectors[1] = -vectors[0]
    assert fill(tmp_path / "i", vectors) == 0
    for row in (0, 1, 2, 39):
        (hit,) = search(tmp_path / "i", vectors[row], top_k=1, mode=Mode.EXHAUSTIVE).hits
        assert hit.id == str(row)
        assert hit.score == pytest.approx(1, abs=0.02)


def test_without_a_sample_every_bit_is_that_of_the_vector() -> None:
    calibration = Calibration.for_any(384)
    units = normalize(vectors_of(200, 384), 384)
    bits = calibration.bits(calibration.quantize(units)[0])
    assert np.array_equal(bits, np.packbits(units > 0, axis=1))


def test_with_a_sample_the_codes_are_as_fine_as_the_vectors_need(tmp_path: Path) -> None:
    around = vectors_of(1, 64, 1) * 3
    np.save(tmp_path / "sample.npy", vectors_of(2_000, 64, 2) + around)
    coarse = create_index(tmp_path / "coarse", dimensions=64, shards=1)
    fine = create_index(tmp_path / "fine", dimensions=64, shards=1, sample=tmp_path / "sample.npy")
    assert (coarse.sample, SAMPLE_ROWS // 2 <= fine.sample <= SAMPLE_ROWS) == (0, True)
    units = normalize(vectors_of(500, 64, 3) + around, 64)
    errors = {}
    for name in ("coarse", "fine"):
        calibration = read_manifest(tmp_path / name).calibration
        codes, clipped = calibration.quantize(units)
        assert clipped == 0
        errors[name] = np.abs(calibration.decode(codes) - units).mean()
    assert errors["fine"] < errors["coarse"] / 3


def test_with_a_model_glosses_are_the_sample_and_the_model_is_the_indexs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    glosses = tmp_path / "glosses.jsonl"
    glosses.write_text("".join(f'{{"text": "a word of {n} letters"}}\n' for n in range(60)))
    monkeypatch.setattr(module, "SHIPPED_SAMPLE", glosses)
    model = str(build_tiny_model(tmp_path / "tiny", 64))
    report = create_index(tmp_path / "i", model=model, shards=1)
    assert (report.model, report.dimension, report.sample) == (model, 64, 60)
    manifest, complete = open_manifest(tmp_path / "i")
    assert manifest.model == EncoderSpec(model).load().spec
    assert (complete.documents, manifest.calibrated_at) == (0, 0)


def test_vectors_and_the_model_that_made_them(tmp_path: Path) -> None:
    model = str(build_tiny_model(tmp_path / "tiny", 64))
    np.save(tmp_path / "sample.npy", vectors_of(50, 64))
    plain = create_index(tmp_path / "p", model=model, dimensions=64, shards=1)
    report = create_index(
        tmp_path / "i",
        model=model,
        dimensions=64,
        shards=1,
        sample=tmp_path / "sample.npy",
    )
    assert (plain.model, plain.sample) == (model, 421)
    assert (report.model, report.dimension, report.sample) == (model, 64, 50)
    manifest, _ = open_manifest(tmp_path / "i")
    assert manifest.model is not None


def test_the_glosses_are_shipped() -> None:
    assert module.SHIPPED_SAMPLE.exists()


# --- refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--model NAME, or the number"),
        ({"model": "minilm", "dimensions": 383}, "383 dimensions, those of the model 'minilm' 384"),
        ({"model": "no/such/model", "sample": "nothing.npy"}, "'no/such/model' cannot be loaded"),
        ({"dimensions": 31}, "32 to 4096 can be used"),
        ({"dimensions": 4_097}, "32 to 4096 can be used"),
        ({"dimensions": 64, "shards": 4_097}, "between 1 and 4096"),
        pytest.param(
            {"model": "no/such/model"}, "'no/such/model' cannot be loaded", marks=pytest.mark.slow
        ),
        ({"dimensions": 64, "sample": "nothing.npy"}, "nothing.npy"),
        ({"dimensions": 64, "sample": "wide.npy"}, "vectors of 96 dimensions"),
        ({"dimensions": 64, "sample": "texts.jsonl"}, "has no vectors"),
        ({"model": "minilm", "sample": "wide.npy"}, "has to be texts"),
        ({"dimensions": 64, "sample": "bad.npy"}, "no usable document"),
        ({"dimensions": 64, "index_fields": ["id"]}, "id has an index always"),
        ({"dimensions": 64, "index_fields": ["$a"]}, "names that begin with"),
        ({"dimensions": 64, "index_fields": ["a"] * (FIELDS_MAX + 1)}, "index_fields: "),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("wide.npy", vectors_of(5, 96))
    np.save("bad.npy", np.zeros((5, 64), dtype=np.float32))
    Path("texts.jsonl").write_text('{"id": "a", "text": "one"}\n')
    with pytest.raises(InvalidRequest, match=said):
        create_index("new", **options)
    assert not Path("new").exists()


def test_an_index_and_a_folder_of_others_are_left_as_they_are(empty: Path, tmp_path: Path) -> None:
    fill(empty, vectors_of(3, 64))
    before = (empty / MANIFEST_FILE).read_bytes()
    for dimension in (64, 96):
        with pytest.raises(InvalidRequest, match="is an index already"):
            create_index(empty, dimensions=dimension, shards=2)
    assert (empty / MANIFEST_FILE).read_bytes() == before
    assert len(search(empty, vectors_of(1, 64)[0]).hits) == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InvalidRequest, match="is not an index; choose another folder"):
        create_index(tmp_path / "mine", dimensions=64)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_killed_before_its_end_it_is_no_index_and_the_same_command_makes_it_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """The end of the process."""

    def killed(*_: object) -> None:
        raise Killed

    index = tmp_path / "i"
    for step in ("make_index", "write_complete"):
        monkeypatch.setattr(module, step, killed)
        with pytest.raises(Killed):
            create_index(index, dimensions=64, shards=2)
        monkeypatch.undo()
    with pytest.raises(Unavailable):
        open_manifest(index)
    with pytest.raises(InvalidRequest, match="is an index already"):
        create_index(index, dimensions=96, shards=2)
    create_index(index, dimensions=64, shards=2)
    assert not search(index, vectors_of(1, 64)[0]).partial


# --- the sample ------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 3_000), st.integers(2, 64))
def test_a_sample_is_even_and_never_holds_more_than_it_may(count: int, most: int) -> None:
    def items() -> Iterator[int]:
        yield from range(count)

    found = evenly(items(), most)
    assert len(found) <= most
    assert len(found) == count or len(found) >= most // 2
    every = found[1] if len(found) > 1 else max(count, 1)
    assert found == list(range(0, count, every)) or len(found) <= 1


def test_the_fields_that_have_an_index_are_a_fact_of_it(tmp_path: Path) -> None:
    index, names = tmp_path / "i", ["lang", "metadata.id", "by.name", "lang"]
    create_index(index, dimensions=64, shards=1, index_fields=names)
    manifest, _ = open_manifest(index)
    assert manifest.index_fields == ("lang", "id", "by.name")
    assert manifest.identity(0).index_fields == manifest.index_fields
    assert manifest.describe().to_json()["index_fields"] == ["lang", "id", "by.name"]
    with open_shard(index, manifest, 0) as shard:
        assert shard.identity.index_fields == manifest.index_fields
    with pytest.raises(InvalidRequest, match="an index already"):
        create_index(index, dimensions=64, shards=1)
    said = ["create", str(tmp_path / "j"), "--dimensions", "64", "--index-fields", "lang"]
    assert CliRunner().invoke(app, said).exit_code == 0
    assert read_manifest(tmp_path / "j").index_fields == ("lang",)


def test_the_command_says_what_it_made(tmp_path: Path) -> None:
    arguments = ["create", str(tmp_path / "i"), "--dimensions", "64", "--shards", "3"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "64 dimensions, in 3 shards" in done.stdout
    said = CliRunner().invoke(app, ["create", str(tmp_path / "j"), *arguments[2:], "--json"])
    report = json.loads(said.stdout)
    assert (report["dimension"], report["shards"], report["model"]) == (64, 3, None)
