"""`bitsift keys`: the keys that `bitsift serve --keys FILE` asks for."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from bitsift.cluster.cli.console import Json, err, out, print_json
from bitsift.errors import InvalidRequest, NotFound
from bitsift.router.http.keys import Key, Scope

LIFETIME_DAYS_MAX = 3_650
_HOURS = {"h": 1, "d": 24, "w": 168}

app = typer.Typer(
    help="Create, list and revoke the API keys of a server: bitsift serve --keys FILE.",
    no_args_is_help=True,
)
Keys = Annotated[Path, typer.Option("--keys", metavar="FILE", help="The key file.")]


@app.command()
def new(
    keys: Keys,
    scope: Annotated[
        Scope, typer.Option(help="What the key allows. write includes read, admin includes both.")
    ],
    name: Annotated[str, typer.Option(help="Name of its holder, shown by list.")] = "",
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Lifetime: 12h, 90d, 4w. Default: unlimited.")
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An index, or an alias, that it is for; repeatable. Default: all of the server.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Create a key, add it to FILE (created if missing), and print it once."""
    from bitsift.cluster.serving.key_store import editing
    from bitsift.router.http.keys import new_key

    until = None if expires is None else datetime.now(UTC) + parse_lifetime(expires)
    key, text = new_key(name, scope, until and until.replace(microsecond=0), index or ())
    with editing(keys) as kept:
        kept.append(key)
    if json:
        print_json({"key": text, **_facts(key)})
        return
    err.print(
        f"Key {key.id} of scope {key.scope} is in {keys}. It is shown once; only its hash is kept.",
        soft_wrap=True,
    )
    out.print(text, soft_wrap=True)


@app.command("list")
def list_keys(keys: Keys, json: Json = False) -> None:
    """List the keys in FILE: ids, names, scopes and times. FILE does not contain the keys
    themselves.
    """
    from bitsift.router.http.keys import read_keys

    found = [_facts(key) for key in read_keys(keys)]
    if json:
        print_json({"keys": found})
        return
    table = Table("id", "scope", "indexes", "name", "created", "expires")
    for fact in found:
        until = fact["expires"] or "never"
        table.add_row(
            fact["id"], fact["scope"], ", ".join(fact["indexes"]) or "all", fact["name"],
            fact["created"],
            f"{until} (expired)" if fact["expired"] else until,
        )  # fmt: skip
    out.print(table, markup=False)


@app.command()
def revoke(
    keys: Keys,
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids, as shown by list.")],
    json: Json = False,
) -> None:
    """Remove keys from FILE. Running servers refuse them within seconds."""
    from bitsift.cluster.serving.key_store import editing

    with editing(keys) as kept:
        unknown = sorted(set(ids) - {key.id for key in kept})
        if unknown:
            raise NotFound(f"{keys} has no key {', '.join(unknown)}; nothing was revoked")
        kept[:] = [key for key in kept if key.id not in ids]
    if json:
        print_json({"revoked": sorted(set(ids))})
    else:
        out.print(f"revoked: {', '.join(sorted(set(ids)))}")


def parse_lifetime(text: str) -> timedelta:
    """A time from now: ``12h``, ``90d``, ``4w``. Raises InvalidRequest."""
    found = re.fullmatch(r"(\d{1,6})([hdw])", text.strip().lower())
    lifetime = timedelta(hours=int(found[1]) * _HOURS[found[2]]) if found else timedelta()
    if not timedelta() < lifetime <= timedelta(days=LIFETIME_DAYS_MAX):
        raise InvalidRequest(
            f"--expires {text!r}: write hours, days or weeks, such as 12h, 90d or 4w, "
            f"of at most {LIFETIME_DAYS_MAX:,} days"
        )
    return lifetime


def _facts(key: Key) -> dict[str, Any]:
    facts = dataclasses.asdict(key) | {"expired": key.is_expired(datetime.now(UTC))}
    del facts["sha256"]
    for moment in ("created", "expires"):
        facts[moment] = facts[moment] and facts[moment].isoformat()
    return facts
