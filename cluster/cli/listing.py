"""The commands `bitsift count` and `bitsift list`: their options are those of the routes."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from bitsift.cluster.cli.console import Json, one_line, out, print_facets, print_json
from bitsift.cluster.cli.options import with_options
from bitsift.cluster.cli.settings import configured, required_gateway
from bitsift.config.sources import Loaded
from bitsift.listing import Counted, CountOptions, ListOptions, Page


@configured("client")
@with_options(CountOptions, "timeout_ms")  # the client's own
def count(loaded: Loaded, json: Json = False, **options: Any) -> None:
    """Count the documents of a running cluster, or those that pass a filter."""
    from bitsift.client import Client

    fields, limit = options.pop("facets"), options.pop("facet_limit")
    with Client(required_gateway(loaded)) as client:
        counted = client.count(**options)
        facets = client.facets(fields, limit=limit, **options) if fields else None
    if json:
        print_json(Counted(counted, facets))
        return
    out.print(str(counted))
    print_facets(facets)


@configured("client")
@with_options(ListOptions, "timeout_ms")
def list_documents(
    loaded: Loaded,
    all: Annotated[
        bool, typer.Option("--all", help="Every page from here on; with --json an object each.")
    ] = False,
    json: Json = False,
    **options: Any,
) -> None:
    """List documents of a running cluster, or those that pass a filter, a page at a time.

    Without --sort their order means nothing. The cursor of a page, given with the same filter and
    sort, leads to the next.
    """
    from bitsift.client import Client

    with Client(required_gateway(loaded)) as client:
        page = client.page(**options)
        _show(page, json=json)
        while all and page.cursor is not None:
            page = client.page(**{**options, "cursor": page.cursor})
            _show(page, json=json)
    if not json:
        out.print(f"{page.count:,} in all")
        if page.cursor is not None:
            out.print(f"more: --cursor {page.cursor}", soft_wrap=True)


def _show(page: Page, *, json: bool) -> None:
    if json:
        print_json(page)
        return
    for document in page.documents:
        title = f"[bold]{escape(one_line(document.title))}[/bold]  " if document.title else ""
        said = f"{escape(document.id)}  {title}{escape(one_line(document.text))}"
        out.print(said.rstrip(), soft_wrap=True)
