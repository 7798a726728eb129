"""What is wrong with services, budgets, policies and the rest, which no schema says."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from bitsift.cluster.serving.configured import SEARCH_PORTS
from tests.k8s.rendered import Object, Pod, pods, quantity, variables

_REPLICAS = re.compile(r"^replicas = (\d+)$", re.M)
_ROUTERS = re.compile(r"^routers = (\d+)$", re.M)
_SEARCH_PORT = re.compile(r"^search_port = (\d+)\b", re.M)
PORT_MAX = (1 << 16) - 1


def other_mistakes(of: list[Object]) -> Iterator[str]:
    names = [(one["kind"], one["metadata"]["name"]) for one in of]
    yield from (
        f"{kind} {name} is there twice" for kind, name in {*names} if names.count((kind, name)) > 1
    )
    checks = {
        "Service": _service,
        "PodDisruptionBudget": _budget,
        "NetworkPolicy": _policy,
        "HorizontalPodAutoscaler": _scaler,
        "PersistentVolumeClaim": _claim,
        "StatefulSet": _claims,
        "Job": _work_volumes,
        "CronJob": _work_volumes,
    }
    for one in of:
        check = checks.get(one["kind"])
        found = check(of, one) if check is not None else ()
        yield from (f"{one['kind']} {one['metadata']['name']}: {said}" for said in found)
    yield from _namespace(of)
    yield from _network(of)
    yield from _searches(of)
    yield from _reach(of)


def _selected(of: list[Object], labels: dict[str, str]) -> list[Pod]:
    return [pod for pod in pods(of) if labels.items() <= pod.labels.items()]


def _spec(of: list[Object], pattern: re.Pattern[str]) -> int:
    (text,) = (
        one["data"]["spec.toml"]
        for one in of
        if one["kind"] == "ConfigMap" and "spec.toml" in one["data"]
    )
    found = pattern.search(text)
    assert found is not None
    return int(found[1])


def _service(of: list[Object], one: Object) -> Iterator[str]:
    found = _selected(of, one["spec"]["selector"])
    if not found:
        yield "it selects no pod"
    for pod in found:
        names = {port["name"] for c in pod.containers for port in c.get("ports", [])}
        for port in one["spec"]["ports"]:
            if port.get("targetPort") not in names:
                yield f"{pod.name} has no port {port.get('targetPort')}"


def _budget(of: list[Object], one: Object) -> Iterator[str]:
    spec = one["spec"]
    if ("minAvailable" in spec) == ("maxUnavailable" in spec):
        yield "give either minAvailable or maxUnavailable"
    if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
        yield "a pod that cannot get ready blocks every drain: unhealthyPodEvictionPolicy"
    found = _selected(of, spec["selector"]["matchLabels"])
    if not found:
        yield "it selects no pod"
    if spec["selector"]["matchLabels"].get("app.kubernetes.io/component") == "shard":
        most = _spec(of, _REPLICAS) - 1
        if spec.get("maxUnavailable", most + 1) > most:
            yield f"all copies of a shard may go at once: at most {most}"


def _policy(_: list[Object], one: Object) -> Iterator[str]:
    spec = one["spec"]
    if not spec.get("policyTypes") or {*spec["policyTypes"]} - {"Ingress", "Egress"}:
        yield f"policyTypes {spec.get('policyTypes')}"
    for kind in ("ingress", "egress"):
        if kind in spec and kind.capitalize() not in spec["policyTypes"]:
            yield f"{kind} without its policyType is nothing"
        for rule in spec.get(kind, []):
            if not rule.get("from" if kind == "ingress" else "to") or not rule.get("ports"):
                yield f"a rule of {kind} allows everything"
            for port in rule.get("ports", []):
                first, last = port.get("port"), port.get("endPort", port.get("port"))
                if port.get("protocol") not in ("TCP", "UDP"):
                    yield f"protocol {port.get('protocol')}"
                is_port = isinstance(first, int) and 0 < first <= last <= PORT_MAX
                if not is_port:
                    yield f"there is no port {first}-{last}"


def _searches(of: list[Object]) -> Iterator[str]:
    """Without its ports, searches go through Ray, and nothing but a line of the log says so."""
    first = _spec(of, _SEARCH_PORT)
    policy = next(
        one["spec"]
        for one in of
        if (one["kind"], one["metadata"]["name"]) == ("NetworkPolicy", "ray")
    )
    for way in ("ingress", "egress"):
        opened = [port for rule in policy.get(way, []) for port in rule.get("ports", [])]
        last = first + SEARCH_PORTS - 1
        if not any(port["port"] <= first and last <= port.get("endPort", 0) for port in opened):
            yield f"no rule of {way} opens {first}-{last}, where shards take searches"


def _reach(of: list[Object]) -> Iterator[str]:
    """Policies that are for nobody, or open ports that nothing listens on."""
    for one in of:
        if one["kind"] != "NetworkPolicy":
            continue
        name, spec = one["metadata"]["name"], one["spec"]
        there = _selected(of, spec["podSelector"].get("matchLabels", {}))
        if not there:
            yield f"NetworkPolicy {name}: it is for no pod"
        for rule in spec.get("ingress", []):
            yield from (
                f"NetworkPolicy {name}: {said}" for said in _opened(of, there, rule, "from")
            )
        for rule in spec.get("egress", []):
            for peer in rule.get("to", []):
                if "ipBlock" in peer:
                    yield from (f"NetworkPolicy {name}: {said}" for said in _block(peer["ipBlock"]))
                elif "namespaceSelector" not in peer:
                    others = _selected(of, peer["podSelector"]["matchLabels"])
                    found = _opened(of, others, rule, "to")
                    yield from (f"NetworkPolicy {name}: {said}" for said in found)


def _block(block: Object) -> Iterator[str]:
    try:
        whole = ipaddress.ip_network(block["cidr"])
        for part in map(ipaddress.ip_network, block.get("except", [])):
            if part.version != whole.version or not part.subnet_of(whole):  # type: ignore[arg-type]
                yield f"{part} is not within {whole}"
    except ValueError as error:
        yield str(error)


def _opened(of: list[Object], there: list[Pod], rule: Object, peers: str) -> Iterator[str]:
    known = {
        port["containerPort"] for p in there for c in p.containers for port in c.get("ports", [])
    }
    for port in rule.get("ports", []):
        if "endPort" not in port and port.get("port") not in known:
            yield f"nothing listens on port {port.get('port')}"
    for peer in rule.get(peers, []):
        labels = peer.get("podSelector", {}).get("matchLabels")
        if labels is not None and not _selected(of, labels):
            yield f"no pod has {labels}"


def _scaler(of: list[Object], one: Object) -> Iterator[str]:
    spec = one["spec"]
    if not 0 < spec["minReplicas"] <= spec["maxReplicas"]:
        yield f"minReplicas {spec['minReplicas']}, maxReplicas {spec['maxReplicas']}"
    if spec["maxReplicas"] > _spec(of, _ROUTERS):
        yield "pods beyond routers of spec.toml would never be ready"
    target = spec["scaleTargetRef"]
    if (target["kind"], target["name"]) not in {(o["kind"], o["metadata"]["name"]) for o in of}:
        yield f"there is no {target['kind']} {target['name']}"


def _claim(_: list[Object], one: Object) -> Iterator[str]:
    try:
        quantity(one["spec"]["resources"]["requests"]["storage"])
    except ValueError as error:
        yield str(error)


def _claims(of: list[Object], one: Object) -> Iterator[str]:
    for claim in one["spec"].get("volumeClaimTemplates", []):
        yield from _claim(of, claim)


def _work_volumes(of: list[Object], one: Object) -> Iterator[str]:
    for pod in pods([one]):
        for volume in pod.spec.get("volumes", []):
            if "ephemeral" in volume:
                yield from _claim(of, volume["ephemeral"]["volumeClaimTemplate"])


def _namespace(of: list[Object]) -> Iterator[str]:
    (space,) = (one for one in of if one["kind"] == "Namespace")
    enforced = space["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
    if enforced != "restricted":
        yield f"the namespace lets pods do what they like: {enforced}"
    for one in of:
        if one is not space and one["metadata"].get("namespace") != space["metadata"]["name"]:
            yield f"{one['kind']} {one['metadata']['name']} is in another namespace"


def _network(of: list[Object]) -> Iterator[str]:
    policies = [one["spec"] for one in of if one["kind"] == "NetworkPolicy"]
    both = ["Egress", "Ingress"]
    if not any(p["podSelector"] == {} and sorted(p["policyTypes"]) == both for p in policies):
        yield "nothing denies what no policy allows"
    asked = [
        (port.get("protocol"), port.get("port"))
        for policy in policies
        if policy["podSelector"] == {}
        for rule in policy.get("egress", [])
        for port in rule["ports"]
    ]
    if {("UDP", 53), ("TCP", 53)} - {*asked}:
        yield "no pod can resolve a name: egress to DNS"
    for pod in pods(of):
        for container in pod.containers:
            names = variables(of, container)
            is_client = "BITSIFT_API_KEY" in names
            if is_client and "bitsift-client" not in pod.labels:
                yield f"{pod.name} may not reach the routers: label bitsift-client"
