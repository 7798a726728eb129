"""Writes .ci/hashes.txt: the SHA-256 of the wheels of constraints.txt for Linux and CPython 3.11.

The Dockerfile installs by it, so that an image holds what was published when the pins were made.
Not of torch, whose builds for CPUs differ from one index to the next. `make constraints` runs it.
"""

import re
import sys
from pathlib import Path

import httpx
from locked import LEFT_OUT
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

INDEX = "https://pypi.org/simple/"
ARCHITECTURES = ("x86_64", "aarch64")
GLIBC_MINORS = range(5, 37)
"""Of Debian 12 and before."""
HEADER = "# What .ci/hashes.py writes; do not edit.\n"


def allowed() -> frozenset[Tag]:
    """All tags of wheels that an image may hold."""
    platforms = [f"linux_{it}" for it in ARCHITECTURES]
    platforms += [f"manylinux_2_{minor}_{it}" for minor in GLIBC_MINORS for it in ARCHITECTURES]
    platforms += [f"manylinux{year}_{it}" for year in (1, 2010, 2014) for it in ARCHITECTURES]
    of_python = {"python_version": (3, 11), "platforms": platforms}
    return frozenset(
        [*cpython_tags(**of_python), *compatible_tags(interpreter="cp311", **of_python)]
    )


def hashes(client: httpx.Client, name: str, version: Version, tags: frozenset[Tag]) -> list[str]:
    """Those of the wheels of a version; none where it has none of these tags."""
    answer = client.get(f"{INDEX}{canonicalize_name(name)}/")
    found: list[str] = []
    for file in answer.raise_for_status().json()["files"]:
        try:
            _, of, _, theirs = parse_wheel_filename(file["filename"])
        except InvalidWheelFilename:
            continue
        if of == version and theirs & tags:
            found.append(file["hashes"]["sha256"])
    return sorted(found)


def main() -> None:
    """Beside this file."""
    folder = Path(__file__).parent
    pins = re.findall(
        r"^([\w.-]+)==(\S+)$", (folder.parent / "constraints.txt").read_text(), re.MULTILINE
    )
    tags, lines = allowed(), [HEADER]
    with httpx.Client(
        headers={"Accept": "application/vnd.pypi.simple.v1+json"}, timeout=60, follow_redirects=True
    ) as client:
        for name, version in pins:
            if name not in LEFT_OUT and (found := hashes(client, name, Version(version), tags)):
                said = [f"{name}=={version}", *(f"    --hash=sha256:{it}" for it in found)]
                lines.append(" \\\n".join(said) + "\n")
    (folder / "hashes.txt").write_text("".join(lines))
    sys.stdout.write(f".ci/hashes.txt: {len(lines) - 1} packages\n")


if __name__ == "__main__":
    main()
