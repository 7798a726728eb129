"""The settings tree: every setting by every source; what is refused, where, and with which hint.

The tests are driven by the fields of the tree: a new setting is covered without a line here.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.manifest import SHARDS_MAX
from bitsift.cluster.serving.configured import shard_settings
from bitsift.config.docs import example, markdown
from bitsift.config.fields import PREFIX, SETTINGS, Setting
from bitsift.config.sources import VARIABLES, Loaded, load_settings
from bitsift.config.toml_file import FILE_BYTES_MAX
from bitsift.config.tree import (
    DEFAULTS,
    MIN_READY_MAX,
    TEXT_CHARACTERS_MAX,
    TEXTS_MAX,
    Settings,
)
from bitsift.errors import BitsiftError, InvalidRequest, NotFound
from bitsift.router.model.encoder import BACKENDS
from bitsift.router.model.query_vectors import QUERY_CACHE_DEFAULT
from bitsift.shard_worker.types import ShardSettings

ROOT = Path(__file__).parents[2]
NAMES = [setting.key for setting in SETTINGS]
each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def values(setting: Setting) -> st.SearchStrategy[Any]:
    """What a setting may be, as a file says it."""
    if setting.choices:
        return st.sampled_from(setting.choices)
    if setting.is_switch:
        return st.booleans()
    if setting.range is not None:
        low, high = setting.range
        if setting.type is float:
            return st.floats(low, high)
        return st.integers(int(low), int(high))
    words = st.text("abcdefghijklmnopqrstuvwxyzé.:/-", min_size=1, max_size=8)
    return st.lists(words, min_size=1, max_size=3) if setting.is_list else words


def as_variable(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def as_flag(value: Any) -> Any:
    return value if isinstance(value, (list, bool)) else str(value)


def write(path: Path, tables: dict[str, dict[str, Any]]) -> Path:
    lines = []
    for section, table in tables.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in table.items()]
    path.write_text("\n".join(lines))
    return path


def expected(setting: Setting, value: Any, folder: Path | None) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if setting.is_path and folder is not None and "://" not in value:
        value = str(folder / value)
    return Path(value) if setting.type is Path else value


@each_setting
@settings(max_examples=10)
@given(data=st.data())
def test_a_flag_overrides_a_variable_and_that_the_file_and_that_the_default(
    setting: Setting, data: st.DataObject
) -> None:
    in_file, in_variable, in_flag = (data.draw(values(setting)) for _ in range(3))
    for filed, set_, flagged in itertools.product((False, True), repeat=3):
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            path = Path(folder) / "any.toml"
            write(path, {setting.section: {setting.name: in_file}} if filed else {})
            if set_:
                patch.setenv(setting.variable, as_variable(in_variable))
            loaded = load_settings({setting.key: as_flag(in_flag)} if flagged else {}, path)
        want, origin = setting.default, "default"
        if filed:
            want, origin = expected(setting, in_file, path.parent), f"{path}:2"
        if set_:
            want, origin = expected(setting, in_variable, None), setting.variable
        if flagged:
            want, origin = expected(setting, in_flag, None), setting.flag
        assert setting.of(loaded.settings) == want
        assert loaded.origins == dict.fromkeys(NAMES, "default") | {setting.key: origin}


def test_rays_own_variable_says_the_cluster_where_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def address(path: Path | None = None) -> tuple[str | None, str]:
        loaded = load_settings({}, path)
        return loaded.settings.ray.address, loaded.origins["ray.address"]

    for nothing in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", nothing)
        assert address() == (None, "default")
    monkeypatch.setenv("RAY_ADDRESS", "a:1")
    assert address() == ("a:1", "RAY_ADDRESS")
    path = write(tmp_path / "any.toml", {"ray": {"address": "b:2"}})
    assert address(path) == ("b:2", f"{path}:2")
    monkeypatch.setenv("BITSIFT_RAY_ADDRESS", "c:3")
    assert address(path) == ("c:3", "BITSIFT_RAY_ADDRESS")


def wrong(setting: Setting) -> list[Any]:
    """What a setting may not be, as a file says it."""
    if setting.choices:
        return ["xx", "", 1]
    if setting.is_switch:
        return ["perhaps", 2, []]
    if setting.range is not None:
        low, high = setting.range
        return [low - 1, high * 2, "abc", True, [], float("inf"), float("nan"), ""]
    if setting.is_list:
        return [[1], 1, [""], ["a\nb"], ["a"] * (TEXTS_MAX + 1)]
    return [1, "", []] if setting.is_path else [1, "", "a\nb", "a" * (TEXT_CHARACTERS_MAX + 1)]


def refused(flags: dict[str, Any], path: Path | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        load_settings(flags, path)
    return caught.value.message


@each_setting
def test_a_wrong_value_is_refused_with_its_place_and_what_is_allowed(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "any.toml"
    for value in wrong(setting):
        said = json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")
        path.write_text(f"# a comment\n[{setting.section}]\n\n{setting.name} = {said}\n")
        message = refused({}, path)
        assert message.startswith(f"{setting.key} ({path}:4): ")
        assert message.endswith(f" is not {setting.allowed}")
    for text in ("", "\0"[:0], *(str(v) for v in wrong(setting) if isinstance(v, (str, float)))):
        if not text or setting.is_path or setting.is_list or setting.allowed == "a text":
            continue
        assert refused({setting.key: text}).startswith(f"{setting.key} ({setting.flag}): '{text}'")
        with monkeypatch.context() as patch:
            patch.setenv(setting.variable, text)
            message = refused({})
        assert message == f"{setting.key} ({setting.variable}): '{text}' is not {setting.allowed}"


def test_a_wrong_value_is_shown_as_far_as_it_can_be_read() -> None:
    assert f"'{'x' * 79}… is not" in refused({"serve.port": "x" * 5_000})
    assert f"'{'x' * 78}' is not" in refused({"serve.port": "x" * 78})


def test_one_error_lists_the_mistakes_of_all_sources_also_of_overridden_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "any.toml", {"serve": {"port": -1, "prot": 1}, "sreve": {"port": 1}})
    monkeypatch.setenv("BITSIFT_SERVE_PORT", "70000")
    monkeypatch.setenv("BITSIFT_SERV_PORT", "1")
    message = refused({"serve.port": "8000", "shards.store_max": "1"}, path)
    head, *mistakes = message.splitlines()
    assert head == "6 mistakes in the settings:"
    assert sorted(line.strip() for line in mistakes) == sorted(
        [
            f"serve.port ({path}:2): -1 is not a whole number from 0 to 65,535",
            f"serve.prot ({path}:3): there is no such setting; did you mean serve.port?",
            f"sreve ({path}:4): there is no such setting; did you mean serve?",
            "serve.port (BITSIFT_SERVE_PORT): '70000' is not a whole number from 0 to 65,535",
            "BITSIFT_SERV_PORT: there is no such variable; did you mean BITSIFT_SERVE_PORT?",
            "shards.store_max (--store-max): '1' is not a size from 16M to 32T",
        ]
    )


@each_setting
def test_a_slip_of_the_pen_is_refused_with_the_nearest_name(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slip = setting.name + setting.name[-1]
    message = refused({}, write(tmp_path / "a.toml", {setting.section: {slip: "x"}}))
    assert message.endswith(f"there is no such setting; did you mean {setting.key}?")
    (tmp_path / "a.toml").write_text(f"{setting.name}=1")  # outside of its section
    if setting.name not in Settings.model_fields:
        message = refused({}, tmp_path / "a.toml")
        assert f"; did you mean {setting.key}?" in message
    slip = setting.variable + setting.variable[-1]
    for name in (slip, setting.variable.lower()):
        with monkeypatch.context() as patch:
            patch.setenv(name, "x")
            message = refused({})
        assert message == f"{name}: there is no such variable; did you mean {setting.variable}?"


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ("[index]\nmodel = 'x'", "fixed when `bitsift index` builds an index"),
        ("dimension = 3", "fixed when `bitsift index` builds an index"),
        ("[client]\napi_key = 'hush'", "BITSIFT_API_KEY"),
        ("[access]\napi_key = 'hush'", "BITSIFT_API_KEY"),
        ("[serve]\nwrite_acks = 'all'", "belongs in the spec of `bitsift cluster up`"),
        ("serve = 3", "write [serve]"),
        ("quite = 'other'", "`bitsift config` lists them all"),
    ],
)
def test_what_is_no_setting_says_where_it_belongs(table: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "bitsift.toml").write_text(table)
    message = refused({})
    if "client" not in table:
        assert hint in message
    assert "hush" not in message


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.setenv(setting.variable, "")
    monkeypatch.setenv("BITSIFT_CONFIG", "")
    assert load_settings({}) == Loaded(DEFAULTS, None, dict.fromkeys(NAMES, "default"))


def test_what_kubernetes_sets_for_a_service_of_our_name_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for service in ("BITSIFT", "BITSIFT_SERVE", "BITSIFT_READ_ONLY"):
        monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv(f"{service}_SERVICE_PORT", "8000")
        monkeypatch.setenv(f"{service}_SERVICE_PORT_HTTP", "8000")
        monkeypatch.setenv(f"{service}_PORT", "tcp://10.0.0.1:8000")
        monkeypatch.setenv(f"{service}_PORT_8000_TCP", "tcp://10.0.0.1:8000")
        monkeypatch.setenv(f"{service}_PORT_8000_TCP_PROTO", "tcp")
        monkeypatch.setenv(f"{service}_PORT_8000_TCP_PORT", "8000")
        monkeypatch.setenv(f"{service}_PORT_8000_TCP_ADDR", "10.0.0.1")
    assert load_settings({}).settings == DEFAULTS
    monkeypatch.setenv("BITSIFT_PORT", "8000")
    assert "did you mean BITSIFT_SERVE_PORT?" in refused({})


def test_the_flag_names_the_file_else_the_variable_else_the_one_that_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings({}).file is None
    for port, name in enumerate(("bitsift.toml", "variable.toml", "flag.toml"), start=1):
        write(tmp_path / name, {"serve": {"port": port}})
    assert load_settings({}).settings.serve.port == 1
    monkeypatch.setenv("BITSIFT_CONFIG", "variable.toml")
    assert load_settings({}).settings.serve.port == 2
    loaded = load_settings({}, Path("flag.toml"))
    assert loaded.settings.serve.port == 3
    assert loaded.file == tmp_path / "flag.toml"
    monkeypatch.setenv("BITSIFT_CONFIG", "none.toml")
    with pytest.raises(NotFound, match=r"none\.toml"):
        load_settings({})


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_change_is_read_only_when_it_is_named(
    mode: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "bitsift.toml", {"serve": {"port": 1}})
    path.chmod(mode)
    assert "chmod go-w" in refused({})
    assert load_settings({}, path).settings.serve.port == 1


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.needs_a_name], ids=lambda s: s.key)
def test_where_keys_go_and_whose_code_runs_is_said_only_by_a_file_that_is_named(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = setting.field.examples[0]  # type: ignore[index]
    path = write(tmp_path / "bitsift.toml", {setting.section: {setting.name: value}})
    assert refused({}).startswith(f"{setting.key} ({path}:2): only a file that was named")
    assert setting.of(load_settings({}, path).settings) == value
    monkeypatch.setenv("BITSIFT_CONFIG", str(path))
    assert setting.of(load_settings({}).settings) == value


def unreadable(folder: Path) -> Iterator[tuple[Path, str]]:
    (folder / "large.toml").write_text("#" * (FILE_BYTES_MAX + 1))
    (folder / "latin.toml").write_bytes(b"[serve]\nhost = 'caf\xe9'\n")
    (folder / "broken.toml").write_text("[serve\nport = 1\n")
    (folder / "twice.toml").write_text("[serve]\nport = 1\nport = 2\n")
    os.mkfifo(folder / "pipe.toml")
    yield folder / "large.toml", "over 262,144 bytes"
    yield folder / "latin.toml", "not TOML"
    yield folder / "broken.toml", "line 1"
    yield folder / "twice.toml", "not TOML"
    yield folder / "pipe.toml", "not a file"
    yield folder, "not a file"
    yield folder / "none.toml", "--example"


def test_a_file_that_is_none_of_settings_is_an_error_and_never_a_wait(tmp_path: Path) -> None:
    for path, said in unreadable(tmp_path):
        with pytest.raises(BitsiftError, match=said) as caught:
            load_settings({}, path)
        assert str(path) in caught.value.message
    (tmp_path / "full.toml").write_text("#" * FILE_BYTES_MAX)
    assert load_settings({}, tmp_path / "full.toml").settings == DEFAULTS


def test_the_home_of_the_user_is_known_in_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of/mine")
    wanted = Path("/home/of/mine/keys.json")
    path = write(tmp_path / "a.toml", {"access": {"keys": "~/keys.json"}})
    assert load_settings({}, path).settings.access.keys == wanted
    assert load_settings({"access.keys": "~/keys.json"}).settings.access.keys == wanted


def test_sizes_are_written_as_people_write_them(tmp_path: Path) -> None:
    for said in ('"1.5 TiB"', '"1536G"', "1649267441664"):
        (tmp_path / "a.toml").write_text(f"shards = {{store_max = {said}}}")
        assert load_settings({}, tmp_path / "a.toml").settings.shards.store_max == 3 << 39


def test_the_tree_is_frozen_and_names_are_told_apart() -> None:
    with pytest.raises(ValidationError):
        DEFAULTS.serve.port = 1
    for names in (NAMES, [s.variable for s in SETTINGS], [s.flag for s in SETTINGS]):
        assert len({*names}) == len(SETTINGS)
    assert not {s.variable for s in SETTINGS} & {*VARIABLES}
    assert all(s.help.endswith(".") and s.allowed for s in SETTINGS)


def test_what_is_used_alone_starts_with_the_defaults_of_the_tree() -> None:
    assert shard_settings(DEFAULTS.shards) == ShardSettings()
    assert DEFAULTS.serve.query_cache == QUERY_CACHE_DEFAULT
    built = BuildOptions()
    assert (built.max_rejects, built.encoders) == (DEFAULTS.index.max_rejects, None)
    assert MIN_READY_MAX == SHARDS_MAX
    (backend,) = (setting for setting in SETTINGS if setting.key == "model.backend")
    assert {*backend.choices} == {*BACKENDS}


def test_reading_settings_loads_no_engine() -> None:
    code = "import sys, bitsift.config.sources; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert not {"ray", "fastapi", "torch", "numpy", "faiss"} & {*done.stdout.split()}


def test_the_page_of_all_settings_is_the_one_that_the_tree_makes() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == markdown(), "make docs"


def test_the_example_changes_nothing_and_all_that_it_shows_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "bitsift.toml"
    path.write_text(example())
    assert load_settings({}).settings == DEFAULTS
    lines = [line.removeprefix("#") for line in example().splitlines() if line[:2] != "# "]
    path.write_text("\n".join(lines))
    loaded = load_settings({}, path)
    assert all(origin.startswith(f"{path}:") for origin in loaded.origins.values())
    for setting in SETTINGS:
        if setting.field.examples is None:
            assert setting.of(loaded.settings) == setting.default
