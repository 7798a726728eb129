"""`bitsift indexes`: those of a running server, listed, created, deleted, and their aliases."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bitsift.cluster.cli.console import Json, out, print_json
from bitsift.cluster.cli.settings import configured, required_gateway
from bitsift.config.sources import Loaded
from bitsift.errors import InvalidRequest

app = typer.Typer(
    help="List, create and delete the indexes of a running server, and set their aliases.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the index.")]


@app.command("list")
@configured("client")
def list_indexes(loaded: Loaded, json: Json = False) -> None:
    """List the indexes of a server: states, documents, aliases."""
    from bitsift.client import Client

    with Client(required_gateway(loaded)) as client:
        found = client.indexes()
    if json:
        print_json({"indexes": found})
        return
    table = Table("name", "state", "documents", "model", "aliases", "reason")
    for one in found:
        documents = "" if one["documents"] is None else f"{one['documents']:,}"
        name = f"{one['name']} (default)" if one["default"] else one["name"]
        cells = name, one["state"], documents, one["model"] or "", ", ".join(one["aliases"])
        table.add_row(*map(escape, cells), escape(one["reason"] or ""))
    out.print(table)


@app.command()
@configured("client")
def create(
    name: Name,
    loaded: Loaded,
    model: Annotated[
        str | None, typer.Option(help="Name of a sentence-transformers model.")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(help="In place of a model: of the vectors that you will add.")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Number of shards. Default: one per core.")
    ] = None,
    json: Json = False,
) -> None:
    """Make an empty index on a server that has --indexes-root."""
    from bitsift.client import Client

    with Client(required_gateway(loaded)) as client:
        made = client.create_index(name, model=model, dimensions=dimensions, shards=shards)
    _say(made, f"{name} is an empty index of {made['dimension']} dimensions", json)


@app.command()
@configured("client")
def delete(
    name: Name,
    loaded: Loaded,
    with_aliases: Annotated[
        bool, typer.Option("--with-aliases", help="Its aliases, too; else it must have none.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete an index of a server, with its files."""
    from bitsift.client import Client

    with Client(required_gateway(loaded)) as client:
        gone = client.delete_index(name, with_aliases=with_aliases)
    _say(gone, f"{name} is deleted", json)


@app.command()
@configured("client")
def alias(
    loaded: Loaded,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="Another name of an index.")],
    index: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The index that it is to mean.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Let it be no alias any more.")] = False,
    json: Json = False,
) -> None:
    """Let an alias mean an index from now on; --drop ends it."""
    from bitsift.client import Client

    if (index is None) != drop:
        raise InvalidRequest("name the index that the alias is to mean, or --drop: one of the two")
    with Client(required_gateway(loaded)) as client:
        set_to = client.delete_alias(alias) if index is None else client.set_alias(alias, index)
    said = f"{alias} is no alias any more" if index is None else f"{alias} means {index}"
    _say(set_to, said, json)


def _say(facts: dict[str, Any], said: str, json: bool) -> None:
    if json:
        print_json(facts)
    else:
        out.print(said, markup=False, soft_wrap=True)
