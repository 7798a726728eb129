"""Checking the field index of a shard: each of its blocks is what the documents of its rows make.

Rows that are in no segment are not wrong: a crash, or an older program, leaves them so.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitsift.shard_worker.fields.segment import Segment, build
from bitsift.shard_worker.maintenance.findings import Finding, Findings, Remedy
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.fields import FieldBlocks

DAMAGED = "a block of the field index does not pass its checksum"
DIFFERENT = "the field index does not say what the documents say"


def check_fields(store: Store, data: str, findings: Findings) -> None:
    """``data`` is the name of the store's file. RAM: that of a segment of 65,536 rows."""
    blocks = FieldBlocks(store)
    catalogs = blocks.catalogs()
    spans: dict[tuple[int, int], set[int]] = {}
    for span, number, is_sound in blocks.blocks():
        spans.setdefault(span, set()).add(number)
        if not is_sound:
            findings.add(data, DAMAGED, Remedy.REPAIR)
    stop = 0
    for span in sorted(spans):
        first, count = span
        inside = stop <= first and first + count <= store.rows
        stop = first + count
        if not inside:
            findings.add(data, DIFFERENT, Remedy.REPAIR)
        elif span in catalogs:
            segment = Segment.unpacked(first, count, catalogs[span])
            if segment is None:
                continue  # of another release, which wrote it so
            if set(segment.numbers) != spans[span] or not _is_of_documents(
                blocks, segment, store.index_fields
            ):
                findings.add(data, DIFFERENT, Remedy.REPAIR)


def is_of_fields(finding: Finding) -> bool:
    """Whether it is about the field index."""
    return finding.problem in (DAMAGED, DIFFERENT)


def _is_of_documents(blocks: FieldBlocks, segment: Segment, chosen: Sequence[str]) -> bool:
    """Whether the sound blocks of a segment are those that its rows' documents make.

    True where one of those has been damaged since: it may well say what that one said.
    """
    span = segment.first, segment.count
    texts = list(blocks.texts(range(segment.first, segment.stop)))
    if any(said is None and row not in segment.unread for row, said in enumerate(texts)):
        return True
    _, made = build(*span, texts, chosen)
    with blocks.reading() as block:
        held = {number: block(span, number) for number in segment.numbers}
        return all(body is None or bytes(body) == made.get(number) for number, body in held.items())
