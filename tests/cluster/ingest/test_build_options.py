"""Every field of BuildOptions is a flag of `bitsift index`, with one default and help text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from pydantic.fields import FieldInfo
from typer.main import get_command
from typer.testing import CliRunner

import bitsift
from bitsift.cluster.cli import main as cli
from bitsift.cluster.cli.index import SETTINGS
from bitsift.cluster.ingest import build
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.manifest import SHARDS_MAX
from bitsift.cluster.sources.stored_vectors import VectorType
from bitsift.config.fields import BY_KEY
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.codes import Transform

SAMPLES: dict[str, Any] = {
    "model": "some/model",
    "query_prompt": "q: ",
    "document_prompt": "d: ",
    "shards": 3,
    "id_field": "key",
    "text_field": "body",
    "title_field": "headline",
    "vector_field": "embedding",
    "vectors": Path("v.npy"),
    "format": "csv",
    "vector_type": VectorType.INT8,
    "ranges": Path("ranges.npy"),
    "chunk": "tokens=100,overlap=20",
    "delimiter": ";",
    "encoding": "cp1252",
    "quote": "none",
    "escape": "\\",
    "header": False,
    "columns": ["id,text"],
    "skip_lines": 2,
    "transform": Transform.ROTATE,
    "examples": ("fear of spiders",),
    "index_fields": ["lang"],
    "max_rejects": 7,
    "encoders": 2,
    "backend": "torch",
}
"""For each field a value that is not its default."""
FIELDS = {field.name: field for field in dataclasses.fields(BuildOptions)}
FLAGS = [name for name in FIELDS if name != "examples"]
"""The page's examples are for Python: the demo has some."""


def info(name: str) -> FieldInfo:
    return FieldInfo.from_annotation(get_type_hints(BuildOptions, include_extras=True)[name])


def test_each_field_has_a_sample_that_is_not_its_default_and_a_help_text() -> None:
    assert list(SAMPLES) == list(FIELDS)
    for name, field in FIELDS.items():
        assert SAMPLES[name] != field.default
        assert (info(name).description or "").endswith("."), name


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_arrives_in_the_options_of_the_build(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    def noted(sources: Any, out: Any, options: BuildOptions, **_: Any) -> None:
        raise Asked(options)

    monkeypatch.setattr(build, "build_index", noted)
    value = SAMPLES[name][0] if isinstance(SAMPLES[name], list) else SAMPLES[name]
    flag = [f"--{name.replace('_', '-')}", str(value)]
    if isinstance(value, bool):
        flag = [f"--{'' if value else 'no-'}{name}"]
    asked = CliRunner().invoke(cli.app, ["index", "source", "--out", "index", *flag]).exception
    assert isinstance(asked, Asked)
    assert asked.args == (BuildOptions(**{"index_fields": [], "columns": [], name: SAMPLES[name]}),)


def test_the_command_line_has_the_help_limits_and_defaults_of_the_fields() -> None:
    command = get_command(cli.app).commands["index"]  # type: ignore[attr-defined]
    flags = {parameter.name: parameter for parameter in command.params}
    for name in FLAGS:
        if name not in SETTINGS:
            assert flags[name].help == info(name).description
            assert flags[name].default == FIELDS[name].default or flags[name].default == []
    for shards in (0, SHARDS_MAX + 1):  # status 2: refused by the option itself
        command = ["index", "a", "--out", "b", "--shards", str(shards)]
        assert CliRunner().invoke(cli.app, command).exit_code == 2


@pytest.mark.parametrize("key", ["index.max_rejects", "index.encoders", "model.backend"])
def test_an_option_that_is_a_setting_too_is_defined_in_the_tree(key: str) -> None:
    setting = BY_KEY[key]
    assert setting.name in SETTINGS
    assert info(setting.name).description == setting.help
    assert FIELDS[setting.name].default == setting.default


@pytest.mark.parametrize("shards", [-1, 0, SHARDS_MAX + 1])
def test_an_index_has_no_more_shards_than_it_may(tmp_path: Path, shards: int) -> None:
    np.save(tmp_path / "v.npy", np.ones((50, 48), dtype=np.float32))
    with pytest.raises(InvalidRequest, match=r"^shards: .* than or equal to \d"):
        bitsift.build_index(
            [tmp_path / "v.npy"], tmp_path / "index", bitsift.BuildOptions(shards=shards)
        )
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"shards": True},
        {"model": ""},
        {"transform": "spin"},
        {"backend": "gpu"},
        {"max_rejects": -1},
        {"encoders": 0},
        {"vectors": 5},
        {"delimiter": "||"},
        {"encoding": "cp1255x"},
        {"quote": ""},
        {"escape": "ab"},
        {"header": "no header"},
        {"columns": ("id,,text",)},
    ],
)
def test_a_wrong_option_is_refused_with_its_name_before_anything_is_made(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    (name,) = wrong
    np.save(tmp_path / "v.npy", np.ones((50, 48), dtype=np.float32))
    with pytest.raises(InvalidRequest, match=f"^{name}: "):
        build.plan_build([tmp_path / "v.npy"], tmp_path / "index", BuildOptions(**wrong))
    assert not (tmp_path / "index").exists()


def test_a_path_may_be_a_text(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((50, 48), dtype=np.float32))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 50)
    options = BuildOptions(vectors=str(tmp_path / "v.npy"))  # type: ignore[arg-type]
    planned = build.plan_build([tmp_path / "a.jsonl"], tmp_path / "index", options)
    assert planned.options.vectors == tmp_path / "v.npy"
