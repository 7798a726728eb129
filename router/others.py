"""The indexes besides the default one, as the command that started the router describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bitsift.router.description import IndexDescription
from bitsift.router.indexes import Indexes, Served
from bitsift.router.model.shared import Encoders
from bitsift.router.model.spec import EncoderSpec
from bitsift.router.service import SearchService
from bitsift.router.shadow.settings import ShadowSettings
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.placed import PlacedShards
from bitsift.router.shards.placement import ReplicaTable
from bitsift.router.shards.remote import RemoteWriter

INDEXES_MAX = 32
"""Of one server: each has a process for each shard, and one that writes."""
ALIASES_MAX = 256


@dataclass(frozen=True, slots=True, eq=False)
class IndexSource:
    """What a router has to know of an index to answer for it; ``writer`` is a WriterActor."""

    description: IndexDescription
    table: ReplicaTable
    writer: Any
    encoder: EncoderSpec | None


@dataclass(frozen=True, slots=True, eq=False)
class OtherIndexes:
    """All of them: those that answer, the reason why one does not, and what aliases mean."""

    sources: Mapping[str, IndexSource] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)


class Others:
    """Makes services of what it is told; those that it has made already go on."""

    def __init__(
        self, indexes: Indexes, encoders: Encoders, query_cache: int, shadow: ShadowSettings
    ) -> None:
        self._indexes = indexes
        self._encoders = encoders
        self._query_cache = query_cache
        self._shadow = shadow
        self._made: dict[str, Served] = {}

    def place(self, told: OtherIndexes) -> None:
        """From now on there are these."""
        self._made = {
            name: self._known(name, source) or self._make(name, source)
            for name, source in told.sources.items()
        }
        self._indexes.place(self._made.values(), told.broken, told.aliases)

    def _known(self, name: str, source: IndexSource) -> Served | None:
        known = self._made.get(name)
        is_same = known and known.service.description.uuid == source.description.uuid
        return known if is_same else None

    def _make(self, name: str, source: IndexSource) -> Served:
        shards = FanOut(PlacedShards(source.table).links)
        service = SearchService(source.description, shards, None, self._query_cache, self._shadow)
        default = self._indexes.default.service
        service.memory, service.loop_lag = default.memory, default.loop_lag
        if source.encoder is not None:
            self._encoders.give(source.encoder, service.query_vectors)
        return Served(name, service, RemoteWriter(source.writer))
