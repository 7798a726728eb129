"""Everything that is checked of rendered manifests."""

from __future__ import annotations

from collections.abc import Iterator

from tests.k8s.kuberay import ray_cluster_mistakes
from tests.k8s.others import other_mistakes
from tests.k8s.rendered import Object
from tests.k8s.schemas import wrong_by_schema
from tests.k8s.workloads import pod_mistakes, workload_mistakes

SEMANTIC = (pod_mistakes, workload_mistakes, other_mistakes, ray_cluster_mistakes)


def mistakes(of: list[Object]) -> Iterator[str]:
    """Each as a sentence. What no check can read is a mistake by schema, or else an error."""
    by_schema = list(wrong_by_schema(of))
    yield from by_schema
    for check in SEMANTIC:
        try:
            yield from check(of)
        except (AttributeError, KeyError, TypeError, ValueError):
            if not by_schema:
                raise
