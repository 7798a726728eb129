"""The machine that a result was measured on, and the JSON file that a result is kept in."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bitsift.errors import InvalidRequest
from bitsift.shard_worker.layout import replace_file
from bitsift.shard_worker.native import kernels

_PACKAGES = ("faiss-cpu", "lmdb", "numpy", "openvino", "ray", "sentence-transformers", "torch")
_FLAGS = ("avx2", "avx512f", "avx512_vpopcntdq", "avx512_bf16", "amx_bf16")
_SOURCE = Path(__file__).parent


def describe_machine() -> dict[str, Any]:
    """Processor, usable cores, memory in GiB, versions and commit; Linux's /proc is read."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = set(_cpuinfo(cpuinfo, "flags").split())
    return {
        "processor": _cpuinfo(cpuinfo, "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kernels": kernels.name(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": _commit(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpuinfo(text: str, name: str) -> str:
    """The first value of a field of /proc/cpuinfo, or "" where the processor has none (ARM)."""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def _commit() -> str:
    """The commit that this program was run from, or "" where it is no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_SOURCE), "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def write_result(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Write ``result`` with the time and the machine, and return the whole.

    A figure without its machine says nothing.

    Written aside and renamed, so that a run that is cut off leaves a whole file. An earlier result
    is replaced; raises InvalidRequest where ``path`` is something else.
    """
    require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = datetime.now(UTC).isoformat(timespec="seconds")
    whole = {"benchmark": path.stem, "measured": measured, "machine": describe_machine(), **result}
    replace_file(path, json.dumps(whole, indent=2).encode() + b"\n")
    return whole


def require_replaceable(path: Path) -> None:
    """Raises InvalidRequest if ``path``, or a plot next to it, is not an earlier result."""
    if not os.path.lexists(path):
        found = [plot for plot in [path.with_suffix(".svg")] if os.path.lexists(plot)]
    else:
        found = [] if _is_result(path) else [path]
    if found:
        raise InvalidRequest(
            f"{found[0]} was not written by an earlier run and is left untouched; "
            "choose another --out"
        )


def _is_result(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(found, dict) and {"benchmark", "measured", "machine"} <= found.keys()
