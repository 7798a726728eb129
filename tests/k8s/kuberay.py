"""What KubeRay's operator refuses, or does in silence, which the schema of its CRD does not say.

From ray-operator/controllers/ray/utils/validation.go and util.go of KubeRay 1.7.0.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.k8s.rendered import Object

NAME_MAX = 53
_OWN_STORE = ("RAY_gcs_storage", "RAY_gcs_storage_path", "RAY_REDIS_ADDRESS")


def ray_cluster_mistakes(of: list[Object]) -> Iterator[str]:
    for one in of:
        if one["kind"] == "RayCluster":
            name = one["metadata"]["name"]
            yield from (f"RayCluster {name}: {said}" for said in _mistakes(name, one["spec"]))


def _mistakes(name: str, spec: Object) -> Iterator[str]:
    if len(name) > NAME_MAX:
        yield f"a name has at most {NAME_MAX} characters"
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions without mode: token asks for no token"
    if spec.get("authOptions", {}).get("secretName") != "bitsift-ray":
        yield "the operator would make a token of its own, which the shards do not have"
    if _version(spec.get("rayVersion")) < (2, 57):
        yield "rayVersion must be set: tokens need 2.52, a control store on disk 2.57"
    if spec.get("gcsFaultToleranceOptions", {}).get("backend") != "rocksdb":
        yield "the head's tables are in its RAM"
    if spec.get("managedBy", "ray.io/kuberay-operator") != "ray.io/kuberay-operator":
        yield "managedBy: this operator would leave it alone"
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        yield from _group(group)
    for group in spec["workerGroupSpecs"]:
        if not group["minReplicas"] <= group.get("replicas", 0) <= group["maxReplicas"]:
            yield f"group {group['groupName']}: minReplicas, replicas, maxReplicas"
        if not all("args" in c for c in group["template"]["spec"]["containers"]):
            yield "the operator writes the command: no label of a pod's own name"
        if _annotation(group) != "true":
            yield "ray.io/overwrite-container-cmd: the operator ignores the command"


def _version(text: object) -> tuple[int, ...]:
    return tuple(map(int, str(text).split("."))) if text else ()


def _annotation(group: Object) -> str | None:
    found = group["template"]["metadata"].get("annotations", {})
    value: str | None = found.get("ray.io/overwrite-container-cmd")
    return value


def _group(group: Object) -> Iterator[str]:
    if "labels" in group["rayStartParams"] or "resources" in group["rayStartParams"]:
        yield "labels and resources in rayStartParams are refused"
    if not all(isinstance(value, str) for value in group["rayStartParams"].values()):
        yield "rayStartParams are texts"
    for container in group["template"]["spec"]["containers"]:
        own = [entry["name"] for entry in container.get("env", [])]
        yield from (f"{name} is the operator's to set" for name in own if name in _OWN_STORE)
