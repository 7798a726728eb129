"""The commands that answer over HTTP until they are stopped: `bitsift serve` and `bitsift demo`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitsift.cluster.cli.access import checked_access
from bitsift.cluster.cli.console import Json, err, out, print_json, say, until_stopped
from bitsift.cluster.cli.progress import IndexProgress
from bitsift.cluster.cli.settings import configured, origins_named, say_sources
from bitsift.cluster.serving.configured import shadow_settings, shard_settings
from bitsift.config.sources import Loaded
from bitsift.config.tree import Settings
from bitsift.errors import InvalidRequest

if TYPE_CHECKING:
    from bitsift.cluster.ingest.build import Build
    from bitsift.cluster.manifest import Manifest
    from bitsift.cluster.serving.launch import Serving


@configured("serve", "access", "shards", "model", "ray")
def serve(
    loaded: Loaded,
    indexes: Annotated[
        list[Path] | None, typer.Argument(metavar="INDEX…", help="Finished indexes.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--indexes-root",
            metavar="FOLDER",
            help="Serve every index in this folder; new ones are made there.",
        ),
    ] = None,
    default: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The index that answers where a request names none. Default: the first INDEX, or "
            "the only one.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Serve indexes over HTTP, with a search page at /. Ctrl-C stops everything it started.

    The first answers /v1/search; each answers /v1/indexes/NAME/search, by the name of its folder.
    If other machines can reach it, every caller needs a key: see bitsift keys.
    """
    say_sources(loaded)
    settings = loaded.settings
    with until_stopped() as ending:
        from bitsift.cluster.collection.collection import Collection
        from bitsift.cluster.collection.folders import index_folders
        from bitsift.cluster.manifest import open_manifest
        from bitsift.cluster.serving.claim import marked
        from bitsift.cluster.serving.launch import check_free
        from bitsift.cluster.serving.ray_cluster import ray_cluster
        from bitsift.cluster.serving.watch import keep_serving

        # An open door, a wrong folder, and one in use are refused before a cluster is started.
        with origins_named(loaded, "serve", "access"):
            access = checked_access(settings)
        name, folders = index_folders(indexes or (), root, default)
        index_folder = folders[name]
        manifest = open_manifest(index_folder)[0]
        _check_shards(loaded, manifest)

        @contextlib.contextmanager
        def start(again: str | None) -> Iterator[Serving]:
            others = None
            if root is not None or len(folders) > 1:
                told = shard_settings(settings.shards), settings.model.backend, say
                others = Collection(name, folders, root, processes, *told)
            options = {"access": access, "others": others}
            with (
                ray_cluster(settings.ray.address, say, healing=True),
                _serving(index_folder, settings, json, again, **options) as serving,
            ):
                yield serving

        with marked() as processes, processes.serving(index_folder) as left:
            _say_ended(left)
            check_free(index_folder, manifest)
            keep_serving(start, processes, ending, say)


def _check_shards(loaded: Loaded, manifest: Manifest) -> None:
    least = loaded.settings.serve.min_ready_shards
    if least is not None and least > manifest.shards:
        place = loaded.origins["serve.min_ready_shards"]
        raise InvalidRequest(
            f"serve.min_ready_shards ({place}): {least}, but the index has {manifest.shards} shards"
        )


@configured("serve", "access", "shards", "model")
def demo(
    loaded: Loaded,
    folder: Annotated[Path, typer.Option("--index", help="Folder for the demo index.")] = Path(
        ".bitsift/wordnet_en"
    ),
    json: Json = False,
) -> None:
    """Describe a thing, get the word: the page answers from what is loaded while loading goes on.

    An interrupted demo resumes when it is run again; once the index is loaded, a start takes
    seconds.
    """
    say_sources(loaded)
    settings = loaded.settings
    with until_stopped() as ending:
        from bitsift.cluster.demo import demo_build
        from bitsift.cluster.serving.claim import marked
        from bitsift.cluster.serving.ray_cluster import ray_cluster
        from bitsift.cluster.serving.watch import keep_serving

        with origins_named(loaded, "serve", "access"):
            access = checked_access(settings)
        build = demo_build(folder, settings.model.backend)

        @contextlib.contextmanager
        def start(again: str | None) -> Iterator[Serving]:
            loading = build.finished() is None
            with ray_cluster(None, say, healing=True), contextlib.ExitStack() as opened:
                with IndexProgress(err, quiet=json) as progress:
                    manifest = build.prepare(progress)
                _check_shards(loaded, manifest)
                _say_ended(opened.enter_context(processes.serving(folder)))
                options = {"loading": loading, "access": access}
                with _serving(folder, settings, json, again, **options) as serving:
                    if loading:
                        _load(build, manifest, serving, json)
                    yield serving

        with marked() as processes:
            keep_serving(start, processes, ending, say)


def _load(build: Build, manifest: Manifest, serving: Serving, json: bool) -> None:
    with IndexProgress(err, quiet=json) as progress:
        report = build.load(manifest, serving.shards, progress)
    serving.loaded()
    err.print(f"all {report.documents:,} words are loaded")


def _say_ended(pids: Sequence[int]) -> None:
    if pids:
        listed = ", ".join(map(str, pids))
        say(f"ended what a killed server of this index had left: processes {listed}")


@contextlib.contextmanager
def _serving(
    folder: Path, settings: Settings, json: bool, again: str | None, **options: Any
) -> Iterator[Serving]:
    """A cluster that answers, and has said where; stopped at the end of the block.

    ``again`` is the address where it did before, and is to do again.
    """
    from bitsift.cluster.serving.launch import serve as launch
    from bitsift.cluster.serving.ray_cluster import logs_folder

    serving = launch(
        folder,
        settings.serve.host,
        settings.serve.port if again is None else int(again.rpartition(":")[2]),
        backend=settings.model.backend,
        query_cache=settings.serve.query_cache,
        shadow=shadow_settings(settings.serve),
        min_ready_shards=settings.serve.min_ready_shards,
        settings=shard_settings(settings.shards, settings.serve.log_format),
        on_step=say,
        **options,
    )
    try:
        say("starting: opening the shards and loading the model")
        serving.wait_ready(on_step=say)
        say(f"logs are in {logs_folder()}")
        if again is not None:
            pass  # it was said
        elif json:
            where = {"url": serving.url, "admin_url": serving.admin_url or serving.url}
            print_json({**where, "index": str(folder)})
        else:
            out.print(f"Bitsift answers on [bold]{serving.url}[/bold]  (Ctrl-C stops it)")
            if serving.admin_url is not None:
                out.print(f"Its admin routes are on [bold]{serving.admin_url}[/bold]")
        yield serving
    finally:
        serving.stop()
