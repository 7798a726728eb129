"""The command that changes metadata in a running cluster."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape

from bitsift.client.sending import summed
from bitsift.cluster.cli.console import Json, as_utf8, err, out, print_json
from bitsift.cluster.cli.settings import configured, required_gateway
from bitsift.cluster.interrupts import terminable
from bitsift.config.sources import Loaded
from bitsift.errors import InvalidRequest
from bitsift.write_results import UPDATE_STATUSES, Updates


@configured("client")
def update(
    metadata: Annotated[
        str, typer.Argument(metavar="JSON", help="What to change; null takes a field away.")
    ],
    loaded: Loaded,
    id: Annotated[str | None, typer.Option(parser=as_utf8, help="Change this document.")] = None,
    if_version: Annotated[
        str | None, typer.Option(help="Only if the document is still in this version.")
    ] = None,
    filter: Annotated[
        str | None, typer.Option(help="Change what passes: `lang = de and year >= 2020`, or JSON.")
    ] = None,
    json: Json = False,
) -> None:
    """Change the metadata of documents of a running cluster; nothing is encoded again."""
    from bitsift.client import Client

    patch = _patch(metadata)
    url = required_gateway(loaded)
    if (id is None) == (filter is None):
        raise InvalidRequest("pass an --id or a --filter, and not both")
    if filter is not None:
        if if_version is not None:
            raise InvalidRequest("--if-version is of one document: pass its --id")
        _update_matching(url, filter, patch, json)
        return
    assert id is not None
    with Client(url) as client:
        done = client.patch(id, patch, if_version=if_version)
    if json:
        print_json(done)
    else:
        out.print(f"{done.status}, version {done.version}")


def _patch(text: str) -> dict[str, Any]:
    """The JSON object ``text``. Raises InvalidRequest."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the metadata are no JSON: {error.msg}") from error
    if not isinstance(found, dict):
        raise InvalidRequest('the metadata are no JSON object: {"old": true}')
    return found


def _update_matching(url: str, filter: str, patch: dict[str, Any], json: bool) -> None:
    from bitsift.client import Client

    parts = list[Updates]()
    try:
        with terminable(), Client(url) as client:
            for part in client.update_matching_batches(filter, patch):
                parts.append(part)
    finally:  # what was changed is said, whatever ends it
        answer = summed(Updates, parts)
        _show(answer, json)
    if answer.failed or answer.rejected:
        raise typer.Exit(1)


def _show(answer: Updates, json: bool) -> None:
    if json:
        print_json(answer)
        return
    counts = {status: getattr(answer, status) for status in UPDATE_STATUSES}
    said = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    out.print(said or "0 updated")
    for result in answer.results:
        if result.error is not None:
            reason = escape(f"{result.id}: {result.status}: {result.error.detail}")
            err.print(f"[yellow]{reason}[/yellow]", soft_wrap=True)
