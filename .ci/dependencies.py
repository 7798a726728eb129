"""What an extra of Bitsift needs, one requirement a line: `python3 .ci/dependencies.py shard < pyproject.toml`.

The Dockerfile installs it before the code, so that a change of the code installs none of it again.
"""

import re
import sys
import tomllib


def needed(project: dict, extra: str) -> list[str]:
    """The dependencies of ``extra``, and of the extras that it takes in."""
    found = list(project["dependencies"])
    for one in project["optional-dependencies"][extra]:
        other = re.fullmatch(rf"{project['name']}\[(\w+)\]", one)
        found += needed(project, other[1]) if other else [one]
    return found


if __name__ == "__main__":
    print("\n".join(dict.fromkeys(needed(tomllib.loads(sys.stdin.read())["project"], sys.argv[1]))))
