"""What pip would install, by its report, as a requirements file with the hashes of .ci/hashes.txt.

pip install --dry-run --report report.json …; python3 .ci/locked.py report.json < .ci/hashes.txt
"""

import json
import re
import sys
from pathlib import Path

LEFT_OUT = ("torch",)
"""Whose builds for CPUs have other hashes on each index: the Dockerfile installs it by itself."""


def normal(name: str) -> str:
    """As PEP 503 says."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(report: dict, hashed: str) -> str:
    """Raises KeyError for a package that has no hashes there in that version."""
    lines = {}
    for entry in re.split(r"\n(?=\S)", hashed):
        if found := re.match(r"([\w.-]+)==(\S+) \\\n", entry):
            lines[normal(found[1]), found[2]] = entry.rstrip("\n")
    wanted = [
        (normal(one["metadata"]["name"]), one["metadata"]["version"]) for one in report["install"]
    ]
    return "".join(f"{lines[one]}\n" for one in sorted(wanted) if one[0] not in LEFT_OUT)


if __name__ == "__main__":
    sys.stdout.write(locked(json.loads(Path(sys.argv[1]).read_text()), sys.stdin.read()))
