"""What is installed: one name, whole, light without the server.

That it is deaf to a user's own modules: tests/e2e/test_ports.py, whose commands run among some.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVER = ("cluster", "router", "shard_worker")
WITHIN_S = 240
SERVER_ONLY = (
    "faiss", "fastapi", "lmdb", "msgspec", "numpy", "openvino", "pyarrow", "ray", "rich",
    "sentence_transformers", "torch", "typer", "uvicorn",
)  # fmt: skip


def run(code: str, folder: Path, *, home: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Python's answer to ``code`` in ``folder``, where ``home`` is what is installed."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | {"PYTHONPATH": str(home)},
        capture_output=True, text=True, check=False, timeout=WITHIN_S,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would check out, with its links."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("bitsift", *SERVER):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> list[str]:
    """The names of the files in the wheel."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", checkout / "wheels", checkout],
        check=True, capture_output=True, timeout=WITHIN_S,
    )  # fmt: skip
    (path,) = (checkout / "wheels").glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_the_wheel_installs_one_name_with_all_that_is_in_the_repository(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"bitsift"}
    tree = {str(path.relative_to(ROOT)) for path in (ROOT / "bitsift").glob("*.py")}
    for name in ("client", "config", "filters"):
        tree |= {str(path.relative_to(ROOT)) for path in (ROOT / "bitsift" / name).glob("*.py")}
    for name in SERVER:
        tree |= {f"bitsift/{path.relative_to(ROOT)}" for path in (ROOT / name).rglob("*.py")}
    assert {name for name in wheel if name.endswith(".py")} == tree
    assert {"bitsift/py.typed", "bitsift/router/web/index.html"} <= set(wheel)


def test_a_checkout_without_links_says_so_in_a_line(checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(checkout / "bitsift", tmp_path / "bitsift", symlinks=True)
    (tmp_path / "bitsift" / "router").unlink()
    (tmp_path / "bitsift" / "router").write_text("../router")  # as git does without links
    done = run("import bitsift", tmp_path, home=tmp_path)
    assert "bitsift/router is a file, not a link" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", SERVER)
def test_a_part_of_the_server_has_no_other_name(name: str, tmp_path: Path) -> None:
    done = run(f"import {name}", tmp_path)
    assert f"import bitsift.{name}: {name} is no name of its own" in done.stderr


def test_the_client_needs_the_base_dependencies_and_no_others(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code = (
        "import sys, types\n"
        "class Refused:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {SERVER_ONLY!r}: raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Refused())\n"
        "import bitsift\n"
        "bitsift.Client('http://127.0.0.1:9')\n"
        "bitsift.AsyncClient, bitsift.Mode, bitsift.SearchOptions\n"
        "try: bitsift.build_index\n"
        "except ImportError as error: print(error)\n"
        "from bitsift.command import main\n"
        "main()\n"
    )
    done = run(code, tmp_path)
    assert done.returncode == 2, done.stderr
    said = "the server is not installed: pip install 'bitsift[server]'"
    assert done.stdout.startswith(said)
    assert done.stderr.startswith(f"bitsift: {said}")
    assert len(done.stderr.splitlines()) == 1
    names = {entry.split(">")[0] for entry in project["dependencies"]}
    assert names == {"httpx", "orjson", "pydantic", "tenacity"}
