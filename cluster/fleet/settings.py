"""What of a spec each actor is started with, and keeps until it ends: as a digest.

An actor says with which it was started. Where that is not the spec's, it is started again.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from bitsift.cluster.fleet.spec import ClusterSpec


def of_replicas(spec: ClusterSpec) -> str:
    """Of each replica."""
    return _digest([spec.shards.model_dump(mode="json"), spec.serve.log_format])


def of_routers(spec: ClusterSpec) -> str:
    """Of each router."""
    sections = spec.serve, spec.access, spec.model
    return _digest([section.model_dump(mode="json") for section in sections])


def of_writer(spec: ClusterSpec) -> str:
    """Of the writer."""
    serve = spec.serve
    return _digest([spec.model.model_dump(mode="json"), serve.write_acks, serve.log_format])


def _digest(settings: Any) -> str:
    return hashlib.blake2b(orjson.dumps(settings), digest_size=8).hexdigest()
