"""NetworkPolicies and Services as rules of nft for one pod: who may reach whom, at which ports.

Pure. ``allowed`` gives what the policies say of a pod, ``rules_of`` the text that its network
namespace is given. Connections that they deny, and those that they let pass, are remembered there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.k8s.rendered import Object

Direction = Literal["Ingress", "Egress"]
DENIED, PASSED = "denied", "passed"
"""Sets of (the pod that is asked, port), for what a pod begins."""
REMEMBERED_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody with an address. ``space`` are the labels of its namespace, ``is_home`` whether it
    is that of the policies.
    """

    name: str
    address: str
    labels: Mapping[str, str]
    space: Mapping[str, str]
    is_home: bool = True


@dataclass(frozen=True, slots=True)
class Ports:
    protocol: str
    low: int
    high: int

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.low <= port <= self.high


@dataclass(frozen=True, slots=True)
class Allowed:
    """Peers that may be reached, or may come, at these ports."""

    peers: frozenset[str]
    ports: tuple[Ports, ...]


@dataclass(frozen=True, slots=True)
class ServiceRule:
    """An address that stays, and the pods behind it."""

    address: str
    port: int
    targets: tuple[tuple[str, int], ...]


def allowed(
    policies: Sequence[Object], pod: Peer, peers: Sequence[Peer], direction: Direction
) -> tuple[Allowed, ...] | None:
    """What the policies that select ``pod`` allow; None: none selects it, so everything is.

    A peer is named by its address.
    """
    chosen = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and pod.is_home
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    if not chosen:
        return None
    side, field = ("from", "ingress") if direction == "Ingress" else ("to", "egress")
    return tuple(
        Allowed(_peers_of(rule.get(side), peers), tuple(_ports_of(rule)))
        for spec in chosen
        for rule in spec.get(field, [])
    )


def may_connect(
    policies: Sequence[Object], source: Peer, target: Peer, peers: Sequence[Peer], port: int
) -> bool:
    """Whether TCP from ``source`` to ``port`` of ``target`` passes both sides."""
    sides: tuple[tuple[Direction, Peer, Peer], ...] = (
        ("Egress", source, target),
        ("Ingress", target, source),
    )
    for direction, pod, other in sides:
        found = allowed(policies, pod, peers, direction)
        if found is not None and not any(
            other.address in one.peers and _has(one.ports, port) for one in found
        ):
            return False
    return True


def _has(ports: tuple[Ports, ...], port: int) -> bool:
    return not ports or any(one.protocol == "TCP" and port in one for one in ports)


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, f"the rehearsal knows no selector {selector}"
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _peers_of(sides: Sequence[Object] | None, peers: Sequence[Peer]) -> frozenset[str]:
    if sides is None:
        return frozenset(peer.address for peer in peers)
    return frozenset(peer.address for peer in peers for side in sides if _is_meant(side, peer))


def _is_meant(side: Object, peer: Peer) -> bool:
    assert side.keys() <= {"podSelector", "namespaceSelector"}, side
    is_space = (
        _selects(side["namespaceSelector"], peer.space)
        if "namespaceSelector" in side
        else peer.is_home
    )
    return is_space and _selects(side.get("podSelector", {}), peer.labels)


def _ports_of(rule: Object) -> Iterable[Ports]:
    for port in rule.get("ports", []):
        assert isinstance(port["port"], int), f"the rehearsal knows no named port {port}"
        yield Ports(port.get("protocol", "TCP"), port["port"], port.get("endPort", port["port"]))


# --- nft ---------------------------------------------------------------------------------------


def rules_of(
    node: str,
    ingress: tuple[Allowed, ...] | None,
    egress: tuple[Allowed, ...] | None,
    services: Sequence[ServiceRule],
) -> str:
    """What ``nft -f`` makes of a pod's namespace, at once and in the place of what was there.

    ``node`` is the address that the kubelet asks from: Kubernetes always lets it in.
    """
    remember = f"{{ type ipv4_addr . inet_service; flags dynamic; size {REMEMBERED_MAX}; }}"
    lines = [
        "add table inet pod",
        f"add set inet pod {DENIED} {remember}",
        f"add set inet pod {PASSED} {remember}",
        "add chain inet pod nowhere { type filter hook output priority -150; }",
        "add chain inet pod service { type nat hook output priority -100; }",
        "add chain inet pod out { type filter hook output priority 0; }",
        "add chain inet pod in { type filter hook input priority 0; }",
        *(f"flush chain inet pod {name}" for name in ("nowhere", "service", "out", "in")),
        *(f"add rule inet pod {rule}" for service in services for rule in _service(service)),
        *(f"add rule inet pod out {rule}" for rule in _chain("daddr", egress, "")),
        *(
            f"add rule inet pod in {rule}"
            for rule in _chain("saddr", ingress, f"ip saddr {node} accept")
        ),
    ]
    return "\n".join(lines) + "\n"


def _service(service: ServiceRule) -> list[str]:
    called = f"ip daddr {service.address} tcp dport {service.port}"
    if not service.targets:
        return [f"nowhere {called} reject with tcp reset"]
    targets = service.targets
    (port,) = {port for _, port in targets}
    chosen = ", ".join(f"{number} : {address}" for number, (address, _) in enumerate(targets))
    return [
        f"service {called} dnat ip to numgen random mod {len(targets)} map {{ {chosen} }} : {port}"
    ]


def _chain(side: str, found: tuple[Allowed, ...] | None, before: str) -> list[str]:
    interface = "oif" if side == "daddr" else "iif"
    rules = [f"{interface} lo accept", "ct state established,related accept"]
    rules += [before] if before else []
    remember = "add @%s { ip daddr . tcp dport }" if side == "daddr" else None
    if found is None:
        return [*rules, f"{remember % PASSED} accept"] if remember else rules
    for one in found:
        if not one.peers:
            continue
        peers = f"ip {side} {{ {', '.join(sorted(one.peers))} }}"
        if not one.ports:
            rules.append(f"{peers} accept")
        for port in one.ports:
            asked = f"{port.low}-{port.high}" if port.high > port.low else str(port.low)
            noted = f"{remember % PASSED} " if remember and port.protocol == "TCP" else ""
            rules.append(f"{peers} {port.protocol.lower()} dport {asked} {noted}accept")
    if remember:
        rules.append(f"meta l4proto tcp {remember % DENIED} drop")
    return [*rules, "drop"]
