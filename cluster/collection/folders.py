"""Which folders a server has indexes in, and under which names: those of the folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitsift.errors import InvalidRequest, NotFound
from bitsift.router.others import INDEXES_MAX
from bitsift.shard_worker.layout import MANIFEST_FILE


def index_folders(
    named: Sequence[Path], root: Path | None, default: str | None
) -> tuple[str, dict[str, Path]]:
    """The name of the default index, and the folder of each.

    ``root`` is the folder of which each sub-folder with a manifest is one. The default is
    ``default``, else the first of ``named``, else the only one. Raises InvalidRequest, NotFound.
    """
    folders: dict[str, Path] = {}
    for folder in (*named, *([] if root is None else _below(root))):
        found = folder.resolve()
        if folders.setdefault(found.name, found) != found:
            raise InvalidRequest(
                f"{folders[found.name]} and {found} have the same name; rename one of the folders"
            )
    if not folders:
        where = "name an index" if root is None else f"{root} has no index"
        raise InvalidRequest(f"{where}: bitsift create makes one")
    if len(folders) > INDEXES_MAX:
        raise InvalidRequest(f"{len(folders)} indexes; one server has at most {INDEXES_MAX}")
    return _default(named, default, folders), folders


def _default(named: Sequence[Path], default: str | None, folders: dict[str, Path]) -> str:
    if default is None and named:
        return named[0].resolve().name
    if default is None and len(folders) == 1:
        return next(iter(folders))
    listed = ", ".join(sorted(folders))
    if default is None:
        raise InvalidRequest(f"say which index answers /v1/search: --default NAME, of {listed}")
    if default not in folders:
        raise InvalidRequest(f"--default {default!r} is none of the indexes: {listed}")
    return default


def _below(root: Path) -> list[Path]:
    if not root.is_dir():
        raise NotFound(f"{root} is not a folder: make it, then bitsift create {root}/NAME")
    return sorted(path.parent for path in root.glob(f"*/{MANIFEST_FILE}"))
