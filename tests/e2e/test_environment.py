"""The commands under every variable that a dependency reads and that could change what they do.

Found in the sources: of Ray (ray_constants.py, worker.py, node.py, services.py, _raylet.so), of
OpenMP and BLAS behind FAISS, numpy and torch, of LMDB, pyarrow, huggingface_hub, transformers,
sentence-transformers, OpenVINO, httpx, uvicorn, click and rich, and of Python.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import COMMAND, answering, bitsift, in_process
from tests.tiny_model import build_tiny_model

NOWHERE = "127.0.0.1:9"
RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_AUTH_TOKEN": "known",
    "RAY_AUTH_TOKEN_PATH": "/proc/none",
    "RAY_BACKEND_LOG_LEVEL": "debug",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "nothing",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"working_dir": "/proc/none"}}',
    "RAY_JOB_ID": "01000000",
    "RAY_LOGGER_LEVEL": "debug",
    "RAY_NAMESPACE": "another",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": "00",
    "RAY_RAYLET_PID": "1",
    "RAY_REDIS_ADDRESS": NOWHERE,
    "RAY_RUNTIME_ENV_HOOK": "no.such.hook",
    "RAY_USAGE_STATS_ENABLED": "1",
    "RAY_grpc_enable_http_proxy": "1",
    "RAY_worker_niceness": "15",
}
LIBRARIES = {
    "OMP_NUM_THREADS": "8", "OMP_THREAD_LIMIT": "16", "OMP_WAIT_POLICY": "active",
    "OMP_DYNAMIC": "true", "OMP_PROC_BIND": "close", "KMP_AFFINITY": "compact",
    "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "NUMEXPR_NUM_THREADS": "3",
    "LMDB_DEFAULT_LIB_VERSION": "1",  # new files in another format
    "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1",
    "HF_HOME": "/proc/none", "HF_HUB_CACHE": "/proc/none", "TRANSFORMERS_CACHE": "/proc/none",
    "SENTENCE_TRANSFORMERS_HOME": "/proc/none", "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_VERBOSITY": "debug", "TORCH_LOGS": "+all", "CUDA_VISIBLE_DEVICES": "0",
    "OV_CPU_THREADS_NUM": "3",
    "http_proxy": f"http://{NOWHERE}", "https_proxy": f"http://{NOWHERE}",
    "HTTP_PROXY": f"http://{NOWHERE}", "ALL_PROXY": f"http://{NOWHERE}",
    "all_proxy": f"http://{NOWHERE}", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1",
    "WEB_CONCURRENCY": "4", "FORWARDED_ALLOW_IPS": "*", "UVICORN_PORT": "1",
}  # fmt: skip
PYTHON = {
    "PYTHONHASHSEED": "1", "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error",
    "PYTHONUTF8": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
    "LC_ALL": "C", "LANG": "C", "TZ": "Pacific/Kiritimati",
    "COLUMNS": "20", "LINES": "2", "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": "1",
    "_TYPER_STANDARD_TRACEBACK": "1",
}  # fmt: skip
TEXTS = ("eight legs", "bread is baked in an oven", "naïve café", "rain on dry ground", "東京")
DIMENSION = 1_024


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"), DIMENSION)


def built(folder: Path, model: Path, ask: Callable[..., str]) -> dict[str, Any]:
    """What an index built in ``folder`` says of itself, and what it answers to commands by
    ``ask``.
    """
    lines = [json.dumps({"id": f"t{i}", "text": text}) for i, text in enumerate(TEXTS * 8)]
    (folder / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    index = folder / "index"
    bitsift("index", folder / "corpus.jsonl", "--out", index, "--model", model, "--shards", 2)
    ask("verify", index)
    answer = json.loads(ask("search", TEXTS[2], "--index", index, "--json"))
    manifest = json.loads((index / "manifest.json").read_text())
    return {
        "hits": hits(answer),
        "files": sorted(str(path.relative_to(index)) for path in index.rglob("*")),
        "calibration": manifest["calibration"],
        "model": manifest["model"],
    }


def hits(answer: dict[str, Any]) -> list[tuple[str, str, float]]:
    return [(hit["id"], hit["text"], round(hit["score"], 4)) for hit in answer["hits"]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, Any]:
    return built(tmp_path_factory.mktemp("plain"), model, in_process)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Those of pytest are too long for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="bitsift-"))
    yield folder
    shutil.rmtree(folder)


def test_a_model_is_taken_by_its_path_with_its_width_and_its_prompts(
    plain: dict[str, Any],
) -> None:
    assert (plain["model"]["dimension"], plain["model"]["query_prompt"]) == (DIMENSION, "query: ")
    assert len(plain["hits"]) == 10
    assert plain["hits"][0][1] == TEXTS[2]


def test_no_variable_changes_an_index_its_answers_or_the_cluster(
    model: Path,
    plain: dict[str, Any],
    tmp_path: Path,
    short_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them at once: each command is run under every variable of the tables."""
    tables = (RAY, LIBRARIES, PYTHON, {"RAY_TMPDIR": str(short_folder)})
    variables = [item for table in tables for item in table.items()]
    assert len(variables) == len(dict(variables))
    for name, value in variables:
        monkeypatch.setenv(name, value)
    assert built(tmp_path, model, lambda *command: bitsift(*command).stdout) == plain
    command = [*COMMAND, "serve", tmp_path / "index", "--port", 0, "--json"]
    with answering(command) as (url, _):
        answer = json.loads(bitsift("search", TEXTS[2], "--url", url, "--json").stdout)
        assert list(short_folder.glob("ray/session_*/logs"))  # where Ray was told to write
    assert hits(answer) == plain["hits"]


CLEAR_ERRORS = [
    ("PYTHONOPTIMIZE", "1", ["status"], "unset it"),
    ("PYTHONOPTIMIZE", "2", ["serve", "index"], "unset it"),
    (
        "SSL_CERT_FILE",
        "/proc/none",
        ["search", "a", "--url", f"https://{NOWHERE}"],
        "No such file",
    ),
    ("ALL_PROXY", f"socks5h://{NOWHERE}", ["status", "--url", f"http://{NOWHERE}"], "socks"),
    (
        "http_proxy",
        f"http://{NOWHERE}",
        ["status", "--url", "http://127.0.0.2:9"],
        f"http://{NOWHERE}",
    ),
]


@pytest.mark.parametrize(("name", "value", "command", "said"), CLEAR_ERRORS)
def test_what_cannot_be_done_under_a_variable_is_said_in_a_line(
    name: str, value: str, command: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    done = bitsift(*command, check=False)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


LONG = "x" * 100
SMALL = "create INDEX --dimensions 64 --shards 1"
BUILD = "index SOURCE --vector-field v --shards 1 --out INDEX"
PROCESSES = [
    ("another cluster", f"export RAY_ADDRESS={NOWHERE}", BUILD, f"{NOWHERE}, which RAY_ADDRESS"),
    ("the shell's limit on RAM", "ulimit -v 30000000", BUILD, "ulimit -v unlimited"),
    ("the shell's limit on files", "ulimit -f 100", BUILD, "ulimit -f unlimited"),
    ("a folder that is gone", "mkdir gone; cd gone; rmdir ../gone", SMALL, "folder is gone"),
    ("a long TMPDIR", f"mkdir {LONG}; export TMPDIR=$PWD/{LONG}", BUILD, "set TMPDIR"),
    ("a full disk behind the output", "exec >/dev/full", SMALL, "No space left"),
    ("the same, as JSON", "exec >/dev/full", f"{SMALL} --json", "No space left"),
]


def in_a_shell(folder: Path, before: str, command: str) -> subprocess.CompletedProcess[str]:
    """A command behind ``before``, both in one shell, in ``folder``."""
    source = folder / "source.jsonl"
    source.write_text(json.dumps({"text": "t", "v": [1.0] * 64}))
    words = {"SOURCE": str(source), "INDEX": str(folder / "index")}
    named = [words.get(word, word) for word in (*COMMAND, *command.split())]
    return subprocess.run(
        ["bash", "-c", f"{before}; exec {shlex.join(named)}"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("before", "command", "said"), [case[1:] for case in PROCESSES],
                         ids=[case[0] for case in PROCESSES])  # fmt: skip
def test_what_cannot_be_done_in_a_place_is_said_in_a_line(
    before: str, command: str, said: str, tmp_path: Path
) -> None:
    done = in_a_shell(tmp_path, before, command)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("before", ["exec 2>&-", "exec >&-", "exec 0<&- 1>&- 2>&-", "unset HOME"])
def test_files_that_are_closed_and_no_home_stop_nothing(before: str, tmp_path: Path) -> None:
    assert in_a_shell(tmp_path, before, SMALL).returncode == 0
    assert (tmp_path / "index" / "complete.json").is_file()
