"""``make images``: the two images of the Dockerfile, built for real without Docker or a registry.

The base is a Debian that mmdebstrap makes; buildah builds on it (chroot isolation: no container
runtime, no cgroups). Needs root and Debian's packages mmdebstrap and buildah. The images stay in
``.images``, where ``make rehearse`` takes them from; one that is there already is built again only
where the Dockerfile or what it copies changed.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.machine import write_result
from tests.hub import Hub, serving
from tests.k8s.rendered import ROOT
from tests.k8s.workloads import VERSION
from tests.tiny_model import build_tiny_model

STORE = ROOT / ".images"
RESULT = ROOT / "benchmarks" / "results" / "images.json"
SUITE = "bookworm"
"""Whose python3 is 3.11."""
TARGETS = {"shard": 700_000_000, "router": 1_900_000_000}
"""The most bytes that each may take, uncompressed."""
BASE = "localhost/bitsift-base"
COMMIT = "5" * 40
"""Of the model that an image is built with, too."""
_BASE_WITHIN_S, _BUILD_WITHIN_S, _WITHIN_S = 900, 2_400, 120
_PATH = re.compile(r"(?:file://)?(/[^\s,;]+)")
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_PRUNED = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]


def buildah(*arguments: object, within_s: float = _WITHIN_S) -> str:
    """What it says. Its storage is ours alone."""
    command = ["buildah", f"--root={STORE / 'root'}", f"--runroot={STORE / 'run'}", *arguments]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=within_s
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4_000:]}\n{done.stderr[-4_000:]}"
    return done.stdout.strip()


def image(target: str, tag: str = VERSION) -> str:
    return f"localhost/bitsift-{target}:{tag}"


def is_built(target: str) -> bool:
    """Whether there is an image of what the Dockerfile says now."""
    if shutil.which("buildah") is None or not STORE.exists():
        return False
    found = json.loads(buildah("images", "--json") or "[]")
    named = [one for one in found or [] if image(target) in (one.get("names") or [])]
    if not named:
        return False
    made = json.loads(buildah("inspect", "--type", "image", image(target)))
    return bool(made["OCIv1"]["config"].get("Labels", {}).get("sources") == sources())


def sources() -> str:
    """A digest of all that the images are made of."""
    names = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    done = subprocess.run(
        ["git", "hash-object", "--stdin-paths"], cwd=ROOT, check=True, text=True, timeout=60,
        capture_output=True, input="\n".join(map(str, ["Dockerfile", *_files(names)])),
    )  # fmt: skip
    listed = subprocess.run(
        ["git", "hash-object", "--stdin"], input=done.stdout, cwd=ROOT, check=True, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    return listed.stdout.strip()


def _files(names: list[str]) -> list[Path]:
    found: list[Path] = []
    for name in names:
        place = (ROOT / name).resolve()
        found += place.rglob("*") if place.is_dir() else [place]
    return sorted(
        path.relative_to(ROOT)
        for path in {path.resolve() for path in found}
        if path.is_file() and "__pycache__" not in path.parts
    )


def make_base() -> None:
    """A minimal Debian with Python, without documentation: 2 minutes, once."""
    if any(BASE in str(one) for one in json.loads(buildah("images", "--json") or "[]") or []):
        return
    archive = STORE / "base.tar"
    packages = "--include=ca-certificates,python3,python3-venv"
    here = Path("/etc/apt/sources.list.d/debian.sources")
    mirror = [str(here)] if here.exists() and SUITE in here.read_text() else []
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", packages, *_PRUNED, SUITE, archive, *mirror],
        check=True, timeout=_BASE_WITHIN_S,
    )  # fmt: skip
    made = buildah("from", "scratch")
    buildah("add", made, archive, "/")
    buildah("commit", "--rm", made, BASE)
    archive.unlink()


def build(target: str, tag: str = VERSION, *more: str) -> None:
    """One image, as `docker build --target` does."""
    given = [word for place in _of_pip() for word in ("--volume", f"{place[0]}:{place[1]}:ro")]
    buildah(
        "build", "--isolation", "chroot", "--layers", "--target", target,
        "--tag", image(target, tag),
        "--build-arg", f"BASE={BASE}", *more, "--label", f"sources={sources()}", *given, ROOT,
        within_s=_BUILD_WITHIN_S,
    )  # fmt: skip


def _of_pip() -> list[tuple[Path, str]]:
    """How pip finds packages on this machine: its settings, and the folders that they name."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    pairs = re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", said, re.MULTILINE)
    settings = configparser.ConfigParser(interpolation=None)
    settings["global"] = {name: value.replace("\\n", " ") for name, value in pairs}
    file = STORE / "pip.conf"
    with file.open("w") as written:
        settings.write(written)
    named = {match for _, value in pairs for match in _PATH.findall(value.replace("\\n", " "))}
    # An index names files beside it.
    places = {str(Path(one).parent) if Path(one).name == "simple" else one for one in named}
    return [(file, "/etc/pip.conf"), *((Path(p), p) for p in sorted(places) if os.path.exists(p))]


def build_with_model() -> list[str]:
    """The router's image with a model of a hub on loopback; the files of it that the image has."""
    with tempfile.TemporaryDirectory() as folder:
        hub = Hub("some/model", {COMMIT: build_tiny_model(Path(folder), dimension=64)}, COMMIT)
        with serving(hub):
            given = {"MODEL": f"some/model@{COMMIT}", "HF_ENDPOINT": hub.url}
            words = [word for it in given.items() for word in ("--build-arg", "=".join(it))]
            build("router", "with-model", *words)
    made = buildah("from", "--pull-never", image("router", "with-model"))
    try:
        snapshot = Path(buildah("mount", made), "models/models--some--model/snapshots", COMMIT)
        return sorted(path.name for path in snapshot.iterdir())
    finally:
        buildah("umount", made)
        buildah("rm", made)


def root_of(target: str) -> Path:
    """The root of an image as a folder, to be read only; it stays until ``release``."""
    container = f"rehearsal-{target}"
    if container not in buildah("containers", "--format", "{{.ContainerName}}").splitlines():
        buildah("from", "--name", container, "--pull-never", image(target))
    return Path(buildah("mount", container))


def release() -> None:
    """End the folders of ``root_of``."""
    for target in TARGETS:
        container = f"rehearsal-{target}"
        if container in buildah("containers", "--format", "{{.ContainerName}}").splitlines():
            buildah("umount", container)
            buildah("rm", container)


def largest(target: str, count: int = 12) -> dict[str, int]:
    """Bytes of the largest packages of an image."""
    site = next(root_of(target).glob("opt/bitsift/lib/python3*/site-packages"))
    found = {path.name: _bytes_in(path) for path in site.iterdir()}
    return dict(sorted(found.items(), key=lambda pair: -pair[1])[:count])


def _bytes_in(place: Path) -> int:
    if not place.is_dir():
        return place.lstat().st_size
    return sum(path.lstat().st_size for path in place.rglob("*") if not path.is_dir())


def main() -> None:
    STORE.mkdir(exist_ok=True)
    found: dict[str, Any] = {}
    try:
        make_base()
        for target in TARGETS:
            began_s = time.monotonic()
            if not is_built(target):
                build(target)
            root = root_of(target)
            found[target] = {
                "bytes": _bytes_in(root),
                "of_which_debian": _bytes_in(root) - _bytes_in(root / "opt" / "bitsift"),
                "bar_bytes": TARGETS[target],
                "largest_packages": largest(target),
                "took_s": round(time.monotonic() - began_s, 1),
            }
            print(target, json.dumps(found[target], indent=1), flush=True)
        found["router_with_model"] = build_with_model()
    finally:
        release()
    write_result(RESULT, found)


if __name__ == "__main__":
    main()
