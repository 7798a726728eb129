"""What is wrong with pods and with what makes them, which no schema says.

A check takes all objects and yields a sentence for each mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bitsift.cluster.serving.launch import STOP_TIMEOUT_S
from tests.k8s.rendered import Object, Pod, flags, pods, quantity, variables

SECRETS = {
    "bitsift-ray": {"auth_token"},
    "bitsift-keys": {"keys.json"},
    "bitsift-backup-key": {"key"},
}
"""Those that docs/kubernetes.md has the user make, and their keys."""
VERSION = "0.1.0"
_CRON = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_SLEEP = re.compile(r"sleep\s+(\d+)")
_LEAST_S = 1


def pod_mistakes(of: list[Object]) -> Iterator[str]:
    for pod in pods(of):
        checks = (
            _security, _images, _ports, _resources, _volumes, _references, _probes, _end, _disk,
            _memory_disk, _ray,
        )  # fmt: skip
        for check in checks:
            yield from (f"{pod.name}: {said}" for said in check(of, pod))


def workload_mistakes(of: list[Object]) -> Iterator[str]:
    for one in of:
        found: Iterator[str] = iter(())
        match one["kind"]:
            case "Deployment" | "StatefulSet":
                found = _selector(one)
            case "Job" | "CronJob":
                found = _job(one)
        yield from (f"{one['kind']} {one['metadata']['name']}: {said}" for said in found)
        if one["kind"] == "StatefulSet":
            yield from (f"{one['metadata']['name']}: {said}" for said in _stateful(of, one))


# --- what makes pods -------------------------------------------------------------------------


def _selector(one: Object) -> Iterator[str]:
    wanted = one["spec"]["selector"]["matchLabels"].items()
    if not wanted <= one["spec"]["template"]["metadata"]["labels"].items():
        yield "the selector does not match the labels of its pods"


def _job(one: Object) -> Iterator[str]:
    (pod,) = pods([one])
    if pod.spec.get("restartPolicy") not in ("Never", "OnFailure"):
        yield f"a job cannot have restartPolicy {pod.spec.get('restartPolicy')}"
    if one["kind"] == "CronJob":
        fields = one["spec"]["schedule"].split()
        if len(fields) != len(_CRON) or not all(map(_is_cron, fields, _CRON)):
            yield f"{one['spec']['schedule']!r} is no schedule"


def _is_cron(field: str, limits: tuple[int, int]) -> bool:
    numbers = [int(number) for number in re.findall(r"\d+", field.split("/")[0])]
    has_form = re.fullmatch(r"(\*|\d+(-\d+)?(,\d+(-\d+)?)*)(/\d+)?", field)
    return has_form is not None and all(limits[0] <= n <= limits[1] for n in numbers)


def _stateful(of: list[Object], one: Object) -> Iterator[str]:
    spec = one["spec"]
    services = {s["metadata"]["name"]: s["spec"] for s in of if s["kind"] == "Service"}
    service = services.get(spec.get("serviceName"))
    if service is None:
        yield f"there is no service {spec.get('serviceName')}"
    elif not service.get("publishNotReadyAddresses"):
        yield "a pod that is not ready yet has no name: publishNotReadyAddresses"
    if spec["replicas"] > 1 and spec.get("podManagementPolicy") != "Parallel":
        yield "OrderedReady: after a stop of all, the first pod would wait for the others"
    kept = spec.get("persistentVolumeClaimRetentionPolicy", {})
    if kept != {"whenDeleted": "Retain", "whenScaled": "Retain"}:
        yield "its volumes would go with it: persistentVolumeClaimRetentionPolicy"
    for claim in spec.get("volumeClaimTemplates", []):
        if claim.get("kind") != "PersistentVolumeClaim" or claim.get("apiVersion") != "v1":
            yield "a volumeClaimTemplate without apiVersion and kind is changed by the API server"


# --- a pod -----------------------------------------------------------------------------------


def _security(_: list[Object], pod: Pod) -> Iterator[str]:
    """Pod Security's profile ``restricted``, and a root that cannot be written."""
    whole = pod.spec.get("securityContext", {})
    if whole.get("runAsNonRoot") is not True or whole.get("runAsUser") in (None, 0):
        yield "it may run as root"
    if whole.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "it has no seccompProfile RuntimeDefault"
    if whole.get("fsGroupChangePolicy") != "OnRootMismatch" or not whole.get("fsGroup"):
        yield "its volumes may belong to root: fsGroup, fsGroupChangePolicy OnRootMismatch"
    if any(pod.spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "it is in a namespace of its node"
    for container in pod.containers:
        own = container.get("securityContext", {})
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            yield f"{container['name']} is privileged, or can be"
        if own.get("runAsUser") == 0 or own.get("runAsNonRoot") is False:
            yield f"{container['name']} runs as root"
        if own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{container['name']} keeps capabilities"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']} can write to its root"


def _images(_: list[Object], pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        if tag != VERSION:
            yield f"image {container['image']} is not of version {VERSION}"


def _ports(_: list[Object], pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        numbers = [port["containerPort"] for port in container.get("ports", [])]
        if not all(0 < number < 1 << 16 for number in numbers):
            yield f"there is no port {max(numbers)}"
        names = [port["name"] for port in container.get("ports", [])]
        if len(set(names)) < len(names) or len(set(numbers)) < len(numbers):
            yield "two ports have one name or one number"


def _resources(_: list[Object], pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        wanted = container.get("resources", {}).get("requests", {})
        most = container.get("resources", {}).get("limits", {})
        for name, value in most.items():
            if quantity(wanted.get(name, value)) > quantity(value):
                yield f"{container['name']} asks for more {name} than it may have"
        if "memory" not in most or wanted.get("memory") != most.get("memory"):
            yield f"{container['name']}: memory asked for is not the limit: another pod's pages go"
        if "ephemeral-storage" not in most or "cpu" not in wanted:
            yield f"{container['name']} does not say what it needs of disk or processors"


def _volumes(_: list[Object], pod: Pod) -> Iterator[str]:
    there = {volume["name"] for volume in pod.spec.get("volumes", [])}
    templates = pod.owner["spec"].get("volumeClaimTemplates", [])
    there |= {claim["metadata"]["name"] for claim in templates}
    mounted = {m["name"] for c in pod.containers for m in c.get("volumeMounts", [])}
    yield from (f"there is no volume {name}" for name in mounted - there)
    yield from (f"nothing mounts volume {name}" for name in there - mounted)


def _references(of: list[Object], pod: Pod) -> Iterator[str]:
    there = {(one["kind"], one["metadata"]["name"]): one for one in of}
    account = there.get(("ServiceAccount", str(pod.spec.get("serviceAccountName"))))
    if account is None:
        yield f"there is no account {pod.spec.get('serviceAccountName')}"
    elif account.get("automountServiceAccountToken") is not False:
        yield "its account's token is mounted"
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "a token is mounted"
    if pod.spec.get("enableServiceLinks") is not False:
        yield "names of services become variables, of which one may be a setting"
    for kind, name, key in _named(pod):
        if kind == "Secret" and (name not in SECRETS or key not in SECRETS[name] | {None}):
            yield f"nobody is told to make a Secret {name} with {key}"
        if kind != "Secret" and (kind, name) not in there:
            yield f"there is no {kind} {name}"


def _named(pod: Pod) -> Iterator[tuple[str, str, str | None]]:
    for container in pod.containers:
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"], None
        for entry in container.get("env", []):
            secret = entry.get("valueFrom", {}).get("secretKeyRef")
            if secret is not None:
                yield "Secret", secret["name"], secret["key"]
    for volume in pod.spec.get("volumes", []):
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"], None
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"], None
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], None


def _probes(_: list[Object], pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        there = {port["name"] for port in container.get("ports", [])}
        there |= {port["containerPort"] for port in container.get("ports", [])}
        kinds = ("startupProbe", "livenessProbe", "readinessProbe")
        probes = {kind: container[kind] for kind in kinds if kind in container}
        for kind, probe in probes.items():
            asked = probe.get("httpGet") or probe.get("tcpSocket")
            if asked is not None and asked["port"] not in there:
                yield f"{kind} asks port {asked['port']}, which is none of {container['name']}"
        if container in pod.ray_nodes and set(probes) != set(kinds):
            yield f"it lacks {sorted(set(kinds) - set(probes))}: a slow start would be a dead pod"
        if "tcpSocket" not in probes.get("livenessProbe", {"tcpSocket": {}}):
            yield "liveness depends on what is not of this process: pods would end each other"


def _seconds_before(container: Object) -> float:
    before = container.get("lifecycle", {}).get("preStop", {})
    command = " ".join(before.get("exec", {}).get("command", []))
    slept = _SLEEP.search(command)
    return float(before.get("sleep", {}).get("seconds") or (slept[1] if slept else 0))


def _end(of: list[Object], pod: Pod) -> Iterator[str]:
    """The grace period holds all that comes before the end."""
    grace_s = pod.spec.get("terminationGracePeriodSeconds", 30)
    for container in pod.ray_nodes:
        before_s = _seconds_before(container)
        drain = variables(of, container).get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30)
        if before_s < _LEAST_S:
            yield "no preStop: calls still come while it ends"
        if before_s + float(drain) + 2 * STOP_TIMEOUT_S >= grace_s:
            yield f"it is killed after {grace_s} s, within preStop, Ray's drain or closing"


def _writable(pod: Pod, container: Object) -> dict[str, Object]:
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    mounts = container.get("volumeMounts", [])
    return {m["mountPath"]: volumes[m["name"]] for m in mounts if m["name"] in volumes}


def _disk(of: list[Object], pod: Pod) -> Iterator[str]:
    """What Ray and Bitsift write to besides their volumes."""
    for container in pod.containers:
        if "emptyDir" not in _writable(pod, container).get("/tmp", {}):
            yield f"{container['name']} cannot write to /tmp"
        names = variables(of, container)
        if names.get("HOME") != "/tmp" or not str(names.get("XDG_CACHE_HOME")).startswith("/tmp/"):
            yield f"{container['name']} keeps its caches where it cannot write"
    for volume in pod.spec.get("volumes", []):
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"{volume['name']} may fill its node"


def _memory_disk(_: list[Object], pod: Pod) -> Iterator[str]:
    """/dev/shm is charged to the memory of the container."""
    for container in pod.containers:
        shared = _writable(pod, container).get("/dev/shm", {}).get("emptyDir", {})
        if shared.get("medium") != "Memory" or "sizeLimit" not in shared:
            yield f"{container['name']} has no /dev/shm of a size that is said"
            continue
        size = quantity(shared["sizeLimit"])
        limit = quantity(container.get("resources", {}).get("limits", {}).get("memory", 0))
        if size > limit / 2:
            yield f"/dev/shm takes {size:,.0f} of {limit:,.0f} bytes of {container['name']}"
        store = _object_store(pod, container)
        if store is not None and store > size:
            yield f"Ray's object store of {store:,.0f} bytes is larger than /dev/shm"


def _object_store(pod: Pod, container: Object) -> float | None:
    from bitsift.cluster.serving.ray_cluster import OBJECT_STORE_BYTES

    given: Any = flags(container).get("--object-store-memory")
    if container.get("args", [""])[0] == "index":
        return OBJECT_STORE_BYTES
    if given is None and pod.by_operator:
        given = pod.owner["spec"]["headGroupSpec"]["rayStartParams"].get("object-store-memory", 0)
    return None if given is None else float(given)


def _ray(of: list[Object], pod: Pod) -> Iterator[str]:
    """A node of Ray: its ports are fixed, its token is given, it waits for a head that returns.

    Without a number of processors it starts a process for each that the machine has.
    """
    for container in pod.ray_nodes:
        names, given = variables(of, container), flags(container)
        if names.get("RAY_AUTH_MODE") != "token":
            yield "it asks for no token"
        if "RAY_AUTH_TOKEN" not in names and not pod.by_operator:
            yield "it has no token, and would make a file in a home that it cannot write"
        if float(names.get("RAY_gcs_rpc_server_reconnect_timeout_s", 60)) < 300:
            yield "it ends before the head's volume can be attached to another node"
        if pod.by_operator and "args" not in container:
            head = pod.owner["spec"]["headGroupSpec"]["rayStartParams"]
            given = {f"--{name}": value for name, value in head.items()}
            given["--node-ip-address"] = "by the operator"
        for flag in (
            "--node-manager-port", "--object-manager-port", "--min-worker-port",
            "--max-worker-port", "--node-ip-address", "--object-store-memory", "--num-cpus",
        ):  # fmt: skip
            if flag not in given:
                yield f"{flag} is not fixed"
        if "--head" in given and names.get("RAY_gcs_storage") != "rocksdb":
            yield "the head's tables are in its RAM"
