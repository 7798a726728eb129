"""`bitsift model`: models before they are needed, on machines that will not ask the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bitsift.cluster.cli.console import Json, out, print_json
from bitsift.router.model.spec import EncoderSpec

app = typer.Typer(
    help="Bring a model to this machine, where later commands load it without the hub.",
    no_args_is_help=True,
)


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name of the Hugging Face hub, NAME@COMMIT for a state that never changes; or a "
            "folder, or minilm, which are tried only.",
        ),
    ],
    json: Json = False,
) -> None:
    """Download a sentence-transformers model into the hub's cache, and encode a text with it.

    HF_HUB_CACHE names the cache's folder. Later, HF_HUB_OFFLINE=1 keeps commands from asking the
    hub for a newer state, which an index refuses.
    """
    from bitsift.router.model.location import model_location, snapshot_of

    encoder = EncoderSpec(name).load()
    encoder.warm_up()
    location, spec = model_location(name), encoder.spec
    snapshot = None if Path(location).is_dir() else snapshot_of(location)
    folder = Path(snapshot or location)
    facts: dict[str, Any] = {
        "model": name,
        "commit": folder.name if snapshot else None,
        "revision": spec.revision,
        "dimension": spec.dimension,
        "max_tokens": spec.max_tokens,
        "query_prompt": spec.query_prompt,
        "document_prompt": spec.document_prompt,
        "backend": encoder.backend,
        "folder": str(folder),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }
    if json:
        print_json(facts)
        return
    reads = f"reads {spec.max_tokens:,} tokens" if spec.max_tokens else "names no limit of tokens"
    state = f"commit {facts['commit']}" if snapshot else f"revision {spec.revision}"
    for line in (
        f"{name}: {spec.dimension} dimensions, {reads}, runs by {encoder.backend}",
        f"{state}, {facts['bytes'] / 1e6:,.1f} MB in {folder}",
        encoder.prompts_said,
    ):
        if line:
            out.print(line, markup=False, soft_wrap=True)
