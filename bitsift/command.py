"""The command `bitsift`, also where only the client is installed."""

from __future__ import annotations

import sys

from bitsift import SERVER_MISSING


def main() -> None:
    """Run the command line; exit status 2 with one line where the server is not installed."""
    try:
        from bitsift.cluster.cli.main import main as command
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("bitsift"):
            raise
        print(f"bitsift: {SERVER_MISSING} (no module {error.name})", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    command()
