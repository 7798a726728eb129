"""Put each fault of faults.py back, one at a time, into a copy of the sources, and see it noticed.

    python -m tests.planted [NAME …]

A test that cannot fail is worse than none. Exit status 1 where a fault goes unnoticed. Some ten
minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.planted.faults import FAULTS, Edit, Fault

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900
TESTS_FAILED = 1
"""The status of pytest where it ran and a test failed."""


def main(names: list[str]) -> int:
    """How the fault of each name (all without one) was noticed, on standard output."""
    chosen = [fault for fault in FAULTS if not names or fault.name in names]
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = copied(Path(folder))
        unnoticed = [fault.name for fault in chosen if not is_noticed(fault, copy)]
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} faults are noticed")
    return int(bool(unnoticed))


def copied(folder: Path) -> Path:
    """The files that git tracks, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60
    ).stdout
    copy = folder / "copy"
    for path in map(Path, os.fsdecode(listed).rstrip("\0").split("\0")):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy / path, follow_symlinks=False)
    return copy


def is_noticed(fault: Fault, copy: Path) -> bool:
    """Whether its tests fail with it, and nothing else is wrong with them."""
    plain = {edit.path: (copy / edit.path).read_text() for edit in fault.edits}
    for edit in fault.edits:
        file = copy / edit.path
        file.write_text(planted(file.read_text(), edit))
    try:
        status, failed = tested(fault, copy)
    finally:
        for path, text in plain.items():
            (copy / path).write_text(text)
    noticed = status == TESTS_FAILED and bool(failed)
    by = f"{len(failed)} tests, {failed[0]}" if failed else f"status {status}"
    print(
        f"{fault.name:12} {'noticed' if noticed else 'UNNOTICED'}: {fault.says} ({by})", flush=True
    )
    return noticed


def planted(text: str, edit: Edit) -> str:
    """Raises ValueError where ``edit`` does not fit the code any more."""
    if text.count(edit.old) != 1:
        raise ValueError(
            f"{edit.path} has {text.count(edit.old)} times {edit.old!r}: mend the edit"
        )
    return text.replace(edit.old, edit.new)


def tested(fault: Fault, copy: Path) -> tuple[int, list[str]]:
    """The status of pytest and the tests that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *fault.tests]
    own = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(
        command, cwd=copy, env=own, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    return done.returncode, re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
