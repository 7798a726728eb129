"""What is fuzzed: a gateway in a child process, or a server that runs already."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Target(Protocol):
    url: str

    def state(self) -> dict[str, Any]:
        """What it holds: files, threads, anonymous RAM; tasks, connections and admissions."""
        ...


@dataclass
class Served:
    """``bitsift serve`` at ``url``; ``pid`` is that of its router."""

    url: str
    pid: int

    def state(self) -> dict[str, Any]:
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in status)
        return {
            "anonymous_bytes": int(fields["RssAnon"].split()[0]) << 10,
            "files": len(os.listdir(f"/proc/{self.pid}/fd")),
            "threads": int(fields["Threads"]),
        }
