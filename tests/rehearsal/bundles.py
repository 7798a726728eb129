"""What runc is told of a container: user, root, mounts, namespaces, limits, system calls. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.rehearsal.pods import Container, PlannedPod

SECCOMP = Path("/usr/share/containers/seccomp.json")
"""Podman's default profile, which is what RuntimeDefault means there; of Debian's package
golang-github-containers-common."""
_MASKED = (
    "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READ_ONLY = (
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
SHARES_OF_A_CPU = 1_024


def bundle(
    pod: PlannedPod,
    container: Container,
    *,
    root: Path,
    network: str,
    cgroup: str,
    sources: Mapping[str, Path],
    image_environment: Mapping[str, str],
) -> dict[str, Any]:
    """The config.json of a container.

    ``sources`` has the place on this machine of what is mounted at each path; ``network`` is the
    name of a network namespace.
    """
    read_only = {mount.path for mount in container.mounts if mount.read_only}
    calls = {"seccomp": system_calls(json.loads(SECCOMP.read_text()))} if pod.uses_seccomp else {}
    environment = {**image_environment, **container.environment, "HOSTNAME": pod.name}
    none: list[str] = list(container.capabilities)
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return {
        "ociVersion": "1.0.2",
        "hostname": pod.name,
        "root": {"path": str(root), "readonly": not container.can_write_root},
        "process": {
            "terminal": False,
            "cwd": "/tmp",
            "args": list(container.command),
            "env": [f"{name}={value}" for name, value in sorted(environment.items())],
            "user": {"uid": pod.uid, "gid": pod.gid, "additionalGids": [pod.fs_group]},
            "capabilities": dict.fromkeys(kinds, none),
            "noNewPrivileges": not container.can_gain_privileges,
        },
        "mounts": [
            *_of_every_container(),
            *(
                {
                    "destination": path,
                    "type": "bind",
                    "source": str(source),
                    "options": ["rbind", "ro" if path in read_only else "rw"],
                }
                for path, source in sorted(sources.items())
            ),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                {"type": "network", "path": f"/run/netns/{network}"},
            ],
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                "memory": {"limit": container.memory_bytes, "swap": container.memory_bytes},
                "cpu": {"shares": max(2, int(container.cpus * SHARES_OF_A_CPU))},
            },
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
            **calls,
        },
    }  # fmt: skip


def _of_every_container() -> list[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*quiet, "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": [*quiet, "relatime", "ro"]},
    ]  # fmt: skip


def system_calls(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Podman's profile in the form of runc, for a container without capabilities on x86-64."""
    calls = []
    for group in profile["syscalls"]:
        wanted, without = group.get("includes") or {}, group.get("excludes") or {}
        if wanted.get("caps") or "amd64" not in wanted.get("arches", ["amd64"]):
            continue
        if "amd64" in without.get("arches", []):
            continue
        names = group.get("names") or [group["name"]]
        one = {"names": names, "action": group["action"], "args": group.get("args") or []}
        for optional in ("errnoRet",):
            if group.get(optional) is not None:
                one[optional] = group[optional]
        calls.append(one)
    return {
        "defaultAction": profile["defaultAction"],
        **({"defaultErrnoRet": profile["defaultErrnoRet"]} if "defaultErrnoRet" in profile else {}),
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": calls,
    }
