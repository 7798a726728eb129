"""What runc is told, and what the volumes of a pod look like."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.rendered import ROOT, objects
from tests.rehearsal import bundles
from tests.rehearsal.bundles import bundle, system_calls
from tests.rehearsal.kubelet import IMAGE_ENVIRONMENT
from tests.rehearsal.test_pods import pod_of
from tests.rehearsal.volumes import mounts_below, write_files

PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": []},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["arm_sync"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm"]}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}},
    ],
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    profile = tmp_path / "seccomp.json"
    profile.write_text(json.dumps(PROFILE))
    monkeypatch.setattr(bundles, "SECCOMP", profile)
    pod = pod_of(objects("production"), "Deployment", "bitsift-router")
    return bundle(
        pod, pod.containers[0], root=Path("/root-of-image"), network="space", cgroup="/group/one",
        sources={mount.path: Path("/on/this/machine") for mount in pod.containers[0].mounts},
        image_environment=IMAGE_ENVIRONMENT,
    )  # fmt: skip


def test_a_container_has_the_security_context_of_its_manifest(config: dict[str, Any]) -> None:
    process = config["process"]
    assert process["user"] == {"uid": 10_001, "gid": 10_001, "additionalGids": [10_001]}
    assert process["noNewPrivileges"] is True
    assert {*map(len, process["capabilities"].values())} == {0}
    assert config["root"] == {"path": "/root-of-image", "readonly": True}
    assert config["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"


def test_it_has_its_limits_its_network_and_its_volumes(config: dict[str, Any]) -> None:
    assert config["linux"]["resources"]["memory"]["limit"] == 1536 << 20
    assert {"type": "network", "path": "/run/netns/space"} in config["linux"]["namespaces"]
    found = {one["destination"]: one.get("options") for one in config["mounts"]}
    assert found["/etc/bitsift/keys"] == ["rbind", "ro"]
    assert found["/dev/shm"] == ["rbind", "rw"]
    assert "RAY_AUTH_MODE=token" in config["process"]["env"]


def test_calls_that_need_a_capability_or_another_processor_are_left_out() -> None:
    calls = system_calls(PROFILE)["syscalls"]
    assert [(one["names"], one["action"]) for one in calls] == [
        (["read"], "SCMP_ACT_ALLOW"),
        (["mount"], "SCMP_ACT_ERRNO"),
        (["arch_prctl"], "SCMP_ACT_ALLOW"),
    ]


def test_the_environment_of_the_image_is_that_of_the_dockerfile() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ENV (PATH=.*)$", text, re.MULTILINE)
    said = dict(pair.split("=", 1) for pair in line.split())
    assert said.pop("PATH") == "/opt/bitsift/bin:$PATH"
    assert IMAGE_ENVIRONMENT["PATH"].startswith("/opt/bitsift/bin:")
    assert {name: IMAGE_ENVIRONMENT[name] for name in said} == said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_files_of_a_secret_change_at_once_and_only_the_group_reads_them(tmp_path: Path) -> None:
    place = tmp_path / "keys"
    write_files(place, {"keys.json": "first"}, 0o400, 10_001)
    before = (place / "keys.json").stat()
    assert (before.st_uid, before.st_gid, before.st_mode & 0o777) == (0, 10_001, 0o440)
    write_files(place, {"keys.json": "second"}, 0o400, 10_001)
    assert (place / "keys.json").read_text() == "second"
    assert (place / "keys.json").stat().st_ino != before.st_ino
    assert sorted(path.name for path in place.iterdir() if not path.name.startswith("..")) == [
        "keys.json"
    ]
    assert len(list(place.glob("..*"))) == 2  # the link, and what it leads to


def test_mounts_are_ended_from_within(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "\n".join(f"1 2 0:3 / {place} rw - tmpfs tmpfs rw" for place in ("/a", "/a/b", "/ab"))
    monkeypatch.setattr(Path, "read_text", lambda _: lines)
    assert mounts_below(Path("/a")) == [Path("/a/b"), Path("/a")]
