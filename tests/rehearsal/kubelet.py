"""A small kubelet: one thread for each pod, from its volumes to its end."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.rehearsal.bundles import bundle
from tests.rehearsal.network import Network
from tests.rehearsal.pods import Container, Contents, PlannedPod, Probe, Volume
from tests.rehearsal.probing import BackOff, Probes
from tests.rehearsal.runtime import Running, Runtime
from tests.rehearsal.volumes import Volumes, mount

log = logging.getLogger(__name__)

LOOK_S = 0.25
MEASURE_S = 1.0
HOSTS = "/etc/hosts"
IMAGE_ENVIRONMENT = {
    "PATH": "/opt/bitsift/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}
"""What the Dockerfile sets; tests/rehearsal/test_bundles.py compares them."""


class Phase(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    GONE = "gone"


@dataclass(slots=True)
class Kubelet:
    """What all pods of the machine share. ``changed`` is called when a pod gets ready, or unready,
    or ends; ``rules`` gives a pod's network its rules.
    """

    runtime: Runtime
    volumes: Volumes
    network: Network
    roots: Mapping[str, Path]
    """The root of each image, by the name that a manifest has for it."""
    contents: Callable[[], Contents]
    rules: Callable[[str], None]
    changed: Callable[[], None]
    hosts: Callable[[PlannedPod], str]

    def begin(self, plan: PlannedPod, owner: str, node: str) -> RunningPod:
        pod = RunningPod(self, plan, owner, node)
        pod.thread.start()
        return pod


@dataclass(slots=True)
class RunningPod:
    """One pod. Other threads read it, and ask it to end."""

    kubelet: Kubelet
    plan: PlannedPod
    owner: str
    node: str
    phase: Phase = Phase.PENDING
    is_ready: bool = False
    restarts: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    """Bytes of memory that each container held at most."""
    events: list[str] = field(default_factory=list)
    container: Running | None = None
    thread: threading.Thread = field(init=False)
    _end: threading.Event = field(default_factory=threading.Event)
    _is_killed: bool = False

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name=self.plan.name, daemon=True)

    @property
    def is_ending(self) -> bool:
        return self._end.is_set() or self.phase in (Phase.GONE, Phase.SUCCEEDED, Phase.FAILED)

    def end(self, *, by_force: bool = False) -> None:
        """As `kubectl delete pod` does, ``by_force`` as its node lost power."""
        self._is_killed |= by_force
        self._end.set()
        self.kubelet.changed()

    def wait(self, timeout_s: float) -> None:
        """Until nothing of it is left."""
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), f"{self.plan.name} has not ended after {timeout_s} s"

    # --- its thread ------------------------------------------------------------------------

    def _run(self) -> None:
        kubelet, plan = self.kubelet, self.plan
        try:
            volumes = kubelet.volumes.attach(plan, kubelet.contents())
            kubelet.network.add(plan.address)
            kubelet.rules(plan.address)
            final = self._containers(volumes)
        except Exception as error:  # a test's own machine; what is said of it must be seen
            log.exception("pod %s", plan.name)
            self._note(f"failed: {error!r}")
            final = Phase.FAILED
        finally:
            self._set_ready(False)
            with contextlib.suppress(Exception):
                kubelet.volumes.detach(plan)
            with contextlib.suppress(Exception):
                kubelet.network.remove(plan.address)
        self.phase = Phase.GONE if self._end.is_set() else final
        kubelet.changed()

    def _containers(self, volumes: Mapping[Volume, Path]) -> Phase:
        self.phase = Phase.RUNNING
        (main,) = self.plan.containers
        for container in (*self.plan.init, main):
            back_off = BackOff()
            while not self._end.is_set():
                status, ran_s = self._ran(container, volumes)
                if self._end.is_set():
                    break
                self._note(f"{container.name} ended with {status} after {ran_s:.0f} s")
                if status == 0 and (container is not main or not self.plan.restarts):
                    break
                if not self.plan.restarts:
                    return Phase.FAILED
                self.restarts += 1
                self._end.wait(back_off.after(ran_s))
        return Phase.SUCCEEDED

    def _ran(self, container: Container, volumes: Mapping[Volume, Path]) -> tuple[int, float]:
        """Its exit status, and how long it ran."""
        running = self._started(container, volumes)
        self.container = running
        probes, measured_s = Probes(container, running.began_s), 0.0
        try:
            while running.goes_on() and not self._end.is_set() and not probes.must_end:
                self._probe(probes, running)
                now_s = time.monotonic()
                if now_s - measured_s >= MEASURE_S:
                    running.measure()
                    measured_s = now_s
                self._set_ready(probes.is_ready)
                self._end.wait(LOOK_S)
            if probes.must_end:
                self._note(f"{container.name} does not answer its probes")
            self._stop(container, running)
        finally:
            self.container = None
            running.remove()
            self.peaks[container.name] = max(running.peak_bytes, self.peaks.get(container.name, 0))
            self._set_ready(False)
        return running.process.returncode, time.monotonic() - running.began_s

    def _started(self, container: Container, volumes: Mapping[Volume, Path]) -> Running:
        kubelet, plan = self.kubelet, self.plan
        folder = kubelet.volumes.pod(plan)
        hosts = folder / "hosts"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        hosts.write_text(kubelet.hosts(plan))
        name = f"{folder.name}-{container.name}"
        config = bundle(
            plan,
            container,
            root=_layered(kubelet.roots[container.image], folder / container.name),
            network=kubelet.network.space(plan.address),
            cgroup=f"{kubelet.runtime.group}/{name}",
            sources={
                HOSTS: hosts,
                **{mount.path: volumes[mount.volume] for mount in container.mounts},
            },
            image_environment=IMAGE_ENVIRONMENT,
        )
        self._note(f"{container.name} starts")
        return kubelet.runtime.start(name, config, time.monotonic())

    def _stop(self, container: Container, running: Running) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace period is over."""
        began_s = time.monotonic()
        if running.goes_on() and not self._is_killed:
            self._set_ready(False)
            while running.goes_on() and time.monotonic() - began_s < container.pre_stop_s:
                time.sleep(LOOK_S)
            is_told = False
            while running.goes_on() and time.monotonic() - began_s < self.plan.grace_s:
                is_told = is_told or running.kill(signal.SIGTERM)
                time.sleep(LOOK_S)
        if running.goes_on() and not self._is_killed:
            self._note(f"{container.name} was killed after {self.plan.grace_s:.0f} s of grace")
        while running.goes_on():
            running.kill(signal.SIGKILL)
            time.sleep(LOOK_S)

    # --- probes ----------------------------------------------------------------------------

    def _probe(self, probes: Probes, running: Running) -> None:
        for kind, one in probes.due(time.monotonic()):
            answered = probe_answered(one, self.plan.address, running)
            probes.record(kind, answered, time.monotonic())

    def _set_ready(self, is_ready: bool) -> None:
        if is_ready is not self.is_ready:
            self.is_ready = is_ready
            self._note("ready" if is_ready else "not ready")
            self.kubelet.changed()

    def _note(self, what: str) -> None:
        self.events.append(f"{time.monotonic():.1f} {what}")
        log.info("%s: %s", self.plan.name, what)


def probe_answered(probe: Probe, address: str, running: Running) -> bool:
    """One attempt, from the node, or within the container."""
    if probe.command:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return running.run(list(probe.command), probe.timeout_s).returncode == 0
        return False
    assert probe.port is not None
    if probe.path is None:
        with contextlib.suppress(OSError):
            socket.create_connection((address, probe.port), probe.timeout_s).close()
            return True
        return False
    connection = http.client.HTTPConnection(address, probe.port, timeout=probe.timeout_s)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", probe.path)
        return 200 <= connection.getresponse().status < 400
    return False


def _layered(root: Path, folder: Path) -> Path:
    """A layer of the container's own over the image's root: places to mount at are made in it."""
    layers = [folder / name for name in ("upper", "work", "root")]
    if not os.path.ismount(layers[2]):
        for layer in layers:
            layer.mkdir(parents=True)
        upper, work, top = layers
        options = f"lowerdir={root},upperdir={upper},workdir={work}"
        mount("-t", "overlay", "-o", options, "overlay", top)
    return layers[2]
