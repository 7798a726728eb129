"""docs/configuration.md and a commented bitsift.toml, made from the tree.

`python -m bitsift.config.docs > docs/configuration.md`; a test compares the two.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from bitsift.config.fields import SETTINGS, Setting, shown
from bitsift.config.file import FILE_NAME
from bitsift.config.sources import VARIABLES
from bitsift.config.toml_file import FILE_BYTES_MAX
from bitsift.config.tree import Settings


def _not_for_any_file() -> str:
    return "`, `".join(setting.key for setting in SETTINGS if setting.needs_a_name)


_ABOUT = f"""\
# Configuration

<!-- Made by `python -m bitsift.config.docs` from bitsift/config/tree.py; do not edit. -->

Every setting has a default and can be set in three places. Each overrides the one before:

1. **{FILE_NAME}**: the file named by `--config FILE`, else by the variable `BITSIFT_CONFIG`, else
   the one in the folder where the command runs, if there is one.
2. **A variable**, `BITSIFT_SECTION_NAME`. An empty one counts as not set. Commas separate a list.
3. **A flag** of a command that uses the setting. `--no-insecure` overrides a file that says
   true. A list replaces the earlier list as a whole.

To see what is in force, or to get a file to start from:

    bitsift config                            # each setting, its value, and where it came from
    bitsift config --json
    bitsift config --example > {FILE_NAME}   # all settings, commented out

* **Mistakes** stop a command before it starts anything. One error lists all of them, from every
  source, each with its place (file and line, variable or flag) and what is allowed. Unknown
  sections, settings and `BITSIFT_…` variables are mistakes too; the error shows the nearest name.
  Variables that Kubernetes sets for a service called `bitsift` (`BITSIFT_SERVICE_HOST`,
  `BITSIFT_PORT=tcp://…`) are ignored.
* **Files and folders** in {FILE_NAME} are relative to its own folder; those in variables
  and flags to the folder where the command runs. `~/` is the user's home.
* **A {FILE_NAME} that nobody named** is read too. Therefore it must belong to the user or to
  root, and nobody else may be able to change it; and it may not contain `{_not_for_any_file()}`,
  which decide where keys and documents are sent and whose code is run: name the file, or set the
  variable. A settings file may have at most {FILE_BYTES_MAX >> 10} KiB.
* **Sizes** are written `500G`, `1.5T` or `1048576`; K, M, G and T are powers of 1,024.
* **Secrets are not settings.** Keys and certificates are files that a setting names; the key that a
  client sends comes from `BITSIFT_API_KEY`.
* **Facts of an index are not settings**: its model, dimension, shards, transform and
  calibration are fixed by `bitsift index` or `bitsift create` and stored in its manifest:
  `bitsift status --index INDEX`.
  What a query may choose (`top_k`, `mode`, …) is part of the query.
* **From Python**, everything is an argument; no file is read, and no variable except
  `BITSIFT_API_KEY`.
"""


def markdown() -> str:
    """docs/configuration.md."""
    parts = [_ABOUT]
    for section, table in Settings.model_fields.items():
        about = _about(table)
        rows = [_row(setting) for setting in SETTINGS if setting.section == section]
        head = ("setting", "what it does", "default", "allowed", "variable", "flag")
        parts.append(f"## [{section}]\n\n{about}\n\n{_table(head, rows)}")
    rows = [(f"`{name}`", about) for name, about in VARIABLES.items()]
    parts.append(f"## Other variables\n\n{_table(('variable', 'what it is'), rows)}")
    return "\n".join(parts)


def _about(table: FieldInfo) -> str:
    return (inspect.getdoc(table.annotation) or "").replace("\n", " ")


def _row(setting: Setting) -> Sequence[str]:
    default = setting.default
    said = "not set" if default is None else "none" if default == () else shown(setting, default)
    flag = (
        f"`{setting.flag}`, `--no-{setting.flag[2:]}`" if setting.is_switch else f"`{setting.flag}`"
    )
    return (
        f"`{setting.name}`", setting.help, said, setting.allowed, f"`{setting.variable}`", flag,
    )  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def example() -> str:
    """A bitsift.toml in which every setting is commented out, with its default or an example."""
    return "\n".join(_example())


def _example() -> Iterator[str]:
    yield "# Settings of Bitsift, see docs/configuration.md. Uncomment those that you change."
    for section, table in Settings.model_fields.items():
        yield f"\n[{section}]  # {_about(table)}"
        for setting in SETTINGS:
            if setting.section == section:
                yield f"\n# {setting.help} ({setting.allowed})"
                yield f"#{setting.name} = {_toml(setting, _shown_value(setting))}"
    yield ""


def _shown_value(setting: Setting) -> Any:
    """Its default; where it has none, the example of its field."""
    examples = setting.field.examples
    return setting.default if examples is None else examples[0]


def _toml(setting: Setting, value: Any) -> str:
    return json.dumps(shown(setting, value) if setting.is_size else value)


if __name__ == "__main__":
    sys.stdout.write(markdown())
