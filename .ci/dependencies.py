"""What an extra of Bitsift needs, a requirement a line. The Dockerfile installs it before the code.

python3 .ci/dependencies.py shard < pyproject.toml
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
    found = needed(tomllib.loads(sys.stdin.read())["project"], sys.argv[1])
    sys.stdout.write("\n".join(dict.fromkeys(found)) + "\n")
