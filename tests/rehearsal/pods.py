"""What a pod of the manifests is when it runs: its names filled in, its volumes found.

Pure: objects as kubectl renders them go in, ``PlannedPod`` comes out. Only what Bitsift's manifests
use is known; anything else is an error, so that nothing of them is left out in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.k8s.rendered import Object, quantity

ZONE_LABEL = "topology.kubernetes.io/zone"
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_LABEL = re.compile(r"metadata\.labels\['([^']+)'\]")
_CONTAINER = {
    "name", "image", "imagePullPolicy", "command", "args", "env", "envFrom", "ports", "resources",
    "startupProbe", "livenessProbe", "readinessProbe", "lifecycle", "securityContext",
    "volumeMounts",
}  # fmt: skip
_POD = {
    "serviceAccountName", "enableServiceLinks", "automountServiceAccountToken", "securityContext",
    "terminationGracePeriodSeconds", "affinity", "topologySpreadConstraints", "containers",
    "initContainers", "volumes", "restartPolicy",
}  # fmt: skip
_PROBE = {
    "tcpSocket", "httpGet", "exec", "periodSeconds", "timeoutSeconds", "failureThreshold",
    "successThreshold", "initialDelaySeconds",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Probe:
    """One of ``port`` alone (TCP), ``port`` and ``path`` (HTTP) and ``command``."""

    port: int | None = None
    path: str | None = None
    command: tuple[str, ...] = ()
    delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    failures: int = 3
    successes: int = 1


@dataclass(frozen=True, slots=True)
class Disk:
    """An emptyDir, of its own for each pod; ``in_memory`` of so many bytes at most."""

    name: str
    size_bytes: int
    in_memory: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A volume that outlives the pod, unless it ``is_ephemeral``."""

    name: str
    size_bytes: int
    is_ephemeral: bool = False


@dataclass(frozen=True, slots=True)
class Files:
    """A Secret or a ConfigMap, whose files change when it does."""

    kind: str
    name: str
    mode: int


Volume = Disk | Claim | Files


@dataclass(frozen=True, slots=True)
class Mount:
    path: str
    volume: Volume
    read_only: bool


@dataclass(frozen=True, slots=True)
class Container:
    """What one process tree of a pod is given."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    memory_bytes: int
    cpus: float
    can_write_root: bool
    capabilities: tuple[str, ...]
    can_gain_privileges: bool
    startup: Probe | None
    liveness: Probe | None
    readiness: Probe | None
    pre_stop_s: float


@dataclass(frozen=True, slots=True)
class PlannedPod:
    """A pod with a name, on a node, at an address."""

    name: str
    address: str
    labels: Mapping[str, str]
    uid: int
    gid: int
    fs_group: int
    uses_seccomp: bool
    grace_s: float
    restarts: bool
    init: tuple[Container, ...]
    containers: tuple[Container, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """The objects that pods refer to, by kind and name: files and variables by their keys."""

    config_maps: Mapping[str, Mapping[str, str]]
    secrets: Mapping[str, Mapping[str, str]]
    claims: Mapping[str, Object] = field(default_factory=dict)

    def of(self, kind: str, name: str) -> Mapping[str, str]:
        return (self.config_maps if kind == "ConfigMap" else self.secrets)[name]


def planned(
    template: Object,
    *,
    name: str,
    address: str,
    zone: str,
    contents: Contents,
    claim_templates: tuple[Object, ...] = (),
) -> PlannedPod:
    """The pod of this ``name`` and IPv4 ``address``. Raises KeyError for what nobody has made, and
    AssertionError for what is not known here.
    """
    spec = template["spec"]
    _only(spec, _POD, "a pod")
    security = spec["securityContext"]
    assert security["runAsNonRoot"], f"{name} may run as root"
    labels = {**template["metadata"]["labels"], ZONE_LABEL: zone}
    facts = {"metadata.name": name, "status.podIP": address}
    volumes = _volumes(spec, name, contents, claim_templates)

    def container(one: Object) -> Container:
        return _container(one, volumes, contents, facts, labels)

    return PlannedPod(
        name=name,
        address=address,
        labels=labels,
        uid=security["runAsUser"],
        gid=security["runAsGroup"],
        fs_group=security["fsGroup"],
        uses_seccomp=security["seccompProfile"] == {"type": "RuntimeDefault"},
        grace_s=float(spec["terminationGracePeriodSeconds"]),
        restarts=spec.get("restartPolicy", "Always") == "Always",
        init=tuple(container(one) for one in spec.get("initContainers", [])),
        containers=tuple(container(one) for one in spec["containers"]),
    )


def _only(found: Object, known: set[str], where: str) -> None:
    assert found.keys() <= known, f"{where} has what the rehearsal does not know: {found}"


# --- a container -------------------------------------------------------------------------------


def _container(
    one: Object,
    volumes: Mapping[str, Volume],
    contents: Contents,
    facts: Mapping[str, str],
    labels: Mapping[str, str],
) -> Container:
    _only(one, _CONTAINER, one["name"])
    environment = _environment(one, contents, facts, labels)
    ports = {port["name"]: port["containerPort"] for port in one.get("ports", [])}
    own = one["securityContext"]
    dropped = own.get("capabilities", {}).get("drop", [])
    return Container(
        name=one["name"],
        image=one["image"],
        command=tuple(
            expanded(str(word), environment)
            for word in [*one.get("command", []), *one.get("args", [])]
        ),
        environment=environment,
        mounts=tuple(
            Mount(it["mountPath"], volumes[it["name"]], it.get("readOnly", False))
            for it in one.get("volumeMounts", [])
        ),
        memory_bytes=int(quantity(one["resources"]["limits"]["memory"])),
        cpus=quantity(one["resources"]["requests"]["cpu"]),
        can_write_root=not own.get("readOnlyRootFilesystem", False),
        capabilities=() if dropped == ["ALL"] else ("CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"),
        can_gain_privileges=own.get("allowPrivilegeEscalation", True),
        startup=probe(one.get("startupProbe"), ports),
        liveness=probe(one.get("livenessProbe"), ports),
        readiness=probe(one.get("readinessProbe"), ports),
        pre_stop_s=_pre_stop_s(one),
    )


def _environment(
    one: Object, contents: Contents, facts: Mapping[str, str], labels: Mapping[str, str]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in one.get("envFrom", []):
        found |= contents.config_maps[source["configMapRef"]["name"]]
    for entry in one.get("env", []):
        found[entry["name"]] = _value(entry, contents, facts, labels, found)
    return found


def _value(
    entry: Object,
    contents: Contents,
    facts: Mapping[str, str],
    labels: Mapping[str, str],
    before: Mapping[str, str],
) -> str:
    if "value" in entry:
        return expanded(entry["value"], before)
    (kind, source) = next(iter(entry["valueFrom"].items()))
    if kind == "secretKeyRef":
        return contents.secrets[source["name"]][source["key"]]
    assert kind == "fieldRef", entry
    label = _LABEL.fullmatch(source["fieldPath"])
    return labels.get(label[1], "") if label else facts[source["fieldPath"]]


def expanded(text: str, environment: Mapping[str, str]) -> str:
    """``$(NAME)`` replaced, where there is such a variable, as a kubelet does."""
    return _VARIABLE.sub(lambda found: environment.get(found[1], found[0]), text)


def probe(one: Object | None, ports: Mapping[str, int]) -> Probe | None:
    """The probe that a manifest describes; a port may be named."""
    if one is None:
        return None
    _only(one, _PROBE, "a probe")
    asked = one.get("httpGet") or one.get("tcpSocket") or {}
    port = asked.get("port")
    return Probe(
        port=ports[port] if isinstance(port, str) else port,
        path=asked.get("path"),
        command=tuple(one.get("exec", {}).get("command", ())),
        delay_s=one.get("initialDelaySeconds", 0),
        period_s=one.get("periodSeconds", 10),
        timeout_s=one.get("timeoutSeconds", 1),
        failures=one.get("failureThreshold", 3),
        successes=one.get("successThreshold", 1),
    )


def _pre_stop_s(one: Object) -> float:
    before = one.get("lifecycle", {}).get("preStop")
    if before is None:
        return 0.0
    _only(before, {"sleep"}, "preStop")
    return float(before["sleep"]["seconds"])


# --- volumes -----------------------------------------------------------------------------------


def _volumes(
    spec: Object, pod: str, contents: Contents, templates: tuple[Object, ...]
) -> dict[str, Volume]:
    found = {one["name"]: _volume(one, pod, contents) for one in spec.get("volumes", [])}
    for claim in templates:
        name = claim["metadata"]["name"]
        found[name] = Claim(f"{name}-{pod}", _claimed(claim["spec"]))
    return found


def _volume(one: Object, pod: str, contents: Contents) -> Volume:
    (kind,) = one.keys() - {"name"}
    how: Any = one[kind]
    match kind:
        case "emptyDir":
            return Disk(one["name"], int(quantity(how["sizeLimit"])), how.get("medium") == "Memory")
        case "secret":
            assert how["secretName"] in contents.secrets, how
            return Files("Secret", how["secretName"], how.get("defaultMode", 0o644))
        case "configMap":
            assert how["name"] in contents.config_maps, how
            return Files("ConfigMap", how["name"], how.get("defaultMode", 0o644))
        case "persistentVolumeClaim":
            return Claim(how["claimName"], _claimed(contents.claims[how["claimName"]]["spec"]))
        case "ephemeral":
            size = _claimed(how["volumeClaimTemplate"]["spec"])
            return Claim(f"{pod}-{one['name']}", size, is_ephemeral=True)
    raise AssertionError(f"the rehearsal knows no volume {one}")


def _claimed(spec: Object) -> int:
    return int(quantity(spec["resources"]["requests"]["storage"]))
