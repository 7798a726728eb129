"""A pod of the manifests with everything filled in."""

from __future__ import annotations

from typing import Any

import pytest

from bitsift.cluster.fleet.readiness import PATH
from tests.k8s.rendered import Object, called, objects, pods
from tests.k8s.workloads import SECRETS
from tests.rehearsal.pods import Claim, Contents, Disk, Files, PlannedPod, Probe, expanded, planned

ADDRESS = "10.0.0.7"


def contents(of: list[Object]) -> Contents:
    return Contents(
        {one["metadata"]["name"]: one["data"] for one in of if one["kind"] == "ConfigMap"},
        {name: dict.fromkeys(keys, f"of {name}") for name, keys in SECRETS.items()},
        {one["metadata"]["name"]: one for one in of if one["kind"] == "PersistentVolumeClaim"},
    )


def pod_of(of: list[Object], kind: str, name: str, **more: Any) -> PlannedPod:
    owner = called(of, kind, name)
    return planned(
        owner["spec"]["template"], name=f"{name}-1", address=ADDRESS, zone="b",
        contents=contents(of),
        claim_templates=tuple(owner["spec"].get("volumeClaimTemplates", ())), **more,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["laptop", "production"])
def test_every_pod_of_an_overlay_is_known_whole(name: str) -> None:
    of = objects(name)
    found = [
        planned(
            pod.template, name="a", address=ADDRESS, zone="a", contents=contents(of),
            claim_templates=tuple(pod.owner["spec"].get("volumeClaimTemplates", ())),
        )
        for pod in pods(of)
    ]  # fmt: skip
    assert len(found) == 8
    for pod in found:
        assert (pod.uid, pod.gid, pod.fs_group, pod.uses_seccomp) == (10_001, 10_001, 10_001, True)
        for container in (*pod.init, *pod.containers):
            assert not container.can_write_root
            assert not container.can_gain_privileges
            assert container.capabilities == ()


def test_a_pod_of_a_set_has_its_name_its_address_and_the_zone_of_its_node() -> None:
    (shard,) = pod_of(objects("production"), "StatefulSet", "bitsift-shard").containers
    assert "--labels=bitsift-node=bitsift-shard-1,zone=b" in shard.command
    assert f"--node-ip-address={ADDRESS}" in shard.command
    assert shard.environment["RAY_AUTH_TOKEN"] == "of bitsift-ray"
    assert shard.environment["RAY_AUTH_MODE"] == "token"
    assert shard.memory_bytes == 6 << 30
    assert shard.pre_stop_s == 5
    volumes = {mount.path: mount.volume for mount in shard.mounts}
    assert volumes == {
        "/tmp": Disk("tmp", 2 << 30, in_memory=False),
        "/dev/shm": Disk("shm", 320 << 20, in_memory=True),
        "/var/lib/bitsift": Claim("data-bitsift-shard-1", 200 << 30),
        "/backup": Claim("bitsift-backup", 500 << 30),
    }


def test_probes_ask_the_ports_that_are_named() -> None:
    (shard,) = pod_of(objects("production"), "StatefulSet", "bitsift-shard").containers
    assert shard.startup == Probe(port=8_077, period_s=2, failures=90)
    assert shard.liveness == Probe(port=8_077, period_s=10, timeout_s=5, failures=6)
    assert shard.readiness == Probe(port=8_078, path=PATH, period_s=5, timeout_s=2)
    (control,) = pod_of(objects("production"), "Deployment", "bitsift-control").containers
    assert control.readiness == Probe(command=("test", "-e", "/tmp/up"), period_s=5)


def test_a_secret_is_mounted_with_its_mode_and_read_only() -> None:
    (router,) = pod_of(objects("production"), "Deployment", "bitsift-router").containers
    (keys,) = (mount for mount in router.mounts if mount.path == "/etc/bitsift/keys")
    assert keys.volume == Files("Secret", "bitsift-keys", 0o400)
    assert keys.read_only


def test_a_job_has_containers_one_after_the_other_and_a_volume_that_goes_with_it() -> None:
    pod = pod_of(objects("production"), "Job", "bitsift-ingest")
    assert [one.name for one in (*pod.init, *pod.containers)] == ["index", "backup"]
    assert not pod.restarts
    volumes = {mount.path: mount.volume for mount in pod.init[0].mounts}
    assert volumes["/work"] == Claim("bitsift-ingest-1-work", 100 << 30, is_ephemeral=True)


def test_what_is_not_known_is_an_error_and_not_left_out() -> None:
    of = objects("production")
    called(of, "StatefulSet", "bitsift-shard")["spec"]["template"]["spec"]["hostNetwork"] = True
    with pytest.raises(AssertionError, match="does not know"):
        pod_of(of, "StatefulSet", "bitsift-shard")


def test_a_secret_that_nobody_made_is_an_error() -> None:
    of = objects("production")
    template = called(of, "Deployment", "bitsift-router")["spec"]["template"]
    with pytest.raises((AssertionError, KeyError)):
        planned(
            template, name="a", address=ADDRESS, zone="a",
            contents=Contents(contents(of).config_maps, {}, contents(of).claims),
        )  # fmt: skip


def test_variables_are_filled_in_where_they_are_there() -> None:
    assert expanded("a=$(A),b=$(B)", {"A": "1"}) == "a=1,b=$(B)"
