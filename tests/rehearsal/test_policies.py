"""Policies as rules: who may reach whom, by what is rendered and by what the design says."""

from __future__ import annotations

import itertools

import pytest

from tests.k8s.rendered import Object, called, objects
from tests.rehearsal.cluster import COMPONENT, HOME
from tests.rehearsal.design import GCS, HTTP, OTHERS, RAY, is_needed
from tests.rehearsal.design import RAYS as OF_RAY
from tests.rehearsal.policies import (
    Allowed,
    Peer,
    Ports,
    ServiceRule,
    allowed,
    may_connect,
    rules_of,
)

POLICIES = [one for one in objects("production") if one["kind"] == "NetworkPolicy"]
RAYS = {"bitsift-ray": "true"}
CALLER = {"bitsift-client": "true"}
SHOP = {"kubernetes.io/metadata.name": "shop"}


def peers() -> list[Peer]:
    kinds: list[tuple[str, dict[str, str], dict[str, str]]] = [
        *((name, {COMPONENT: name, **RAYS}, HOME) for name in sorted(OF_RAY)),
        *((name, {COMPONENT: name}, HOME) for name in ("ingest", "verify", "restore")),
        ("backup", {COMPONENT: "backup", **CALLER}, HOME),
        ("caller", CALLER, HOME),
        ("another", {"app": "shell"}, HOME),
        ("caller elsewhere", CALLER, SHOP),
        ("in a namespace of callers", {"app": "web"}, {**SHOP, **CALLER}),
        ("elsewhere", {"app": "web"}, SHOP),
        ("resolver", {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}),
    ]  # fmt: skip
    return [
        Peer(name, f"10.0.0.{number}", labels, space, space == HOME)
        for number, (name, labels, space) in enumerate(kinds, 1)
    ]


def by_name(name: str) -> Peer:
    return next(peer for peer in peers() if peer.name == name)


def test_what_the_manifests_allow_is_what_the_design_needs() -> None:
    found = peers()
    for source, target in itertools.permutations(found, 2):
        for port in sorted({GCS, HTTP, *RAY, *OTHERS}):
            passes = may_connect(POLICIES, source, target, found, port)
            assert passes is is_needed(source, target, port), (source.name, target.name, port)


@pytest.mark.parametrize(
    ("policy", "source", "target", "port"),
    [
        ("http", "caller", "router", HTTP),
        ("clients", "backup", "router", HTTP),
        ("ray", "shard", "router", 10_500),
        ("ray-head", "router", "head", GCS),
        ("dns", "control", "resolver", 53),
    ],
)
def test_without_a_policy_what_it_allows_is_blocked(
    policy: str, source: str, target: str, port: int
) -> None:
    rest = [one for one in POLICIES if one["metadata"]["name"] != policy]
    pair = by_name(source), by_name(target)
    assert may_connect(POLICIES, *pair, peers(), port)
    assert not may_connect(rest, *pair, peers(), port)


def test_without_the_denial_everything_is_allowed_that_no_other_policy_is_about() -> None:
    rest = [one for one in POLICIES if one["metadata"]["name"] != "default-deny"]
    assert may_connect(rest, by_name("elsewhere"), by_name("verify"), peers(), 22)
    assert not may_connect(POLICIES, by_name("elsewhere"), by_name("verify"), peers(), 22)


def test_a_rule_without_peers_or_ports_is_for_all() -> None:
    policy: Object = called(list(POLICIES), "NetworkPolicy", "default-deny")
    open_to_all = {**policy, "spec": {**policy["spec"], "ingress": [{}]}}
    found = allowed([open_to_all], by_name("shard"), peers(), "Ingress")
    assert found == (Allowed(frozenset(peer.address for peer in peers()), ()),)


def test_who_is_not_selected_is_not_restricted() -> None:
    assert allowed(POLICIES, by_name("elsewhere"), peers(), "Egress") is None


def test_rules_name_peers_ports_and_the_node_and_end_with_a_denial() -> None:
    ray = (Allowed(frozenset({"10.0.0.2", "10.0.0.1"}), (Ports("TCP", 10, 19),)),)
    text = rules_of("10.0.0.254", ray, ray, [])
    incoming = [line for line in text.splitlines() if line.startswith("add rule inet pod in ")]
    assert [line.removeprefix("add rule inet pod in ") for line in incoming] == [
        "iif lo accept",
        "ct state established,related accept",
        "ip saddr 10.0.0.254 accept",
        "ip saddr { 10.0.0.1, 10.0.0.2 } tcp dport 10-19 accept",
        "drop",
    ]
    outgoing = [line for line in text.splitlines() if line.startswith("add rule inet pod out ")]
    assert outgoing[-1].endswith("drop")
    assert "ip saddr 10.0.0.254" not in "".join(outgoing)
    assert "add @passed" in outgoing[2]


def test_who_is_not_restricted_drops_nothing() -> None:
    assert "drop" not in rules_of("10.0.0.254", None, None, [])


def test_a_service_is_an_address_before_its_pods_and_refuses_without_any() -> None:
    two = ServiceRule("10.0.0.200", 80, (("10.0.0.1", 8000), ("10.0.0.2", 8000)))
    text = rules_of("10.0.0.254", None, None, [two])
    assert (
        "service ip daddr 10.0.0.200 tcp dport 80 "
        "dnat ip to numgen random mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 } : 8000"
    ) in text
    assert "nowhere ip daddr" not in text
    none = rules_of("10.0.0.254", None, None, [ServiceRule("10.0.0.200", 80, ())])
    assert "nowhere ip daddr 10.0.0.200 tcp dport 80 reject with tcp reset" in none
