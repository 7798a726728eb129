"""The manifests of k8s/: sound as they are, and true to what the code has.

What an overlay changes is kept in ``golden``, for kustomize ignores a patch that matches nothing.
After a change that is meant: ``python -m tests.k8s.test_manifests`` writes them again.
"""

from __future__ import annotations

import difflib
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
import typer.main
import yaml
from ray.scripts.scripts import start

from bitsift.cluster.cli.main import app
from bitsift.cluster.fleet import readiness
from bitsift.cluster.fleet.actors import NODE_LABEL, ROLE_LABEL, ROUTER_ROLE, ZONE_LABELS
from bitsift.cluster.fleet.spec import ClusterSpec, read_spec
from bitsift.config.fields import BY_VARIABLE
from bitsift.config.sources import KEY_VARIABLE
from bitsift.router.http.hosts import HostList
from tests.k8s.mistakes import mistakes
from tests.k8s.rendered import (
    MANIFESTS,
    OVERLAYS,
    ROOT,
    Object,
    Pod,
    called,
    flags,
    objects,
    pods,
    rendered,
    variables,
)
from tests.k8s.schemas import booleans_of_yaml_1_1
from tests.k8s.workloads import SECRETS, VERSION

GOLDEN = Path(__file__).with_name("golden")
RAYS_OWN = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_gcs_storage", "RAY_gcs_storage_path"}
"""Documented by Ray; tests/k8s/workloads.py says why each is needed."""
OTHERS = {"HOME", "HF_HUB_OFFLINE", "POD_IP", "POD_NAME", "XDG_CACHE_HOME", "ZONE"}
EDITS_MAX = 10
CODE = ("bitsift", "cluster", "router", "shard_worker")
every = pytest.mark.parametrize("name", ["base", *OVERLAYS])


def difference(name: str) -> str:
    """Between the base and an overlay."""
    base, overlay = rendered("base").splitlines(), rendered(name).splitlines()
    return "\n".join(difflib.unified_diff(base, overlay, "base", name, lineterm="", n=2)) + "\n"


def containers(name: str) -> list[tuple[Pod, Object]]:
    return [(pod, container) for pod in pods(objects(name)) for container in pod.containers]


def template(of: list[Object], kind: str, name: str) -> Object:
    """What its pods are made from."""
    found: Object = called(of, kind, name)["spec"]["template"]["spec"]
    return found


def spec_of(name: str, folder: Path) -> ClusterSpec:
    """Read as `bitsift cluster up` reads it."""
    path = folder / "spec.toml"
    path.write_text(called(objects(name), "ConfigMap", "bitsift-spec")["data"]["spec.toml"])
    return read_spec(path)


@every
def test_nothing_is_wrong(name: str) -> None:
    assert not list(mistakes(objects(name)))


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_changes_what_it_should(name: str) -> None:
    assert difference(name) == (GOLDEN / f"{name}.diff").read_text()


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_patch_has_something_to_change(name: str) -> None:
    """Kustomize says nothing of one that has not, and the golden files would be written without."""
    found = yaml.safe_load((MANIFESTS / "overlays" / name / "kustomization.yaml").read_text())
    parent = Path(found["resources"][0]).name
    there = [(one["kind"], one["metadata"]["name"]) for one in objects(parent)]
    assert found["patches"]
    for patch in found["patches"]:
        own = yaml.safe_load(patch["patch"])
        target = patch.get("target") or {"kind": own["kind"], "name": own["metadata"]["name"]}
        wanted = re.compile(target["kind"]), re.compile(target.get("name", ".*"))
        assert any(wanted[0].fullmatch(kind) and wanted[1].fullmatch(it) for kind, it in there), (
            target
        )
    for image in found.get("images", []):
        assert f"{image.get('newName', image['name'])}:{image['newTag']}" in rendered(name)


def test_no_word_is_a_boolean_for_kubectl_alone() -> None:
    files = [*MANIFESTS.rglob("*.yaml")]
    assert len(files) > len(OVERLAYS)
    assert not [said for file in files for said in booleans_of_yaml_1_1(file.read_text())]


def test_the_version_of_the_images_is_that_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_few_lines_of_one_file_are_to_be_edited() -> None:
    text = (MANIFESTS / "overlays" / "production" / "kustomization.yaml").read_text()
    assert 0 < text.count("# edit") <= EDITS_MAX


@every
def test_what_the_spec_names_is_there(name: str, tmp_path: Path) -> None:
    spec = spec_of(name, tmp_path)
    assert spec.access.keys is not None
    for pod, container in containers(name):
        if not pod.is_ray:
            continue
        mounts = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]

        def is_mounted(path: object, mounts: list[Path] = mounts) -> bool:
            return any(Path(str(path)).is_relative_to(mount) for mount in mounts)

        component = pod.labels["app.kubernetes.io/component"]
        assert is_mounted(spec.placement.data) == (component in ("shard", "router"))
        assert is_mounted(spec.access.keys) == (component in ("router", "control"))
        assert is_mounted(spec.index.backup) == (component in ("shard", "router"))
    assert spec.access.backup_root is not None
    assert Path(str(spec.index.backup)).is_relative_to(spec.access.backup_root)
    assert spec.access.keys.name in SECRETS["bitsift-keys"]


@every
def test_the_spec_fits_the_pods(name: str, tmp_path: Path) -> None:
    spec, of = spec_of(name, tmp_path), objects(name)
    assert called(of, "StatefulSet", "bitsift-shard")["spec"]["replicas"] >= spec.placement.replicas
    service = called(of, "Service", "bitsift")
    assert [port["port"] for port in service["spec"]["ports"]] == [spec.serve.port]
    hosts = HostList(spec.serve.host, spec.access.allowed_hosts)
    space = service["metadata"]["namespace"]
    for more in ("", f".{space}", f".{space}.svc", f".{space}.svc.cluster.local"):
        assert f"bitsift{more}" in hosts
    assert "10.1.2.3" in hosts  # a kubelet asks by the address of the pod
    routers = [
        one
        for pod, one in containers(name)
        if pod.labels.get("app.kubernetes.io/component") == "router"
    ]
    for container in routers:
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["http"] == spec.serve.port
    (shard,) = template(of, "StatefulSet", "bitsift-shard")["containers"]
    assert {"name": "ready", "containerPort": spec.placement.ready_port} in shard["ports"]
    assert shard["readinessProbe"]["httpGet"] == {"path": readiness.PATH, "port": "ready"}


@every
def test_a_probe_over_http_asks_a_route_that_needs_no_key(name: str) -> None:
    source = (ROOT / "router" / "http" / "gateway.py").read_text()
    routes = {*re.findall(r'@app.get\("([^"]+)"\)', source), readiness.PATH}
    probes = [
        container[kind]["httpGet"]
        for _, container in containers(name)
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
        if "httpGet" in container.get(kind, {})
    ]
    assert probes
    assert {probe["path"] for probe in probes} <= routes


@every
def test_labels_of_ray_nodes_are_those_of_the_code(name: str) -> None:
    found = {
        pod.labels["app.kubernetes.io/component"]: dict(
            pair.split("=") for pair in flags(container)["--labels"].split(",")
        )
        for pod, container in containers(name)
        if "--labels" in flags(container)
    }
    assert found == {
        "shard": {NODE_LABEL: "$(POD_NAME)", ZONE_LABELS[0]: "$(ZONE)"},
        "router": {NODE_LABEL: "$(POD_NAME)", ROLE_LABEL: ROUTER_ROLE},
    }


@every
def test_flags_of_ray_exist(name: str) -> None:
    known = {option for parameter in start.params for option in parameter.opts}
    used = {flag for pod, one in containers(name) if pod.is_ray for flag in flags(one)}
    for one in objects(name):
        if one["kind"] == "RayCluster":
            used |= {f"--{flag}" for flag in one["spec"]["headGroupSpec"]["rayStartParams"]}
    assert used - known == {"--no-wait"}  # of bitsift cluster up, in the same line


@every
def test_the_address_of_ray_is_that_of_its_service(name: str) -> None:
    used = {flags(container).get("--address") for _, container in containers(name)} - {None}
    used |= {variables([], c).get("BITSIFT_RAY_ADDRESS") for _, c in containers(name)}
    used -= {None, "$BITSIFT_RAY_ADDRESS"}
    assert used == {"bitsift-head-svc:6379"}
    of = objects(name)
    if any(one["kind"] == "RayCluster" for one in of):
        assert called(of, "RayCluster", "bitsift")  # the operator makes NAME-head-svc
    else:
        assert called(of, "Service", "bitsift-head-svc")["spec"]["ports"][0]["port"] == 6379


@every
def test_ports_of_policies_are_those_that_ray_is_given(name: str) -> None:
    policies = {
        one["metadata"]["name"]: one["spec"]
        for one in objects(name)
        if one["kind"] == "NetworkPolicy"
    }
    (rule,) = policies["ray"]["ingress"]
    single = {str(port["port"]) for port in rule["ports"] if "endPort" not in port}
    ranges = {(str(p["port"]), str(p["endPort"])) for p in rule["ports"] if "endPort" in p}
    assert len(ranges) == 2  # processes, and searches (others.py)
    given = [flags(one) for pod, one in containers(name) if pod.is_ray and "args" in one]
    assert given
    for one in given:
        assert {one["--node-manager-port"], one["--object-manager-port"]} == single
        assert (one["--min-worker-port"], one["--max-worker-port"]) in ranges


@every
def test_variables_exist_in_the_code(name: str) -> None:
    text = "".join(path.read_text() for folder in CODE for path in (ROOT / folder).rglob("*.py"))
    raylet = (Path(ray.__file__).parent / "_raylet.so").read_bytes()
    constants = (Path(ray.__file__).parent / "_private" / "ray_constants.py").read_text()
    of = objects(name)
    used = {variable for _, container in containers(name) for variable in variables(of, container)}
    for variable in used - OTHERS:
        if variable.startswith("BITSIFT_"):
            assert variable in {*BY_VARIABLE, KEY_VARIABLE}
        else:
            setting = variable.removeprefix("RAY_")
            is_there = variable in text or variable in constants or setting.encode() in raylet
            assert is_there or variable in RAYS_OWN, variable


def command_lines(container: Object) -> list[list[str]]:
    """Calls of bitsift, each in words."""
    words = container.get("command", [])[2:] + container.get("args", [])
    if words[:2] == ["sh", "-c"]:
        calls = [shlex.split(call) for call in words[2].split("&&")]
        return [call[1:] for call in calls if call[0] == "bitsift"]
    return [words[1:]] if words[:1] == ["bitsift"] else []


@every
def test_commands_are_parsed_by_the_program(name: str) -> None:
    root: Any = typer.main.get_command(app)
    calls = [call for _, one in containers(name) for call in command_lines(one)]
    assert {call[0] for call in calls} == {"cluster", "index", "backup", "restore", "verify"}
    for call in calls:
        command, words = root, list(call)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(call[0], words)


@every
def test_a_shell_or_a_program_that_an_image_has_is_run(name: str) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (router|shard)$", dockerfile, re.M))
    for _, container in containers(name):
        image = container["image"].rpartition("/")[2].partition(":")[0]
        assert image.removeprefix("bitsift-").removesuffix("-gpu") in targets
        if "command" in container:
            assert container["command"][:2] == ["tini", "--"]
            assert container["command"][2] in ("bitsift", "ray", "sh")


def main() -> None:
    for name in OVERLAYS:
        (GOLDEN / f"{name}.diff").write_text(difference(name))


if __name__ == "__main__":
    main()
