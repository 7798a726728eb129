"""What is done to the cluster, each step as docs/kubernetes.md has it: the recipes."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bitsift.router.http.keys import Key, Scope, key_file_bytes, new_key
from tests.k8s.rendered import Object, called
from tests.k8s.workloads import VERSION
from tests.rehearsal.callers import Callers
from tests.rehearsal.cluster import Node, Rehearsed
from tests.rehearsal.kubelet import RunningPod

BITSIFT = "/opt/bitsift/bin/bitsift"
WHOLE_S, JOB_S, GONE_S = 420.0, 900.0, 120.0
LOOK_S = 2.0
_STATUS_S = 90.0
NEXT = f"{VERSION}-next"
HASH = 10
"""Letters that kustomize puts behind a ConfigMap's name."""
COPIES = 3
SPEC_CHANGES = {
    "replicas = 2": f"replicas = {COPIES}",
    'host = "0.0.0.0"': 'host = "0.0.0.0"\nquery_cache = 7',
}


@dataclass(slots=True)
class Rehearsal:
    """A cluster, its callers, and the keys that they have."""

    cluster: Rehearsed
    callers: Callers
    keys: list[Key] = field(default_factory=list)

    # --- looking ---------------------------------------------------------------------------

    def exec(self, component: str, *command: str, within_s: float = _STATUS_S) -> str:
        """As `kubectl exec`. Raises AssertionError where it fails, or takes longer."""
        pod = self.cluster.living(component)[0]
        assert pod.container is not None, f"{pod.plan.name} does not run"
        try:
            done = pod.container.run(list(command), within_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(str(error)) from error
        assert done.returncode == 0, done.stderr[-2_000:]
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `bitsift cluster status` says in the control pod."""
        said = self.exec("control", BITSIFT, "cluster", "status", "--json")
        found: dict[str, Any] = json.loads(said)
        return found

    def lacks(self) -> str | None:
        """What is missing; None: every pod is ready, and nothing is lacking."""
        for one in self.cluster.objects:
            if one["kind"] in ("StatefulSet", "Deployment"):
                name, wanted = one["metadata"]["name"], one["spec"]["replicas"]
                component = name.removeprefix("bitsift-")
                if not self.cluster.are_ready(component, wanted):
                    return f"pods of {name} are not ready"
                if len(self.cluster.living(component)) > wanted:
                    return f"there are too many pods of {name}"
        try:
            status = self.status()
        except (AssertionError, ValueError) as error:
            return f"no status: {error}"
        if status["index"] is None or status["failure"] is not None:
            return f"the controller: {status['failure']}"
        lost = [node["node"] for node in status["nodes"] if node["lost_s"] is not None]
        lacking = [shard["shard"] for shard in status["shards"] if shard["lacking"]]
        starting = [one["node"] for one in status["routers"] if not one["url"]]
        routers = len(self.cluster.living("router"))
        if len(status["routers"]) < routers:
            return "a router is missing"
        return f"{lost=} {lacking=} {starting=}" if lost or lacking or starting else None

    def until_whole(self, timeout_s: float = WHOLE_S) -> float:
        """Seconds that it took."""
        began_s = time.monotonic()
        while (lacks := self.lacks()) is not None:
            assert time.monotonic() - began_s < timeout_s, lacks
            time.sleep(LOOK_S)
        return time.monotonic() - began_s

    def until(self, is_so: Callable[[], bool], timeout_s: float, what: str) -> None:
        ends_s = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < ends_s, f"after {timeout_s:.0f} s: {what}"
            time.sleep(LOOK_S)

    def run_job(self, name: str) -> None:
        self.until(lambda: self.cluster.job(name) is not None, JOB_S, f"job {name} goes on")
        assert self.cluster.job(name) == "Complete", f"job {name} failed"

    # --- recipes ---------------------------------------------------------------------------

    def delete_each_pod(self, component: str) -> None:
        """One after the other; the next when nothing is lacking any more."""
        for pod in self.cluster.living(component):
            pod.end()
            pod.wait(GONE_S)
            self.until_whole()

    def drain_node(self) -> None:
        """That of a shard's pod; its pods come back when the node does."""
        node = self.cluster.living("shard")[0].node
        self.cluster.drain(node, WHOLE_S)
        self.cluster.uncordon(node)
        self.until_whole()

    def roll_image(self) -> None:
        """New tags, applied: routers and the control pod are replaced, then the others by hand."""
        roots = self.cluster.roots
        roots |= {f"{name.rpartition(':')[0]}:{NEXT}": root for name, root in roots.items()}
        self.cluster.apply([_tagged(one) for one in self.cluster.objects])
        self.until(self._are_rolled, WHOLE_S, "routers are being replaced")
        self.until_whole()
        self.delete_each_pod("shard")
        self.delete_each_pod("head")

    def _are_rolled(self) -> bool:
        wanted = self.cluster.object("Deployment", "bitsift-router")["spec"]["replicas"] + 1
        pods = [*self.cluster.living("router"), *self.cluster.living("control")]
        are_new = all(pod.plan.containers[0].image.endswith(NEXT) for pod in pods)
        return are_new and len(pods) == int(wanted)

    def another_node(self) -> None:
        """One more node with data, a copy moved to it, and it is emptied and taken away again."""
        self.cluster.nodes.append(Node("node-d", "a"))
        before = self.cluster.object("StatefulSet", "bitsift-shard")["spec"]["replicas"]
        self.cluster.scale("StatefulSet", "bitsift-shard", before + 1)
        self.until_whole()
        name = f"bitsift-shard-{before}"
        shard = self.status()["shards"][0]
        source = shard["replicas"][0]["node"]
        number = str(shard["shard"])
        self.exec("control", BITSIFT, "cluster", "move", number, source, name)
        self.until(lambda: name in self._answering(), WHOLE_S, "the copy does not answer")
        self.exec("control", BITSIFT, "cluster", "drain", name)
        self.until(lambda: name not in self._holding(), WHOLE_S, f"{name} is not empty")
        self.cluster.scale("StatefulSet", "bitsift-shard", before)
        self.until(lambda: len(self.cluster.living("shard")) == before, GONE_S, "it does not end")
        self.until(lambda: self.lacks() is None or name in str(self.lacks()), WHOLE_S, "lacking")

    def _answering(self) -> set[str]:
        with contextlib.suppress(AssertionError):
            return {node for shard in self.status()["shards"] for node in shard["answering"]}
        return set()

    def _holding(self) -> set[str]:
        with contextlib.suppress(AssertionError):
            status = self.status()
            return {one["node"] for shard in status["shards"] for one in shard["replicas"]}
        return {f"bitsift-shard-{number}" for number in range(9)}

    def more_routers(self) -> None:
        """One more, and one fewer again: what the autoscaler does."""
        before = self.cluster.object("Deployment", "bitsift-router")["spec"]["replicas"]
        for count in (before + 1, before):
            self.cluster.scale("Deployment", "bitsift-router", count)
            here = functools.partial(self._has_routers, count)
            self.until(here, WHOLE_S, "routers")
            self.until_whole()

    def _has_routers(self, count: int) -> bool:
        return len(self.cluster.living("router")) == count

    def back_up(self) -> None:
        """The nightly job, the weekly one that checks what it made, and restoring a folder."""
        self.run_job(self.cluster.run_cron("bitsift-backup"))
        self.run_job(self.cluster.run_cron("bitsift-verify"))
        self.cluster.release("bitsift-restore")
        self.run_job("bitsift-restore")
        restored = self.cluster.kubelet.volumes.claim("bitsift-backup") / "restored"
        assert (restored / "complete.json").exists()

    def change_spec(self) -> None:
        """A third copy of each shard and another setting: the control pod is replaced, since the
        ConfigMap has another name, and runs `up` again.
        """
        spec = called(self.cluster.objects, "ConfigMap", "bitsift-spec")
        name = spec["metadata"]["name"]
        changed = json.dumps(self.cluster.objects).replace(name, f"{name[:-HASH]}{'c' * HASH}")
        objects = json.loads(changed)
        data = called(objects, "ConfigMap", "bitsift-spec")["data"]
        for before, after in SPEC_CHANGES.items():
            assert before in data["spec.toml"]
            data["spec.toml"] = data["spec.toml"].replace(before, after)
        old = self.cluster.living("control")
        self.cluster.apply(objects)
        self.until(lambda: self._is_other("control", old), WHOLE_S, "the control pod stays")
        self.until(self._has_the_spec, WHOLE_S, "what has other settings is being restarted")
        self.until_whole()

    def _is_other(self, component: str, old: list[RunningPod]) -> bool:
        living = self.cluster.living(component)
        return bool(living) and all(pod.is_ready and pod not in old for pod in living)

    def _has_the_spec(self) -> bool:
        with contextlib.suppress(AssertionError):
            status = self.status()
            copies = {len(shard["answering"]) for shard in status["shards"]}
            return status["rolling"] is None and copies == {COPIES}
        return False

    def reshard(self) -> None:
        """To one shard more."""
        wanted = len(self.status()["shards"]) + 1
        self.exec("control", BITSIFT, "cluster", "reshard", str(wanted))
        self.until(lambda: self._shards() == wanted, WHOLE_S, "it is being resharded")
        self.until_whole()

    def _shards(self) -> int:
        with contextlib.suppress(AssertionError):
            return len(self.status()["shards"])
        return 0

    def lose_disk(self) -> None:
        """That of a shard's pod, with the pod: its claim is made anew, empty."""
        self._lose_volume("bitsift-shard")

    def lose_head_volume(self) -> None:
        """Ray's tables: all of its pods join anew."""
        self._lose_volume("bitsift-head")

    def _lose_volume(self, name: str) -> None:
        owner = self.cluster.object("StatefulSet", name)
        wanted = owner["spec"]["replicas"]
        pod = self.cluster.pod(f"{name}-{wanted - 1}")
        claim = f"{owner['spec']['volumeClaimTemplates'][0]['metadata']['name']}-{pod.plan.name}"
        self.cluster.scale("StatefulSet", name, wanted - 1)  # until its volume is gone
        pod.end(by_force=True)
        pod.wait(GONE_S)
        shutil.rmtree(self.cluster.kubelet.volumes.claim(claim))
        self.cluster.scale("StatefulSet", name, wanted)
        self.until_whole()

    def kill_head(self) -> None:
        """As its node loses power: no preStop, no SIGTERM."""
        (head,) = self.cluster.living("head")
        head.end(by_force=True)
        head.wait(GONE_S)
        self.until_whole()

    def rotate_keys(self) -> None:
        """A key is added, and answered; it is revoked, and refused. Others go on."""
        key, text = made_key("rotated")
        callers = Callers(self.callers.space, self.callers.url, text)
        for keys, status in (([*self.keys, key], 200), (self.keys, 401)):
            content = key_file_bytes(keys).decode()
            self.cluster.set_secret("bitsift-keys", {"keys.json": content})
            self.until(functools.partial(_all_say, callers, status), 60, f"not yet {status}")


def _all_say(callers: Callers, status: int) -> bool:
    """Of every router: a Service sends each connection to any of them."""
    return all(callers.said("GET", "/v1/index").status_code == status for _ in range(8))


def made_key(name: str) -> tuple[Key, str]:
    """As `bitsift keys new`: what the file has, and what callers are given."""
    return new_key(name, Scope.ADMIN, None)


def _tagged(one: Object) -> Object:
    """With the images' next tags; a CronJob's too."""
    text = json.dumps(one)
    if one["kind"] in ("StatefulSet", "Deployment", "CronJob"):
        text = text.replace(f":{VERSION}", f":{NEXT}")
    found: Object = json.loads(text)
    return found
