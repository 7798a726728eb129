"""Volumes of pods as folders of this machine, with the owners and modes that a kubelet gives."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.rehearsal.pods import Claim, Contents, Disk, Files, PlannedPod, Volume

_WITHIN_S = 30
_TO_GROUP, _GROUP_READS, _FOR_ALL = 0o2775, 0o440, 0o2777
"""With fsGroup a volume belongs to the group, and so does what is made in it. The group reads the
files of Secrets, whatever their defaultMode says."""


class Volumes:
    """Of one machine: what outlives pods lies in ``folder``/claims."""

    def __init__(self, folder: Path) -> None:
        self._claims = folder / "claims"
        self._pods = folder / "pods"

    def claim(self, name: str) -> Path:
        return self._claims / name

    def pod(self, pod: PlannedPod) -> Path:
        """Of this pod alone, though another of its name will come."""
        return self._pods / f"{pod.name}-{pod.address.rpartition('.')[2]}"

    def attach(self, pod: PlannedPod, contents: Contents) -> dict[Volume, Path]:
        """Make ready all that its containers mount."""
        found: dict[Volume, Path] = {}
        for container in (*pod.init, *pod.containers):
            for volume in (mount.volume for mount in container.mounts):
                if volume not in found:
                    found[volume] = self._attached(volume, pod, contents)
        return found

    def _attached(self, volume: Volume, pod: PlannedPod, contents: Contents) -> Path:
        match volume:
            case Claim(name):
                place = self.claim(name)
                place.mkdir(parents=True, exist_ok=True)
                _owned(place, pod.fs_group, _TO_GROUP)
            case Disk(name, size_bytes, in_memory):
                place = self.pod(pod) / "volumes" / name
                place.mkdir(parents=True)
                if in_memory:
                    mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", place)
                _owned(place, pod.fs_group, _FOR_ALL)
            case Files(kind, name, mode):
                place = self.pod(pod) / "volumes" / f"{kind}-{name}"
                write_files(place, contents.of(kind, name), mode, pod.fs_group)
        return place

    def update(self, pod: PlannedPod, contents: Contents) -> None:
        """Give the pod the files that its Secrets and ConfigMaps have now."""
        for container in pod.containers:
            for volume in (one.volume for one in container.mounts):
                if isinstance(volume, Files):
                    place = self.pod(pod) / "volumes" / f"{volume.kind}-{volume.name}"
                    files = contents.of(volume.kind, volume.name)
                    write_files(place, files, volume.mode, pod.fs_group)

    def detach(self, pod: PlannedPod) -> None:
        """Remove what was the pod's alone. Its processes have ended."""
        for container in (*pod.init, *pod.containers):
            for volume in (one.volume for one in container.mounts):
                if isinstance(volume, Claim) and volume.is_ephemeral:
                    shutil.rmtree(self.claim(volume.name), ignore_errors=True)
        folder = self.pod(pod)
        for place in mounts_below(folder):
            _run(["umount", str(place)])
        shutil.rmtree(folder, ignore_errors=True)


def write_files(place: Path, files: Mapping[str, str], mode: int, group: int) -> None:
    """As a kubelet does: all of them change at once, through a link."""
    place.mkdir(parents=True, exist_ok=True)
    aside = place / f"..{secrets.token_hex(8)}"
    aside.mkdir()
    for name, text in files.items():
        (aside / name).write_text(text)
        _owned(aside / name, group, mode | _GROUP_READS)
        link = place / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    for folder in (place, aside):
        _owned(folder, group, _TO_GROUP)
    current = place / "..data"
    before = current.resolve() if current.is_symlink() else None
    link = place / "..data_next"
    link.symlink_to(aside.name)
    link.rename(current)
    if before is not None:
        shutil.rmtree(before)


def _owned(place: Path, group: int, mode: int) -> None:
    os.chown(place, -1, group)
    place.chmod(mode)


def mount(*arguments: object) -> None:
    _run(["mount", *map(str, arguments)])


def mounts_below(folder: Path) -> list[Path]:
    """Innermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [Path(line.split()[4]) for line in lines]
    return [place for place in reversed(found) if place.is_relative_to(folder)]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_WITHIN_S)
    assert done.returncode == 0, (command, done.stderr)
