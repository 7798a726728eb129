"""The machine that a result was measured on, and where results are written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
_PACKAGES = ("faiss-cpu", "lmdb", "numpy", "openvino", "ray", "sentence-transformers", "torch")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, versions and the commit."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next(x.split(":")[1].strip() for x in cpuinfo.splitlines() if "model name" in x)
    flags = next(x for x in cpuinfo.splitlines() if x.startswith("flags")).split()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "avx512": [flag for flag in ("avx512_vpopcntdq", "avx512_bf16") if flag in flags],
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": commit.stdout.strip(),
        "load_average": os.getloadavg()[0],
    }


def write(name: str, result: dict[str, Any]) -> None:
    """Commit these: a figure without its machine says nothing."""
    RESULTS.mkdir(exist_ok=True)
    measured = datetime.now(UTC).isoformat(timespec="seconds")
    whole = {"benchmark": name, "measured": measured, "machine": describe(), **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=2) + "\n")
    print(json.dumps(result, indent=2))
