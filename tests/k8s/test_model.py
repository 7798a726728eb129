"""The components ``model`` and ``model-fetch``: another model than the one in the image.

They are rendered as docs/kubernetes.md says: named in the file of an overlay. The command of the
container that fetches the model is run, with its variables, against a hub on loopback.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.commands import COMMAND
from tests.hub import Hub, serving
from tests.k8s.mistakes import mistakes
from tests.k8s.others import other_mistakes
from tests.k8s.rendered import (
    MANIFESTS,
    OVERLAYS,
    ROOT,
    Object,
    called,
    objects,
    pods,
    rendered_with,
    variables,
)
from tests.tiny_model import build_tiny_model

COMMIT = "5" * 40
COMPONENTS = ("model", "model-fetch")


@functools.cache
def _rendered(overlay: str, component: str) -> str:
    return rendered_with(overlay, component)


def with_component(overlay: str, component: str) -> list[Object]:
    return list(yaml.load_all(_rendered(overlay, component), Loader=yaml.CSafeLoader))


def spec_of(of: list[Object], kind: str, name: str) -> Object:
    found: Object = called(of, kind, name)["spec"]["template"]["spec"]
    return found


def of_image(of: list[Object], name: str) -> list[tuple[str, Object]]:
    """Containers of an image, and the component of their pod."""
    return [
        (pod.labels["app.kubernetes.io/component"], container)
        for pod in pods(of)
        for container in pod.containers
        if name in container["image"]
    ]


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_wrong(overlay: str, component: str) -> None:
    of = with_component(overlay, component)
    assert not list(mistakes(of))
    there, before = of_image(of, "bitsift-router"), of_image(objects(overlay), "bitsift-router")
    assert {one["image"] for _, one in there} == {one["image"] for _, one in before}
    assert all(variables(of, one)["MODEL"] == "minilm" for _, one in there)
    (index,) = (one for where, one in there if where == "ingest")
    assert index["args"][-1] == "--model=$(MODEL)"
    fetching = [where for where, one in there if one["args"] == ["model", "fetch", "$(MODEL)"]]
    assert fetching == (["router"] if component == "model-fetch" else [])


def named_parts(of: list[Object]) -> dict[tuple[str, ...], Object]:
    """Volumes and containers, by the pod and their names."""
    return {
        (pod.name, part, one["name"]): {**one, "env": None, "args": None, "volumeMounts": None}
        for pod in pods(of)
        for part in ("volumes", "initContainers", "containers")
        for one in pod.spec.get(part, [])
    }


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_says_of_the_others_is_still_said_of_them(
    overlay: str, component: str
) -> None:
    """Kustomize merges before what is there: indices of an overlay would mean something else."""
    before, after = (
        {
            place: json.dumps(one, sort_keys=True).replace(environment(of), "")
            for place, one in named_parts(of).items()
        }
        for of in (objects(overlay), with_component(overlay, component))
    )
    assert {place: after[place] for place in before} == before
    assert {name for *_, name in after.keys() - before.keys()} <= {"model", "models"}


def environment(of: list[Object]) -> str:
    """The name of its ConfigMap, which has a hash of what is in it."""
    found: str = called(of, "ConfigMap", "bitsift-environment")["metadata"]["name"]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_what_fetches_may_reach_the_hub(overlay: str) -> None:
    of = with_component(overlay, "model-fetch")
    (egress,) = called(of, "NetworkPolicy", "hub")["spec"]["egress"]
    assert egress["ports"] == [{"protocol": "TCP", "port": 443}]
    with_label = {
        pod.labels["app.kubernetes.io/component"] for pod in pods(of) if "bitsift-hub" in pod.labels
    }
    assert with_label == {"router", "ingest"}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"cidr": "0.0.0.0/33"}, "does not appear to be an IPv4 or IPv6 network"),
        ({"cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"]}, "is not within 10.0.0.0/8"),
        ({"cidr": "0.0.0.0/0", "except": ["fc00::/7"]}, "is not within 0.0.0.0/0"),
    ],
)
def test_a_wrong_block_of_addresses_is_found(block: Object, said: str) -> None:
    of = with_component("production", "model-fetch")
    called(of, "NetworkPolicy", "hub")["spec"]["egress"][0]["to"][0]["ipBlock"] = block
    assert [found for found in other_mistakes(of) if said in found]


def test_the_cache_is_where_the_image_says() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    (folder,) = re.findall(r"^ENV HF_HUB_CACHE=(\S+)$", dockerfile, re.MULTILINE)
    assert f"COPY --from=model --chown=10001:10001 /tmp/models {folder}" in dockerfile
    text = (MANIFESTS / "components" / "model-fetch" / "kustomization.yaml").read_text()
    assert set(re.findall(r"name: models\n +mountPath: (\S+)", text)) == {folder}


def test_the_pod_fetches_a_model_and_then_needs_no_hub(tmp_path: Path) -> None:
    of = with_component("laptop", "model-fetch")
    spec = spec_of(of, "Deployment", "bitsift-router")
    (fetching,), (router,) = spec["initContainers"], spec["containers"]
    assert router["volumeMounts"][0] == {"mountPath": "/models", "name": "models", "readOnly": True}
    hub = Hub("some/model", {COMMIT: build_tiny_model(tmp_path, dimension=64)}, COMMIT)
    with serving(hub):

        def done(container: Object, arguments: list[str]) -> subprocess.CompletedProcess[str]:
            given = {k: v for k, v in variables(of, container).items() if isinstance(v, str)}
            given |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
            given |= {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "models")}
            given["MODEL"] = f"some/model@{COMMIT}"
            words = [word.replace("$(MODEL)", given["MODEL"]) for word in arguments]
            return subprocess.run(
                [*COMMAND, *words, "--json"], env=os.environ | given,
                capture_output=True, text=True, check=False, timeout=240,
            )  # fmt: skip

        before = done(router, fetching["args"])
        assert (before.returncode, "HF_HUB_OFFLINE forbids" in before.stderr) == (2, True)
        assert not hub.asked
        fetched = done(fetching, fetching["args"])
        assert fetched.returncode == 0, fetched.stderr
        assert hub.asked
        hub.asked.clear()
        later = done(router, fetching["args"])
    assert json.loads(later.stdout) == json.loads(fetched.stdout)
    assert json.loads(later.stdout)["commit"] == COMMIT
    assert not hub.asked
