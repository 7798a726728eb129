"""The metrics that docs/monitoring.md lists, which tests/router/http/test_metrics.py compares with
the code.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "monitoring.md"


def listed() -> dict[str, tuple[str, set[str]]]:
    """The type and the labels of each, by its name."""
    found: dict[str, tuple[str, set[str]]] = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `bitsift_"):
            names, kind, labels, _ = (cell.strip() for cell in line.strip("|").split(" | "))
            known = set() if labels == "–" else set(labels.split(", "))
            found |= dict.fromkeys(re.findall(r"`(\w+)`", names), (kind, known))
    return found


def series() -> dict[str, set[str]]:
    """The labels of each series that can be asked for: those of histograms have names of their own,
    those of the process are the client library's.
    """
    found = {"process_resident_memory_bytes": set[str](), "process_cpu_seconds_total": set[str]()}
    for name, (kind, labels) in listed().items():
        if kind == "histogram":
            found[f"{name}_bucket"] = {*labels, "le"}
            found |= {f"{name}_{part}": labels for part in ("count", "sum")}
        else:
            found[name] = labels
    return found
