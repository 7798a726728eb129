"""What became of a document, in one vocabulary: in the shard, in the API, in reports and docs."""

from __future__ import annotations

from enum import StrEnum


class WriteStatus(StrEnum):
    """What became of one document of a write, or of one id to delete.

    A shard decides all of them but ``failed``, which stands for an error.
    """

    CREATED = "created"
    """Stored under an id that no document had."""
    UPDATED = "updated"
    """Stored, replacing other content under this id."""
    UNCHANGED = "unchanged"
    """Nothing changed: the same content was already there, or something newer takes precedence: a
    later document of this id in the same call, or a later write.
    """
    DELETED = "deleted"
    MISSING = "missing"
    """Nothing changed: there is no document with this id."""
    CONFLICT = "conflict"
    """Nothing changed: the write has a condition that does not hold."""
    REJECTED = "rejected"
    """Nothing changed, and nothing will until the caller changes the document: it is invalid, or
    its id is taken by a document that must not be replaced.
    """
    SUPERSEDED = "superseded"
    """Nothing changed: the replica has a newer version. Only a coordinator of replicas sees it, and
    tries again in a version that is newer still (router/shards/replica_writes.py).
    """
    FAILED = "failed"
    """A temporary error of its shard or of the model; the error's ``outcome`` says whether it was
    written."""
