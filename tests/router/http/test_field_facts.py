"""What is said of the fields of an index."""

from __future__ import annotations

from bitsift.router.http.field_facts import field_facts
from bitsift.shard_worker.types import FieldFacts, ShardStatus


def test_what_the_shards_say_of_their_fields_is_joined() -> None:
    one = {"lang": FieldFacts(5, 2, ["string"], True), "year": FieldFacts(9, 4, ["number"], True)}
    other = {"lang": FieldFacts(7, 3, ["number"], False)}
    shards = [ShardStatus(0, "READY", fields=one), ShardStatus(1, "READY", fields=other)]
    assert list(field_facts([*shards, ShardStatus(2, "LOADING")]).items()) == [
        ("lang", {"rows": 12, "values": 3, "types": ["number", "string"], "indexed": False}),
        ("year", {"rows": 9, "values": 4, "types": ["number"], "indexed": True}),
    ]
