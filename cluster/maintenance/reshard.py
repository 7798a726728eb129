"""An index made anew from its stored codes, with another number of shards or with another
calibration (recalibrate.py): no model, no sources.

The documents and the deletions of each old shard are done in the new ones as versioned operations,
through the one door (``Shard.write``). They may come twice, so a run that was killed goes on from
where it last took note, and one that finds the old index changed since begins again, over what is
there. ``complete.json`` comes last, when as many documents are there as in the old index.

The new index has a uuid of its own: a shard of one layout is never taken for one of the other.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from bitsift.cluster import manifest as manifests
from bitsift.cluster.maintenance.recalibrate import Recoding, calibration_of, check_due
from bitsift.cluster.manifest import (
    BuildReport,
    Manifest,
    open_manifest,
    report_without_records,
)
from bitsift.cluster.new_index import check_new, check_shards, make_folder, make_index
from bitsift.errors import Corrupt, InvalidRequest, NotFound, StorageFull
from bitsift.router.shards.placement import Placement
from bitsift.router.shards.routed import routed
from bitsift.shard_worker.layout import (
    MANIFEST_FILE,
    FolderLock,
    check_identity,
    read_identity,
    read_json,
    shard_folder,
    store_folder,
    write_json,
)
from bitsift.shard_worker.operations import Operation, statuses
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.counters import Past
from bitsift.shard_worker.store.replay import deletes, past_of, upserts

PROGRESS_FILE = "reshard.json"
ROWS_AT_ONCE = 1 << 13
OPEN_SHARDS_MAX = 32
"""New shards that are filled in one pass over the old ones: their bits are in RAM."""
NOTED_ROWS = 1 << 16
"""What a run that was killed may do again, at most."""
_WRITERS = 4
"""Shards written to at once: each waits for its disk."""

OnRows = Callable[[int, int], None]
"""Called with the rows that were looked at so far, and those that will be."""


@dataclass(frozen=True, slots=True)
class ReshardReport:
    """What was made; ``already_complete``: by an earlier run."""

    index: str
    index_uuid: str
    shards_before: int
    shards: int
    documents: int
    seconds: float
    already_complete: bool = False


def reshard(
    index: Path,
    out: Path,
    shards: int,
    on_rows: OnRows = lambda _, __: None,
    *,
    recalibrate: bool = False,
) -> ReshardReport:
    """Make the index ``out``, of ``shards`` shards, of ``index``, which is left as it is.

    Run again it goes on where it was killed. Raises InvalidRequest where ``out`` is something else
    or ``index`` has too few documents to ``recalibrate``,
    Unavailable while either is open in another process, StorageFull before anything is written
    where there is no room, ChecksumMismatch or Corrupt where a living row of ``index`` is damaged,
    FormatMismatch where a newer bitsift has written what this one would lose.
    """
    started = time.monotonic()
    check_shards(shards)
    old, _ = open_manifest(index)
    with _Sources.held(index, old) as sources:
        new, report = _begin(sources, out, shards, recalibrate)
        done = report is not None
        if report is None:
            report = _Resharding(sources, out, new, on_rows).run(started)
        (out / PROGRESS_FILE).unlink(missing_ok=True)
    return ReshardReport(
        index=str(out),
        index_uuid=new.uuid,
        shards_before=old.shards,
        shards=new.shards,
        documents=report.documents,
        seconds=0.0 if done else report.seconds,
        already_complete=done,
    )


@dataclass(frozen=True, slots=True)
class _Sources:
    """The old index, which no other process may have open meanwhile."""

    index: Path
    manifest: Manifest

    @classmethod
    @contextlib.contextmanager
    def held(cls, index: Path, manifest: Manifest) -> Iterator[_Sources]:
        with contextlib.ExitStack() as locks:
            for number in range(manifest.shards):
                locks.callback(FolderLock(shard_folder(index, number)).release)
            yield cls(index, manifest)

    @contextlib.contextmanager
    def store(self, number: int) -> Iterator[Store]:
        """One at a time: each may reserve a TiB of address space."""
        folder, identity = shard_folder(self.index, number), self.manifest.identity(number)
        check_identity(folder, read_identity(folder), identity)
        with contextlib.closing(Store(store_folder(folder), identity)) as store:
            yield store

    def stores(self) -> Iterator[Store]:
        for number in range(self.manifest.shards):
            with self.store(number) as store:
                yield store


def _begin(
    sources: _Sources, out: Path, shards: int, recalibrate: bool
) -> tuple[Manifest, BuildReport | None]:
    """The manifest of the new index, made or found, and its report where it is complete."""
    old = sources.manifest
    request = {"reshard": old.uuid, "shards": shards}
    request |= {"recalibrate": True} if recalibrate else {}
    if (out / MANIFEST_FILE).exists():
        found = manifests.read_manifest(out)
        if found.request != request:
            raise InvalidRequest(
                f"{out} is another index, not {old.name} with {shards} shards"
                f"{' calibrated anew' if recalibrate else ''}; choose another --out"
            )
        return found, manifests.read_complete(out)
    check_new(out)
    pasts, needed, documents = list[Past](), 0, 0
    for store in sources.stores():
        pasts.append(past_of(store))
        needed += store.used_bytes
        documents += store.rows - store.dead_rows
    calibration, calibrated_at = old.calibration, old.calibrated_at
    if recalibrate:
        check_due(old, documents)
        calibration = calibration_of(sources.stores(), old.shards, old.calibration)
        calibrated_at = documents
    make_folder(out)
    _check_room(out, needed)
    new = replace(
        old,
        uuid=str(uuid.uuid4()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        shards=shards,
        calibration=calibration,
        calibrated_at=calibrated_at,
        request=request,
    )
    make_index(out, new, _latest(pasts))
    return new, None


def _latest(pasts: Sequence[Past]) -> Past:
    return Past(
        max(past.newest_version for past in pasts), max(past.forgotten_version for past in pasts)
    )


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        raise StorageFull(
            f"{out} takes {needed / 1e9:,.2f} GB, {free / 1e9:,.2f} GB are free; free "
            f"{(needed - free) / 1e9:,.2f} GB and run it again"
        )


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a run has come: the first of the new shards that are being filled, the old shard that
    is read, and its next row. ``sources`` is in what state the old shards were, ``together`` how
    many new shards are filled at once: another program may fill others in that pass.
    """

    sources: list[list[int]]
    together: int
    target: int = 0
    source: int = 0
    row: int = 0


@dataclass(slots=True, eq=False)
class _Resharding:
    """One run. ``_rows`` were looked at, of ``_total``."""

    sources: _Sources
    out: Path
    manifest: Manifest
    on_rows: OnRows
    _state: list[list[int]] = field(default_factory=list)
    _rows: int = 0
    _total: int = 0

    def run(self, started: float) -> BuildReport:
        documents = self._look()
        progress = self._progress()
        for first in range(progress.target, self.manifest.shards, OPEN_SHARDS_MAX):
            begin = progress if first == progress.target else replace(progress, source=0, row=0)
            self._fill(replace(begin, target=first))
        report = self._report(started)
        if report.documents != documents:
            raise Corrupt(
                f"{self.out} has {report.documents:,} documents, {documents:,} were to come: "
                f"verify {self.sources.index}, remove {self.out}, and run it again"
            )
        manifests.write_complete(self.out, report)
        return report

    def _look(self) -> int:
        """Note the state of the old shards; how many documents they hold."""
        documents = 0
        for store in self.sources.stores():
            counters = store.counters
            self._state.append([counters.generation, counters.transaction])
            self._total += store.rows
            documents += store.rows - store.dead_rows
        self._total *= -(-self.manifest.shards // OPEN_SHARDS_MAX)
        return documents

    def _progress(self) -> _Progress:
        """Where an earlier run was, if the old index has not changed since."""
        with contextlib.suppress(NotFound, Corrupt, TypeError):
            found = _Progress(**read_json(self.out / PROGRESS_FILE))
            if (found.sources, found.together) == (self._state, OPEN_SHARDS_MAX):
                return found
        self._check_past()
        return _Progress(self._state, OPEN_SHARDS_MAX)

    def _check_past(self) -> None:
        """What was copied before is brought up to date by the deletions, unless some are gone."""
        forgotten = _latest([past_of(store) for store in self.sources.stores()]).forgotten_version
        for number in range(self.manifest.shards):
            folder, identity = shard_folder(self.out, number), self.manifest.identity(number)
            with contextlib.closing(Store(store_folder(folder), identity)) as store:
                if store.rows and store.counters.forgotten_version < forgotten:
                    raise InvalidRequest(
                        f"{self.sources.index} has forgotten deletions since {self.out} was begun; "
                        f"remove {self.out} and run it again"
                    )

    def _fill(self, progress: _Progress) -> None:
        """The new shards from ``progress.target`` on, as many as are open at once."""
        last = min(self.manifest.shards, progress.target + OPEN_SHARDS_MAX)
        with contextlib.ExitStack() as stack:
            shards = {}
            for number in range(progress.target, last):
                shards[number] = shard = self._open(number)
                stack.callback(shard.close)
            pool = stack.enter_context(ThreadPoolExecutor(_WRITERS, "reshard"))
            for source in range(progress.source, self.sources.manifest.shards):
                first_row = progress.row if source == progress.source else 0
                self._copy(replace(progress, source=source, row=first_row), shards, pool)
            for shard in shards.values():
                shard.save_bits()

    def _open(self, number: int) -> Shard:
        folder, identity = shard_folder(self.out, number), self.manifest.identity(number)
        return Shard(folder, self.manifest.calibration, identity)

    @property
    def _is_recalibration(self) -> bool:
        return bool(self.manifest.request.get("recalibrate"))

    def _copy(
        self, progress: _Progress, shards: Mapping[int, Shard], pool: ThreadPoolExecutor
    ) -> None:
        """One old shard from ``progress.row`` on, then its deletions."""
        placement = Placement(self.manifest.shards)

        def write(operations: Iterable[Operation]) -> None:
            parts = routed(operations, placement)
            mine = [(shards[number], parts[number]) for number in parts.keys() & shards.keys()]
            for done in pool.map(lambda part: part[0].write(part[1]), mine):
                statuses(done)

        recoding = Recoding(self.sources.manifest.calibration, self.manifest.calibration)
        with self.sources.store(progress.source) as store:
            dead = store.dead()
            for first in range(progress.row, store.rows, ROWS_AT_ONCE):
                if first % NOTED_ROWS == 0:
                    write_json(self.out / PROGRESS_FILE, asdict(replace(progress, row=first)))
                stop = min(first + ROWS_AT_ONCE, store.rows)
                found = upserts(store, first, stop, dead)
                write(recoding.upserts(found) if self._is_recalibration else found)
                self._rows += stop - first
                self.on_rows(self._rows, self._total)
            for operations in deletes(store):
                write(operations)

    def _report(self, started: float) -> BuildReport:
        """Every new shard is opened once more, as it will be served."""
        found = []
        for number in range(self.manifest.shards):
            with contextlib.closing(self._open(number)) as shard:
                found.append(shard.status())
        return report_without_records(
            [status.documents for status in found],
            self.manifest.calibration.dimension,
            seconds=round(time.monotonic() - started, 3),
            bits_bytes=sum(status.bits_bytes for status in found),
            disk_bytes=sum(status.disk_bytes for status in found),
        )
