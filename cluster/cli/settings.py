"""Settings on the command line: the flags of a command, and `bitsift config`."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bitsift.cluster.cli.console import Json, err, out, print_json
from bitsift.config.docs import example
from bitsift.config.fields import BY_VARIABLE, SETTINGS, Setting, shown
from bitsift.config.file import FILE_NAME
from bitsift.config.sources import (
    DEFAULT,
    KEY_VARIABLE,
    RAY_VARIABLE,
    Loaded,
    is_key_set,
    load_settings,
)
from bitsift.config.tree import Settings
from bitsift.errors import InvalidRequest

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=f"A settings file. Default: $BITSIFT_CONFIG, else ./{FILE_NAME} if it exists.",
        rich_help_panel="Settings",
    ),
]


def configured(*wanted: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of some settings, ``serve`` or ``ray.address``, and --config.

    The command takes them as its argument ``loaded``: all sources, these flags among them.
    """
    settings = [s for s in SETTINGS if s.section in wanted or s.key in wanted]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(*, config: Path | None, **arguments: Any) -> None:
            flags = {s.key: arguments.pop(_parameter(s)) for s in settings}
            given = {key: value for key, value in flags.items() if value is not None}
            command(**arguments, loaded=load_settings(given, config))

        own = inspect.signature(command, eval_str=True)
        parameters = [p for p in own.parameters.values() if p.name != "loaded"]
        parameters += [_option(setting) for setting in settings]
        parameters.append(_keyword("config", Config))
        run.__signature__ = own.replace(parameters=_ordered(parameters))  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _ordered(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """All by keyword, so that --json may come last."""
    by_keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    return sorted(by_keyword, key=lambda parameter: parameter.name == "json")


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=annotation)


def _parameter(setting: Setting) -> str:
    return setting.key.replace(".", "_")


def _option(setting: Setting) -> inspect.Parameter:
    """Its flag. What is given is checked with the other sources: so it is taken as it stands."""
    kind: Any = bool if setting.is_switch else list[str] if setting.is_list else str
    name = setting.flag if kind is not bool else f"{setting.flag}/--no-{setting.flag[2:]}"
    option = typer.Option(
        name,
        metavar=None if kind is bool else _metavar(setting),
        help=f"{setting.help} {_limits(setting)}".strip(),
        show_default=False,
        rich_help_panel=f"Settings: {setting.section}",
    )
    return _keyword(_parameter(setting), Annotated[kind | None, option])


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return "|".join(setting.choices)
    if setting.range is not None:
        return "SIZE" if setting.is_size else "NUMBER"
    return "FILE" if setting.type is Path else "PLACE" if setting.is_path else "TEXT"


def _limits(setting: Setting) -> str:
    default = "" if setting.default in (None, (), False) else shown(setting, setting.default)
    ends = "–".join(shown(setting, end) for end in setting.range or ())
    facts = [ends, f"default {default}" if default else "", "repeatable" * setting.is_list]
    said = "; ".join(filter(None, facts))
    return f"({said})" if said else ""


def gateway(loaded: Loaded, local: object, what: str) -> str | None:
    """The gateway to ask; None where ``local`` is given, which names an index on this machine.

    ``what`` names that argument. Raises InvalidRequest where neither is given, or both.
    """
    is_flag = loaded.origins["client.url"] == "--url"
    if local is not None:
        if is_flag:
            raise InvalidRequest(f"pass {what} or --url, not both")
        return None
    url = loaded.settings.client.url
    if url is None:
        raise InvalidRequest(f"pass {what} or --url URL, or set BITSIFT_CLIENT_URL")
    return url


def required_gateway(loaded: Loaded) -> str:
    """The gateway to ask. Raises InvalidRequest where none is given."""
    url = loaded.settings.client.url
    if url is None:
        raise InvalidRequest("pass --url URL, or set BITSIFT_CLIENT_URL, to name the gateway")
    return url


def required_ray_address(loaded: Loaded) -> str:
    """The Ray cluster of a command that has none of its own. Raises InvalidRequest."""
    address = loaded.settings.ray.address
    if address is None:
        raise InvalidRequest(
            "say which Ray cluster: --ray-address HOST:PORT, BITSIFT_RAY_ADDRESS or RAY_ADDRESS; "
            "docs/cluster.md says how to start one"
        )
    return address


def say_sources(loaded: Loaded) -> None:
    """Lines for the log: which file was read, and which variables have a say."""
    if loaded.file is not None:
        err.print(f"settings file: {loaded.file}", soft_wrap=True, markup=False)
    known = (*BY_VARIABLE, RAY_VARIABLE)
    variables = [origin for origin in loaded.origins.values() if origin in known]
    if variables:
        err.print(f"settings from variables: {', '.join(variables)}", soft_wrap=True, markup=False)


@contextlib.contextmanager
def origins_named(loaded: Loaded, *sections: str) -> Iterator[None]:
    """An InvalidRequest about conflicting settings says where each of them came from.

    Those of the command line are there to be seen.
    """
    try:
        yield
    except InvalidRequest as error:
        places = [
            f"{setting.key} is from {loaded.origins[setting.key]}"
            for setting in SETTINGS
            if setting.section in sections
            and loaded.origins[setting.key] not in (DEFAULT, setting.flag)
        ]
        raise InvalidRequest("; ".join((error.message, *places))) from error


@configured(*Settings.model_fields)
def config(
    loaded: Loaded,
    example_file: Annotated[
        bool, typer.Option("--example", help=f"Print a {FILE_NAME} with all settings instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Show each setting, its value, and where that came from: default, file, variable or flag.

    A variable BITSIFT_SECTION_NAME overrides the file, and a flag overrides both. Model, dimension,
    shards and transform are fixed when an index is built: bitsift status --index shows them.
    """
    if example_file:
        out.print(example(), markup=False, soft_wrap=True, end="")
    elif json:
        print_json(_facts(loaded))
    else:
        _print_settings(loaded)


def _facts(loaded: Loaded) -> dict[str, Any]:
    settings = {
        setting.key: {
            "value": _json_value(setting, setting.of(loaded.settings)),
            "from": loaded.origins[setting.key],
        }
        for setting in SETTINGS
    }
    file = None if loaded.file is None else str(loaded.file)
    return {"file": file, "api_key": "set" if is_key_set() else "not set", "settings": settings}


def _json_value(setting: Setting, value: Any) -> Any:
    return shown(setting, value) if isinstance(value, (str, Path)) else value


def _print_settings(loaded: Loaded) -> None:
    out.print(f"settings file: {loaded.file or 'none'}", markup=False, soft_wrap=True)
    table = Table("setting", "value", "from")
    for setting in SETTINGS:
        value, origin = setting.of(loaded.settings), loaded.origins[setting.key]
        style = "dim" if origin == DEFAULT else ""
        table.add_row(setting.key, escape(_said(setting, value)), escape(origin), style=style)
    table.add_row(KEY_VARIABLE, "set" if is_key_set() else "not set", "variable", style="dim")
    out.print(table)


def _said(setting: Setting, value: Any) -> str:
    if value is None:
        return "not set"
    if setting.is_list:
        return ", ".join(shown(setting, one) for one in value) or "none"
    return shown(setting, value)
