"""The indexes of a server besides its default one: started, created, deleted, and their aliases.

Each has a claim on its folder, actors for its shards and a writer. What is wrong with one is said
of it, and is no matter of the others. One thread at a time changes what there is.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitsift.cluster.collection.aliases import read_aliases, write_aliases
from bitsift.cluster.collection.creating import create
from bitsift.cluster.interrupts import shielded
from bitsift.cluster.maintenance.removal import remove_index
from bitsift.cluster.manifest import open_manifest, read_manifest
from bitsift.cluster.serving.claim import Marked
from bitsift.cluster.serving.launch import check_free, start_index
from bitsift.cluster.serving.others import StartedIndex
from bitsift.errors import BitsiftError, InvalidRequest, NotFound, reason
from bitsift.router.others import ALIASES_MAX, INDEXES_MAX, IndexSource, OtherIndexes
from bitsift.shard_worker.layout import COMPLETE_FILE
from bitsift.shard_worker.maintenance.repository import storage_error
from bitsift.shard_worker.types import ShardSettings


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    source: IndexSource
    started: StartedIndex
    claim: contextlib.ExitStack
    actors: contextlib.ExitStack


class Collection:
    """``default`` is the name of the index that is not in it; ``root`` is where indexes are made,
    None: nowhere.
    """

    def __init__(
        self,
        default: str,
        folders: Mapping[str, Path],
        root: Path | None,
        processes: Marked,
        settings: ShardSettings,
        backend: str,
        say: Callable[[str], None],
    ) -> None:
        """Raises Corrupt, Unavailable where the aliases cannot be read."""
        self._default = default
        self._folders = {name: folder for name, folder in folders.items() if name != default}
        self._root = None if root is None else root.resolve()
        self._processes = processes
        self._settings = settings
        self._backend = backend
        self._say = say
        self._aliases = {} if root is None else read_aliases(root)
        self._running: dict[str, _Running] = {}
        self._broken: dict[str, str] = {}

    def start(self) -> None:
        """Start each; one that cannot be is broken, and says why."""
        for name in self._folders:
            self._start(name)

    def stop(self) -> None:
        """End all processes, and release the folders."""
        with shielded():
            for name in list(self._running):
                self._stop(name)

    def abandon(self) -> None:
        """Leave the processes to whoever ends them; release the folders."""
        for one in self._running.values():
            one.actors.pop_all()
            one.claim.close()

    def told(self) -> OtherIndexes:
        """What a router is told."""
        sources = {name: one.source for name, one in list(self._running.items())}
        return OtherIndexes(sources, dict(self._broken), dict(self._aliases))

    def names(self) -> dict[str, str]:
        """How people name each actor, by its id in Ray's table of actors."""
        return {
            actor: f"{said} of {name}"
            for name, one in list(self._running.items())
            for actor, said in one.started.names().items()
        }

    def do(self, what: str, arguments: Mapping[str, Any]) -> Any:
        """An order of a caller (router/orders.py). Raises BitsiftErrors."""
        orders: dict[str, Callable[..., Any]] = {
            "create": self.create,
            "delete": self.delete,
            "put_alias": self.put_alias,
            "drop_alias": self.drop_alias,
        }
        return orders[what](**arguments)

    def create(
        self, name: str, model: str | None, dimensions: int | None, shards: int | None
    ) -> dict[str, Any]:
        """Make an empty index and serve it. Raises as ``create_index``, and InvalidRequest where
        the name is taken or there are too many.
        """
        root = self._writable_root()
        if name in self._aliases:
            raise InvalidRequest(f"{name!r} is an alias of {self._aliases[name]!r}; choose another")
        if name in self._folders or name == self._default:
            raise InvalidRequest(f"there is an index {name!r} already; it was left untouched")
        if len(self._folders) + 2 > INDEXES_MAX:
            raise InvalidRequest(f"a server has at most {INDEXES_MAX} indexes; delete one first")
        report = create(root / name, model, dimensions, shards, self._backend)
        self._folders[name] = root / name
        self._start(name)
        self._say(f"created the index {name}")
        return {"name": name} | {it: report[it] for it in ("model", "dimension", "shards")}

    def delete(self, name: str, with_aliases: bool) -> dict[str, Any]:
        """End an index and remove its files. Raises NotFound, InvalidRequest, Unavailable."""
        root = self._writable_root()
        if name == self._default:
            raise InvalidRequest(f"{name!r} is the default index of this server: it stays")
        folder = self._folder(name)
        if folder.parent != root:
            raise InvalidRequest(f"{folder} is not below {root}: stop the server and remove it")
        aliases = sorted(alias for alias, meant in self._aliases.items() if meant == name)
        if aliases and not with_aliases:
            raise InvalidRequest(
                f"{name!r} has aliases ({', '.join(aliases)}): let them mean another index first, "
                "or delete it with_aliases"
            )
        if aliases:
            self._keep({it: to for it, to in self._aliases.items() if it not in aliases})
        self._stop(name)
        self._broken[name] = "it was not deleted whole; delete it again"
        try:
            with self._processes.serving(folder):
                check_free(folder, read_manifest(folder))
                (folder / COMPLETE_FILE).unlink(missing_ok=True)  # from now on it is none
                remove_index(folder)
        except OSError as error:
            raise storage_error(error, f"{folder} cannot be removed") from error
        del self._folders[name], self._broken[name]
        self._say(f"deleted the index {name}")
        return {"name": name, "status": "deleted", "aliases": aliases}

    def put_alias(self, alias: str, index: str) -> dict[str, Any]:
        """Raises NotFound for an index that there is not, InvalidRequest."""
        self._writable_root()
        if alias in self._folders or alias == self._default:
            raise InvalidRequest(f"{alias!r} is the name of an index; choose another alias")
        if index != self._default:
            self._folder(index)
        aliases = self._aliases | {alias: index}
        if len(aliases) > ALIASES_MAX:
            raise InvalidRequest(f"a server has at most {ALIASES_MAX} aliases; delete one first")
        self._keep(aliases)
        return {"alias": alias, "index": index}

    def drop_alias(self, alias: str) -> dict[str, Any]:
        """Raises NotFound."""
        self._writable_root()
        if alias not in self._aliases:
            raise NotFound(f"there is no alias {alias!r}")
        self._keep({it: to for it, to in self._aliases.items() if it != alias})
        return {"alias": alias, "index": None}

    def _keep(self, aliases: dict[str, str]) -> None:
        write_aliases(self._writable_root(), aliases)
        self._aliases = aliases

    def _writable_root(self) -> Path:
        if self._root is None:
            raise InvalidRequest(
                "this server has no folder for that: start it with --indexes-root FOLDER"
            )
        return self._root

    def _folder(self, name: str) -> Path:
        if name not in self._folders:
            raise NotFound(f"there is no index {name!r}; GET /v1/indexes lists all")
        return self._folders[name]

    def _start(self, name: str) -> None:
        self._broken.pop(name, None)
        claim, actors = contextlib.ExitStack(), contextlib.ExitStack()
        try:
            folder = self._folders[name]
            manifest, _ = open_manifest(folder)
            claim.enter_context(self._processes.serving(folder))
            check_free(folder, manifest)
            manifest = dataclasses.replace(manifest, name=name)
            started = start_index(actors, folder, manifest, self._settings, self._backend)
        except BaseException as error:
            with shielded():
                actors.close()
                claim.close()
            if not isinstance(error, BitsiftError | OSError):
                raise
            self._broken[name] = reason(error)
            self._say(f"the index {name} is not served: {reason(error)}")
            return
        source = IndexSource(
            manifest.describe(), started.table, started.writer, manifest.encoder(self._backend)
        )
        self._running[name] = _Running(source, started, claim, actors)

    def _stop(self, name: str) -> None:
        one = self._running.pop(name, None)
        if one is not None:
            one.actors.close()
            one.claim.close()
