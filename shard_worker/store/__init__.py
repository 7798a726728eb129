"""The store of a shard on the disk, the only truth; ``Store`` is the door to it."""

from bitsift.shard_worker.store.format import DATABASES
from bitsift.shard_worker.store.store import (
    IDS_CHECKED_AT_START,
    STORE_BYTES_MAX,
    Store,
    Then,
    Written,
)

__all__ = [
    "DATABASES",
    "IDS_CHECKED_AT_START",
    "STORE_BYTES_MAX",
    "Store",
    "Then",
    "Written",
]
