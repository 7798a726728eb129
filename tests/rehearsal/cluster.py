"""The manifests of an overlay, kept in force: pods are made, replaced and ended as Kubernetes does.

StatefulSets, Deployments (RollingUpdate and Recreate), Jobs, Services, NetworkPolicies, budgets,
and nodes that pods are put on. Not: the autoscaler, quotas, priorities, ephemeral storage. CronJobs
are run when they are asked for.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.commands import wait_until
from tests.k8s.rendered import Object
from tests.rehearsal.kubelet import Kubelet, Phase, RunningPod
from tests.rehearsal.network import Network
from tests.rehearsal.pods import Contents, PlannedPod, planned
from tests.rehearsal.policies import Peer, ServiceRule, allowed, rules_of
from tests.rehearsal.runtime import Runtime
from tests.rehearsal.volumes import Volumes

log = logging.getLogger(__name__)

SPACE = "bitsift"
STEP_S = 0.5
GONE_S = 120.0
COMPONENT = "app.kubernetes.io/component"
HOME = {"kubernetes.io/metadata.name": SPACE}
_SETS = ("StatefulSet", "Deployment", "Job")


@dataclass(slots=True)
class Node:
    """A place for pods; ``is_cordoned``: no new ones come."""

    name: str
    zone: str
    is_cordoned: bool = False


@dataclass(slots=True)
class Rehearsed:
    """A cluster, from ``apply`` to ``close``. Its methods may be called from any thread."""

    folder: Path
    network: Network
    roots: dict[str, Path]
    secrets: dict[str, dict[str, str]]
    nodes: list[Node]
    objects: list[Object] = field(default_factory=list)
    pods: list[RunningPod] = field(default_factory=list)
    history: list[RunningPod] = field(default_factory=list)
    strangers: dict[str, Peer] = field(default_factory=dict)
    """Others with an address: callers, and pods that should reach nothing."""
    kubelet: Kubelet = field(init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _rules: dict[str, str] = field(default_factory=dict)
    _done: dict[str, str] = field(default_factory=dict)
    """Jobs that have ended, by name, and how."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _dirty: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        runtime = Runtime(self.folder / "runc", f"/{self.network.prefix}", self.folder / "logs")
        self.kubelet = Kubelet(
            runtime, Volumes(self.folder), self.network, self.roots, self.contents,
            self._apply_rules, self._dirty.set, self._hosts,
        )  # fmt: skip

    # --- objects ---------------------------------------------------------------------------

    def apply(self, of: list[Object]) -> None:
        """As `kubectl apply`: what was there before is replaced, and so are pods whose template
        changed, by the rules of their owner. A Job that has begun stays.
        """
        with self._lock:
            self.objects = of
        if self._thread is None:
            self._thread = threading.Thread(target=self._reconcile, name="controllers", daemon=True)
            self._thread.start()
        self._dirty.set()

    def object(self, kind: str, name: str) -> Object:
        with self._lock:
            return next(
                one
                for one in self.objects
                if one["kind"] == kind and one["metadata"]["name"] == name
            )

    def scale(self, kind: str, name: str, replicas: int) -> None:
        self.object(kind, name)["spec"]["replicas"] = replicas
        self._dirty.set()

    def release(self, job: str) -> None:
        """As `kubectl patch job … {"spec":{"suspend":false}}`."""
        self.object("Job", job)["spec"]["suspend"] = False
        self._dirty.set()

    def run_cron(self, name: str) -> str:
        """As `kubectl create job --from=cronjob/NAME`; the name of the job."""
        cron = self.object("CronJob", name)
        job = f"{name}-{secrets.token_hex(3)}"
        spec = json.loads(json.dumps(cron["spec"]["jobTemplate"]["spec"]))
        with self._lock:
            self.objects.append({"kind": "Job", "metadata": {"name": job}, "spec": spec})
        self._dirty.set()
        return job

    def delete_job(self, name: str) -> None:
        with self._lock:
            self._done.pop(name, None)
            self.objects = [
                one
                for one in self.objects
                if (one["kind"], one["metadata"]["name"]) != ("Job", name)
            ]

    def job(self, name: str) -> str | None:
        """How a job ended: Complete, or Failed; None while it goes on."""
        return self._done.get(name)

    def set_secret(self, name: str, files: Mapping[str, str]) -> None:
        """Its pods get the files at once; a kubelet takes up to two minutes."""
        self.secrets[name] = dict(files)
        for pod in self.living():
            self.kubelet.volumes.update(pod.plan, self.contents())

    def contents(self) -> Contents:
        maps = {
            one["metadata"]["name"]: one["data"]
            for one in self.objects
            if one["kind"] == "ConfigMap"
        }
        claims = {
            one["metadata"]["name"]: one
            for one in self.objects
            if one["kind"] == "PersistentVolumeClaim"
        }
        return Contents(maps, self.secrets, claims)

    # --- pods ------------------------------------------------------------------------------

    def living(self, component: str | None = None) -> list[RunningPod]:
        """Pods that run, or begin to."""
        with self._lock:
            return [
                pod
                for pod in self.pods
                if not pod.is_ending and component in (None, pod.plan.labels[COMPONENT])
            ]

    def pod(self, name: str) -> RunningPod:
        """The one that lives under this name."""
        return next(pod for pod in self.living() if pod.plan.name == name)

    def are_ready(self, component: str, count: int) -> bool:
        return sum(pod.is_ready for pod in self.living(component)) >= count

    def evict(self, pod: RunningPod) -> bool:
        """Whether its budget lets it go: then it ends."""
        with self._lock:
            for budget in (one for one in self.objects if one["kind"] == "PodDisruptionBudget"):
                wanted = budget["spec"]["selector"]["matchLabels"]
                if not wanted.items() <= pod.plan.labels.items():
                    continue
                others = [p for p in self.living() if wanted.items() <= p.plan.labels.items()]
                missing = self._wanted(wanted) - sum(other.is_ready for other in others)
                if pod.is_ready and missing >= budget["spec"]["maxUnavailable"]:
                    return False
            pod.end()
            return True

    def _wanted(self, labels: Mapping[str, str]) -> int:
        return sum(
            one["spec"].get("replicas", 1)
            for one in self.objects
            if one["kind"] in ("StatefulSet", "Deployment")
            and labels.items() <= one["spec"]["template"]["metadata"]["labels"].items()
        )

    def drain(self, node: str, timeout_s: float) -> None:
        """As `kubectl drain`: no new pods come; those that are there are evicted in their turn."""
        next(one for one in self.nodes if one.name == node).is_cordoned = True

        def is_empty() -> bool:
            there = [pod for pod in self.living() if pod.node == node]
            for pod in there:
                self.evict(pod)
            return not any(pod.node == node and pod.thread.is_alive() for pod in self.pods)

        assert wait_until(is_empty, timeout_s), f"{node} still has pods"

    def uncordon(self, node: str) -> None:
        next(one for one in self.nodes if one.name == node).is_cordoned = False
        self._dirty.set()

    def close(self) -> None:
        """End every pod at once; no volume is kept."""
        self._stop.set()
        self._dirty.set()
        if self._thread is not None:
            self._thread.join(GONE_S)
        for pod in self.pods:
            pod.end(by_force=True)
        for pod in self.pods:
            pod.wait(GONE_S)
        self.kubelet.runtime.remove()

    # --- controllers -----------------------------------------------------------------------

    def _reconcile(self) -> None:
        while not self._stop.is_set():
            self._dirty.wait(STEP_S)
            self._dirty.clear()
            try:
                with self._lock:
                    self._step()
                self._refresh_rules()
            except Exception:  # the next step looks again
                log.exception("a step of the controllers failed")
                self._stop.wait(STEP_S)

    def _step(self) -> None:
        self.pods = [pod for pod in self.pods if pod.thread.is_alive() or not self._is_over(pod)]
        for one in self.objects:
            if one["kind"] not in _SETS or one["spec"].get("suspend"):
                continue
            name = f"{one['kind']}/{one['metadata']['name']}"
            mine = [pod for pod in self.pods if pod.owner.rpartition("#")[0] == name]
            match one["kind"]:
                case "StatefulSet":
                    self._keep_set(one, name, mine)
                case "Deployment":
                    self._keep_deployment(one, name, mine)
                case "Job":
                    self._keep_job(one, name, mine)

    def _is_over(self, pod: RunningPod) -> bool:
        """Ended; what a Job comes to is noted first."""
        return pod.phase is Phase.GONE or not pod.owner.startswith("Job/")

    def _keep_set(self, one: Object, owner: str, mine: list[RunningPod]) -> None:
        assert one["spec"].get("updateStrategy") == {"type": "OnDelete"}, f"{owner} replaces pods"
        there = {pod.plan.name for pod in mine}
        wanted = [f"{one['metadata']['name']}-{n}" for n in range(one["spec"]["replicas"])]
        for name in wanted:
            if name not in there:
                self._create(one, owner, name)
        for pod in mine:
            if pod.plan.name not in wanted and not pod.is_ending:
                pod.end()

    def _keep_deployment(self, one: Object, owner: str, mine: list[RunningPod]) -> None:
        """Surge by one, and end an old pod when all that are wanted are ready; or, Recreate, end
        all of the old ones first.
        """
        wanted, revision = one["spec"]["replicas"], _revision(one)
        living = [pod for pod in mine if not pod.is_ending]
        new = [pod for pod in living if pod.owner.endswith(revision)]
        old = [pod for pod in living if pod not in new]
        if one["spec"].get("strategy", {}).get("type") == "Recreate":
            for pod in old:
                pod.end()
            if not old and not new and not mine:
                self._create(one, owner, _random_name(one))
            return
        surge = 1 if old else 0
        if len(new) < wanted and len(living) < wanted + surge:
            self._create(one, owner, _random_name(one))
        elif old and sum(pod.is_ready for pod in living) > wanted:
            min(old, key=lambda pod: pod.is_ready).end()
        elif len(new) > wanted:
            new[-1].end()

    def _keep_job(self, one: Object, owner: str, mine: list[RunningPod]) -> None:
        name = one["metadata"]["name"]
        if name in self._done or any(pod.thread.is_alive() for pod in mine):
            return
        failed = sum(pod.phase is Phase.FAILED for pod in mine)
        if any(pod.phase is Phase.SUCCEEDED for pod in mine):
            self._done[name] = "Complete"
        elif failed > one["spec"].get("backoffLimit", 6):
            self._done[name] = "Failed"
        else:
            self._create(one, owner, _random_name(one))
            return
        self.pods = [pod for pod in self.pods if pod not in mine]

    def _create(self, one: Object, owner: str, name: str) -> None:
        template = one["spec"]["template"]
        node = self._node_for(template)
        if node is None:
            return  # it waits
        address = self.network.free_address()
        plan = planned(
            template, name=name, address=address, zone=node.zone, contents=self.contents(),
            claim_templates=tuple(one["spec"].get("volumeClaimTemplates", ())),
        )  # fmt: skip
        pod = self.kubelet.begin(plan, f"{owner}#{_revision(one)}", node.name)
        self.pods.append(pod)
        self.history.append(pod)
        self._dirty.set()

    def _node_for(self, template: Object) -> Node | None:
        """The one with the fewest pods of this component, where its anti-affinity lets it be."""
        component = template["metadata"]["labels"][COMPONENT]
        counts = {node.name: 0 for node in self.nodes}
        for pod in self.pods:
            if pod.thread.is_alive() and pod.plan.labels[COMPONENT] == component:
                counts[pod.node] += 1
        free = [node for node in self.nodes if not node.is_cordoned]
        affinity = template["spec"].get("affinity", {}).get("podAntiAffinity", {})
        if "requiredDuringSchedulingIgnoredDuringExecution" in affinity:
            free = [node for node in free if not counts[node.name]]
        return min(free, key=lambda node: counts[node.name], default=None)

    # --- the network -----------------------------------------------------------------------

    def peers(self) -> list[Peer]:
        """All that have an address."""
        with self._lock:
            alive = [pod for pod in self.pods if pod.thread.is_alive()]
        mine = [Peer(p.plan.name, p.plan.address, p.plan.labels, HOME) for p in alive]
        return [*mine, *self.strangers.values()]

    def policies(self) -> list[Object]:
        return [one for one in self.objects if one["kind"] == "NetworkPolicy"]

    def services(self) -> dict[str, ServiceRule]:
        """By name, those with an address of their own, and the pods that are behind them now."""
        found = {}
        named = [one for one in self.objects if one["kind"] == "Service"]
        for number, one in enumerate(named):
            if one["spec"].get("clusterIP") == "None":
                continue
            (port,) = one["spec"]["ports"]
            name = one["metadata"]["name"]
            targets = tuple(self._targets(one["spec"], port["targetPort"]))
            found[name] = ServiceRule(self.network.service(number), port["port"], targets)
        return found

    def _targets(self, spec: Object, port: Any) -> list[tuple[str, int]]:
        wanted, is_patient = spec["selector"].items(), not spec.get("publishNotReadyAddresses")
        return [
            (pod.plan.address, self._port(pod, port))
            for pod in self.living()
            if wanted <= pod.plan.labels.items() and (pod.is_ready or not is_patient)
        ]

    def _port(self, pod: RunningPod, name: str) -> int:
        kind, owner = pod.owner.rpartition("#")[0].split("/")
        (container,) = self.object(kind, owner)["spec"]["template"]["spec"]["containers"]
        return next(int(p["containerPort"]) for p in container["ports"] if p["name"] == name)

    def _hosts(self, pod: PlannedPod) -> str:
        lines = ["127.0.0.1 localhost", f"{pod.address} {pod.name}"]
        for name, service in self.services().items():
            names = [name, f"{name}.{SPACE}", f"{name}.{SPACE}.svc"]
            lines.append(f"{service.address} {' '.join(names)} {names[-1]}.cluster.local")
        return "\n".join(lines) + "\n"

    def _refresh_rules(self) -> None:
        for peer in self.peers():
            self._apply_rules(peer.address)

    def _apply_rules(self, address: str) -> None:
        """Only where they changed; a pod that has just ended has none."""
        peers, policies = self.peers(), self.policies()
        me = next((peer for peer in peers if peer.address == address), None)
        if me is None or not Path(f"/run/netns/{self.network.space(address)}").exists():
            return
        text = rules_of(
            self.network.node,
            allowed(policies, me, peers, "Ingress"),
            allowed(policies, me, peers, "Egress"),
            list(self.services().values()),
        )
        if self._rules.get(address) != text:
            try:
                self.network.set_rules(address, text)
            except AssertionError:
                if Path(f"/run/netns/{self.network.space(address)}").exists():
                    raise
            self._rules[address] = text

    def add_stranger(self, name: str, labels: dict[str, str], space: dict[str, str]) -> Peer:
        """An address without a pod, which a test acts from."""
        address = self.network.free_address()
        is_home = space == HOME
        self.network.add(address)
        peer = self.strangers[name] = Peer(name, address, labels, space, is_home)
        self._dirty.set()
        return peer


def _revision(one: Object) -> str:
    """Of the template: pods of another one are old."""
    return str(hash(json.dumps(one["spec"]["template"], sort_keys=True)) & 0xFFFFFFFF)


def _random_name(one: Object) -> str:
    return f"{one['metadata']['name']}-{secrets.token_hex(3)}"
