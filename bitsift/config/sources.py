"""Where settings come from: bitsift.toml, then `BITSIFT_*` variables, then flags; before all of
them Ray's own variable for the address of a cluster, as every program of Ray takes it.

Each overrides the one before, a list as a whole. All of them are read and checked before any is
used: one error names every mistake of every source, also one that another source overrides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bitsift.config.fields import BY_KEY, BY_VARIABLE, PREFIX, SETTINGS
from bitsift.config.file import FILE_NAME, FILE_VARIABLE, find_file, read_file
from bitsift.config.tree import Settings
from bitsift.errors import InvalidRequest
from bitsift.nearest import no_such_key, no_such_name

KEY_VARIABLE = "BITSIFT_API_KEY"
RAY_VARIABLE = "RAY_ADDRESS"
VARIABLES = {
    FILE_VARIABLE: f"The settings file, unless `--config` names one. Default: "
    f"./{FILE_NAME}, if it exists.",
    KEY_VARIABLE: "The key that `bitsift … --url` and the Python client send. A secret: it is in "
    "no file, no flag and no output.",
    RAY_VARIABLE: "Ray's own: `ray.address` where nothing else says it; `local` says nothing.",
}
"""Variables that are no settings, and what they are for."""
DEFAULT = "default"
VALUE_CHARACTERS_MAX = 80
"""Of a wrong value that an error shows."""
_LINK = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_LINKED_PORT = re.compile(r"(tcp|udp|sctp)://.*")
_IN_MANIFEST = "is fixed when `bitsift index` builds an index, and is stored in its manifest"
_NO_SETTINGS = {
    **dict.fromkeys(("model", "dimension", "dim", "shards", "transform"), _IN_MANIFEST),
    "write_acks": "is for replicas, and belongs in the spec of `bitsift cluster up`",
    "api_key": f"is a secret and does not belong in a file: set the variable {KEY_VARIABLE}",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, the file that was read, and where each came from, by its key."""

    settings: Settings
    file: Path | None
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Source:
    """What one source says: a value by section and name, and how to name a place in it."""

    values: Mapping[str, Any]
    place: Callable[[str], str]


def load_settings(flags: Mapping[str, Any], file: Path | None = None) -> Loaded:
    """Read all sources. ``flags`` are the texts of the command line by key; ``file`` is --config.

    Raises NotFound, Unavailable, or InvalidRequest with every mistake in it.
    """
    path, is_named = find_file(file)
    sources, mistakes = [_of_ray(), _variables(), _flags(flags)], [*_unknown_variables()]
    if path is not None:
        sources.insert(1, _Source(*read_file(path)))
        mistakes += () if is_named else _not_for_any_file(sources[1])
    for source in sources:
        mistakes += _mistakes(source)
    if mistakes:
        raise InvalidRequest(_listed(mistakes))
    values: dict[str, dict[str, Any]] = {}
    origins = {setting.key: DEFAULT for setting in SETTINGS}
    for source in sources:
        for section, table in source.values.items():
            values.setdefault(section, {}).update(table)
            origins |= {f"{section}.{name}": source.place(f"{section}.{name}") for name in table}
    return Loaded(Settings.model_validate(values), path, origins)


def is_key_set() -> bool:
    """Whether the environment has a key for gateways. The key itself is not for showing."""
    return bool(os.environ.get(KEY_VARIABLE))


def _listed(mistakes: Sequence[str]) -> str:
    if len(mistakes) == 1:
        return mistakes[0]
    return "\n  ".join((f"{len(mistakes)} mistakes in the settings:", *mistakes))


def _mistakes(source: _Source) -> Iterator[str]:
    try:
        Settings.model_validate(source.values)
    except ValidationError as error:
        told = set()
        for found in error.errors(include_url=False, include_context=False):
            key = ".".join(map(str, found["loc"][:2]))
            if key not in told:
                told.add(key)
                yield _mistake(key, source.place(key), found["input"])


def _not_for_any_file(file: _Source) -> Iterator[str]:
    for setting in SETTINGS:
        table = file.values.get(setting.section)
        if setting.needs_a_name and isinstance(table, Mapping) and setting.name in table:
            yield (
                f"{setting.key} ({file.place(setting.key)}): only a file that was named "
                "explicitly may set it: "
                f"give --config, or set {FILE_VARIABLE} or {setting.variable}"
            )


def _mistake(key: str, place: str, value: Any) -> str:
    if key in BY_KEY:
        return f"{key} ({place}): {_short(value)} is not {BY_KEY[key].allowed}"
    if key in Settings.model_fields:
        return f"{key} ({place}): {_short(value)} is not a table; write [{key}]"
    return f"{key} ({place}): {_unknown(key)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}…"


def _unknown(key: str) -> str:
    """Why there is no such setting, or which one is meant."""
    name = key.rpartition(".")[2]
    if name in _NO_SETTINGS and key not in Settings.model_fields:
        return f"this is not a setting: it {_NO_SETTINGS[name]}"
    known = (*BY_KEY, *Settings.model_fields)
    return no_such_key("setting", key, known, "`bitsift config` lists them all")


def _unknown_variables() -> Iterator[str]:
    known = (*BY_VARIABLE, *VARIABLES)
    for name, value in sorted(os.environ.items()):
        if not name.upper().startswith(PREFIX) or name in known or _is_link(name, value):
            continue
        otherwise = "docs/configuration.md lists them all"
        yield f"{name}: {no_such_name('variable', name.upper(), known, otherwise)}"


def _is_link(name: str, value: str) -> bool:
    """Whether Kubernetes or Docker set it, as they do in containers near a service "bitsift"."""
    if name.endswith("_PORT") and _LINKED_PORT.fullmatch(value):
        return True
    return name not in BY_VARIABLE and _LINK.fullmatch(name.removeprefix(PREFIX)) is not None


def _variables() -> _Source:
    """Those that are set and not empty; a port that Kubernetes set is no port of ours."""
    found = {
        setting.key: value
        for name, setting in BY_VARIABLE.items()
        if (value := os.environ.get(name)) and not _is_link(name, value)
    }
    return _Source(_nested(found), lambda key: BY_KEY[key].variable)


def _of_ray() -> _Source:
    address = os.environ.get(RAY_VARIABLE, "")
    found = {"ray.address": address} if address not in ("", "local") else {}
    return _Source(_nested(found), lambda _: RAY_VARIABLE)


def _flags(flags: Mapping[str, Any]) -> _Source:
    return _Source(_nested(flags), lambda key: BY_KEY[key].flag)


def _nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        tables.setdefault(section, {})[name] = value
    return tables
