"""Settings on the real command line: flags, `bitsift config`, and what a command is told of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.cli import console as cli_console
from bitsift.cluster.cli.main import app
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.config.fields import PREFIX, SETTINGS, Setting
from bitsift.config.tree import Settings
from bitsift.errors import InvalidRequest, NotFound, Unavailable
from tests.commands import COMMAND

each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=[s.key for s in SETTINGS])
KEY = "bitsift_01234567_" + "5" * 64


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=True)


def settings(*arguments: object) -> dict[str, Any]:
    done = run("config", "--json", *arguments)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout)["settings"])


def sample(setting: Setting) -> Any:
    """A value that is not the default, as JSON has it."""
    if setting.field.examples is not None:
        return setting.field.examples[0]
    if setting.is_switch:
        return True
    if setting.choices:
        return setting.choices[-1]
    return setting.type(setting.range[0]) if setting.range is not None else "localhost"


def flags(setting: Setting) -> list[str]:
    value = sample(setting)
    if setting.is_switch:
        return [setting.flag]
    return [f"{setting.flag}={one}" for one in (value if setting.is_list else [value])]


@each_setting
def test_the_flag_of_a_setting_sets_it_and_nothing_else(setting: Setting) -> None:
    before, after = settings(), settings(*flags(setting))
    assert sample(setting) != before[setting.key]["value"]
    assert after == before | {setting.key: {"value": sample(setting), "from": setting.flag}}


@each_setting
def test_a_flag_belongs_to_the_commands_that_its_section_names(setting: Setting) -> None:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    about = Settings.model_fields[setting.section].annotation.__doc__ or ""
    named = {*re.findall(r"`(?:bitsift )?(\w+)`", about)}
    have = {
        name
        for name, command in commands.items()
        if any(param.name == setting.key.replace(".", "_") for param in command.params)
    }
    assert have == named | {"config"}
    for name in have:
        (option,) = (p for p in commands[name].params if setting.flag in p.opts)
        assert option.help.startswith(setting.help)


def test_no_takes_back_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "bitsift.toml").write_text("[access]\ninsecure = true\n")
    assert settings()["access.insecure"] == {"value": True, "from": f"{tmp_path}/bitsift.toml:2"}
    assert settings("--no-insecure")["access.insecure"]["value"] is False


def test_each_value_is_shown_with_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text("[shards]\nstore_max = '500G'\n[access]\nkeys = 'k.json'")
    monkeypatch.setenv("BITSIFT_SERVE_PORT", "9000")
    monkeypatch.setattr(cli_console.out, "width", 500)  # a long path takes one line
    done = run("config", "--config", "mine.toml", "--cors", "https://a.b", "--cors", "https://c.d")
    lines = [" ".join(re.findall(r"[^\s│]+", line)) for line in done.stdout.splitlines()]
    assert f"settings file: {tmp_path}/mine.toml" in lines
    assert f"shards.store_max 500G {tmp_path}/mine.toml:2" in lines
    assert f"access.keys {tmp_path}/k.json {tmp_path}/mine.toml:4" in lines
    assert "serve.port 9000 BITSIFT_SERVE_PORT" in lines
    assert "access.cors_origins https://a.b, https://c.d --cors" in lines
    assert "serve.host 127.0.0.1 default" in lines
    assert "serve.admin_port not set default" in lines


def test_a_key_of_a_gateway_is_said_to_be_there_and_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert re.search(r"BITSIFT_API_KEY *│ not set", run("config").stdout)
    monkeypatch.setenv("BITSIFT_API_KEY", KEY)
    shown, as_json = run("config").stdout, run("config", "--json").stdout
    assert re.search(r"BITSIFT_API_KEY *│ set", shown)
    assert json.loads(as_json)["api_key"] == "set"
    monkeypatch.setenv("BITSIFT_APIKEY", KEY)
    refused = run("config").exception
    assert isinstance(refused, InvalidRequest)
    assert "did you mean BITSIFT_API_KEY?" in refused.message
    assert KEY not in shown + as_json + refused.message


def test_the_password_in_a_url_is_not_shown() -> None:
    url = "https://me:secret@search.example.com:8000/a@b"
    for shown in (run("config", "--url", url).stdout, run("config", "--url", url, "--json").stdout):
        assert "https://***@search.example.com:8000/a@b" in shown
        assert "secret" not in shown


def test_the_gateway_of_the_settings_is_asked_where_no_index_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSIFT_CLIENT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("bitsift.client.retries.ATTEMPTS_MAX", 1)  # test_retries.py has those
    alone = (["status"], ["compact"], ["verify"], ["repair"])
    for command in (*alone, ["search", "a"], ["get", "a"], ["delete", "a"]):
        assert isinstance(run(*command).exception, Unavailable), command
    local = (
        ["status", "--index", "none"],
        ["compact", "none"],
        ["verify", "none"],
        ["backup", "none", "to"],
    )
    for command in local:
        assert isinstance(run(*command).exception, NotFound), command
        error = run(*command, "--url", "http://127.0.0.1:9").exception
        assert isinstance(error, InvalidRequest), command
        assert "not both" in error.message
    monkeypatch.delenv("BITSIFT_CLIENT_URL")
    for command in (["status"], ["search", "a"], ["get", "a"], ["delete", "a"], ["backup", "to"]):
        error = run(*command).exception
        assert isinstance(error, InvalidRequest), command
        assert "BITSIFT_CLIENT_URL" in error.message


def test_the_example_is_a_file_that_can_be_used(tmp_path: Path) -> None:
    before = settings()
    (tmp_path / "bitsift.toml").write_text(run("config", "--example").stdout)
    assert settings() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "none", "--store-max", "1"], "--store-max): '1' is not a size from 16M to 32T"),
        (["serve", "none", "--backend", "xx"], "'xx' is not one of auto, openvino, torch"),
        (["serve", "none", "--exact-budget-ms", "inf"], "'inf' is not a number from 0 to 60,000"),
        (["serve", "none", "--exact-budget-ms=nan"], "'nan' is not a number from 0 to 60,000"),
        (["serve", "none", "--compact-above", "0"], "'0' is not a number from 0.01 to 1"),
        (["demo", "--port", "70000"], "'70000' is not a whole number from 0 to 65,535"),
        (["index", "none", "--out", "x", "--max-rejects", "-1"], "'-1' is not a whole number"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_is_looked_at(
    arguments: list[str], said: str
) -> None:
    error = run(*arguments).exception
    assert isinstance(error, InvalidRequest)
    assert said in error.message


def test_settings_that_do_not_go_together_say_where_they_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bitsift.toml").write_text("[access]\nkeys = 'keys.json'\n")
    monkeypatch.setenv("BITSIFT_SERVE_HOST", "127.0.0.1")
    error = run("serve", "none", "--insecure").exception
    assert isinstance(error, InvalidRequest)
    assert error.message == (
        "pass --keys or --insecure, not both; serve.host is from BITSIFT_SERVE_HOST; "
        f"access.keys is from {tmp_path}/bitsift.toml:2"
    )


def test_more_ready_shards_than_there_are_is_refused_before_a_cluster_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_index(tmp_path / "index", SyntheticSpec(100, 64), 2)
    monkeypatch.setenv("BITSIFT_SERVE_MIN_READY_SHARDS", "3")
    error = run("serve", "index").exception
    assert isinstance(error, InvalidRequest)
    assert error.message == (
        "serve.min_ready_shards (BITSIFT_SERVE_MIN_READY_SHARDS): 3, but the index has 2 shards"
    )


def test_all_mistakes_are_told_in_one_error_of_exit_status_2(tmp_path: Path) -> None:
    (tmp_path / "bitsift.toml").write_text("[serve]\nprot = 1\n[limits]\nall = 3\n")
    done = subprocess.run(
        [*COMMAND, "serve", "none", "--port", "x"],
        env={"PYTHONPATH": ":".join(sys.path), f"{PREFIX}RAY_ADRESS": "a:1"},
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: 4 mistakes in the settings:",
        "  BITSIFT_RAY_ADRESS: there is no such variable; did you mean BITSIFT_RAY_ADDRESS?",
        f"  serve.prot ({tmp_path}/bitsift.toml:2): there is no such setting; "
        "did you mean serve.port?",
        f"  limits ({tmp_path}/bitsift.toml:3): there is no such setting; "
        "`bitsift config` lists them all",
        "  serve.port (--port): 'x' is not a whole number from 0 to 65,535",
    ]


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["config"]])
def test_help_and_config_load_no_engine(arguments: list[str]) -> None:
    code = (
        "import sys, bitsift.cluster.cli.main\n"
        "try: bitsift.cluster.cli.main.main()\n"
        "finally: print('loaded:', *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = {*done.stderr.rpartition("loaded:")[2].split()}
    assert "bitsift.config.tree" in loaded
    assert not {"ray", "fastapi", "torch", "faiss", "openvino"} & loaded
