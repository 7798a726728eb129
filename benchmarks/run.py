"""`make bench`: every benchmark that needs no running gateway and no data but what is shipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    for script, *arguments in (
        ("shard.py",),
        ("encoding.py",),
        ("quality.py", str(HERE.parent / "tests" / "data" / "xquad_en")),
    ):
        subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)


if __name__ == "__main__":
    main()
