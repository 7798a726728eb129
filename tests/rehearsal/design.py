"""Which connections the design needs, said without the manifests: docs/kubernetes.md, "Network".

And the attempt to make every connection that there is, from each kind of pod to each port.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.rehearsal.cluster import COMPONENT, HOME, Rehearsed
from tests.rehearsal.network import connects
from tests.rehearsal.policies import Peer

GCS, HTTP = 6_379, 8_000
RAY = (8_076, 8_077, 10_002, 10_500, 10_999, 11_000, 11_500, 11_999)
"""With the searches that routers send to shards, from 11,000 on."""
OTHERS = (22, 53, 80, 443, 8_078, 8_079, 8_265, 10_001, 12_000, 44_217, 52_365)
"""What nobody needs: the shell, the web, readiness (the kubelet's), Ray's dashboard, client,
ports beyond its own, metrics, agent."""
RAYS = frozenset({"head", "shard", "router", "control"})
TIMEOUT_S, SURELY_S = 0.7, 5.0
"""For an attempt, and for another where it should have passed: the machine is busy."""
_AT_ONCE = 48


@dataclass(frozen=True, slots=True)
class Found:
    """Connections (from, to, port) that were tried, and those that are not as the design says."""

    tried: int
    too_many: list[tuple[str, str, int]]
    blocked: list[tuple[str, str, int]]


def is_needed(source: Peer, target: Peer, port: int) -> bool:
    """Whether the design has this connection."""
    if not target.is_home:
        is_dns = target.labels.get("k8s-app") == "kube-dns"
        return (is_dns and port == 53) if source.is_home else True
    component = target.labels.get(COMPONENT)
    both_ray = component in RAYS and source.is_home and source.labels.get(COMPONENT) in RAYS
    if port == HTTP:
        is_caller = source.is_home and source.labels.get("bitsift-client") == "true"
        is_caller |= not source.is_home and "true" in (
            source.labels.get("bitsift-client"),
            source.space.get("bitsift-client"),
        )
        return component == "router" and is_caller
    if port == GCS:
        return component == "head" and both_ray
    return both_ray and port in RAY


def add_strangers(cluster: Rehearsed) -> None:
    """Callers as docs/kubernetes.md describes them, others, and the resolver of names."""
    caller, elsewhere = {"bitsift-client": "true"}, {"kubernetes.io/metadata.name": "shop"}
    for name, labels, space in (
        ("caller", caller, HOME),
        ("another pod here", {"app": "shell"}, HOME),
        ("caller elsewhere", caller, elsewhere),
        ("pod in a namespace of callers", {"app": "web"}, {**elsewhere, **caller}),
        ("pod elsewhere", {"app": "web"}, elsewhere),
        ("resolver", {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}),
    ):
        cluster.add_stranger(name, labels, space)


def tried(cluster: Rehearsed) -> Found:
    """Every connection between two of them, at every port that means something."""
    peers = _one_of_each(cluster.peers())
    wanted = [
        (source, target, port)
        for source in peers
        for target in peers
        if source is not target
        for port in sorted({GCS, HTTP, *RAY, *OTHERS})
    ]

    def attempt(one: tuple[Peer, Peer, int]) -> bool:
        source, target, port = one
        space = cluster.network.space(source.address)
        return connects(space, target.address, port, TIMEOUT_S) or (
            is_needed(source, target, port) and connects(space, target.address, port, SURELY_S)
        )

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        passed = list(pool.map(attempt, wanted))
    too_many: list[tuple[str, str, int]] = []
    blocked: list[tuple[str, str, int]] = []
    for (source, target, port), is_passed in zip(wanted, passed, strict=True):
        if is_passed is not is_needed(source, target, port):
            (too_many if is_passed else blocked).append((source.name, target.name, port))
    return Found(len(wanted), too_many, blocked)


def _one_of_each(peers: list[Peer]) -> list[Peer]:
    """Two of shards and routers, for they talk among themselves."""
    found: dict[str, list[Peer]] = {}
    for peer in peers:
        found.setdefault(peer.labels.get(COMPONENT, peer.name), []).append(peer)
    return [peer for kind in found.values() for peer in kind[:2]]
