"""``make rehearse``: the manifests of ``production``, run pod by pod on this machine.

Each pod has the root of its image, its user, no capabilities, its limits, volumes, probes and
network policies (kubelet.py, bundles.py, policies.py). Callers ask through the Service all the
while, and write; then what docs/kubernetes.md describes is done. What became of queries and writes,
of connections and of memory goes into benchmarks/results. Needs root.

Not as on a cluster: one machine, so CPUs are shared, no real node fails and no volume is attached;
volumes are folders without sizes; names are in /etc/hosts; the autoscaler is played.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from bitsift.cluster.bench.machine import write_result
from bitsift.router.http.keys import key_file_bytes
from tests.chaos.asking import Asking, Writes, percentile_ms
from tests.k8s.rendered import ROOT, objects, rendered_with
from tests.k8s.workloads import VERSION
from tests.rehearsal import design, images
from tests.rehearsal.callers import Callers
from tests.rehearsal.cluster import Node, Rehearsed
from tests.rehearsal.network import network
from tests.rehearsal.steps import Rehearsal, made_key
from tests.tiny_model import build_tiny_model

log = logging.getLogger("rehearsal")

RESULTS = ROOT / "benchmarks" / "results"
WORDS = ROOT / "cluster" / "data" / "wordnet_en.jsonl.gz"
MODEL = Path("/backup/models/model")
CALM_S = 5.0
UP_S = 900.0
STEPS = {
    "each router deleted": lambda one: one.delete_each_pod("router"),
    "each shard's pod deleted": lambda one: one.delete_each_pod("shard"),
    "the head deleted": lambda one: one.delete_each_pod("head"),
    "the control pod deleted": lambda one: one.delete_each_pod("control"),
    "a node drained": Rehearsal.drain_node,
    "the image rolled": Rehearsal.roll_image,
    "another node with data, and back": Rehearsal.another_node,
    "another router, and back": Rehearsal.more_routers,
    "backup, verify and restore": Rehearsal.back_up,
    "the head killed": Rehearsal.kill_head,
    "keys rotated": Rehearsal.rotate_keys,
    "a third copy and another setting": Rehearsal.change_spec,
    "one shard more": Rehearsal.reshard,
    "a disk lost": Rehearsal.lose_disk,
    "the head's volume lost": Rehearsal.lose_head_volume,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal", description=__doc__)
    parser.add_argument("--overlay", default="production")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--per-s", type=float, default=20.0, help="queries a second")
    parser.add_argument(
        "--model-on-volume", action="store_true", help="by a folder on the backup volume"
    )
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=list(STEPS))
    parser.add_argument("--folder", type=Path, help="keep volumes and logs here")
    parser.add_argument("--out", type=Path, help="by default a file for each overlay")
    options = parser.parse_args()
    kind = "_model" if options.model_on_volume else ""
    options.out = options.out or RESULTS / f"rehearsal_{options.overlay}{kind}.json"
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)8d %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with ExitStack() as stack:
        folder = options.folder or Path(tempfile.mkdtemp(prefix="rehearsal-"))
        if options.folder is None:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(images.release)
        roots = {target: images.root_of(target) for target in images.TARGETS}
        _run(stack, folder, roots, options)


def _run(stack: ExitStack, folder: Path, roots: dict[str, Path], options: Any) -> None:
    net = stack.enter_context(network())
    key, text = made_key("callers")
    backup, backup_text = made_key("backup")
    of = objects(options.overlay)
    if options.model_on_volume:
        of = list(yaml.safe_load_all(rendered_with(options.overlay, "model", str(MODEL))))
    cluster = Rehearsed(
        folder,
        net,
        _by_name(of, roots),
        {
            "bitsift-ray": {"auth_token": secrets.token_hex(32)},
            "bitsift-keys": {"keys.json": key_file_bytes([backup, key]).decode()},
            "bitsift-backup-key": {"key": backup_text},
        },
        [Node(f"node-{zone}", zone) for zone in "abc"],
    )
    stack.callback(cluster.close)
    found: dict[str, Any] = {"overlay": options.overlay, "documents": options.documents}
    if options.model_on_volume:
        found["model"] = str(MODEL)
    began_s = time.monotonic()
    design.add_strangers(cluster)
    cluster.apply(of)
    _write_documents(cluster, options.documents)
    if options.model_on_volume:
        _write_model(cluster)
    cluster.release("bitsift-ingest")
    service = cluster.services()["bitsift"]
    caller = cluster.strangers["caller"]
    callers = Callers(net.space(caller.address), f"http://{service.address}:{service.port}", text)
    rehearsal = Rehearsal(cluster, callers, [backup, key])
    rehearsal.run_job("bitsift-ingest")
    found["ingested_s"] = round(time.monotonic() - began_s, 1)
    rehearsal.until_whole(UP_S)
    found["up_s"] = round(time.monotonic() - began_s, 1)
    found["index"] = callers.said("GET", "/v1/index").json()
    log.info("up after %s s: %s", found["up_s"], found["index"])
    texts = callers.truth()
    asking, writes = callers.asking(texts, options.per_s), callers.writes(texts)
    found["steps"] = {}
    try:
        with asking.going_on(), writes.going_on():
            for name in options.steps:
                found["steps"][name] = _step(rehearsal, name, asking, writes)
                log.info("%s: %s", name, json.dumps(found["steps"][name]))
                _note(found, cluster, options.out)
        found["queries"], found["query_problems"] = asking.counts(), asking.wrong[:20]
        found["writes"] = {
            "acknowledged": len(writes.acknowledged),
            "refused": len(writes.refused),
            "lost": len(callers.lost(writes)),
            "refusals": Counter(said[:160] for said in writes.refused).most_common(8),
        }
        found["network"] = _network(cluster)
    finally:
        _note(found, cluster, options.out)
    log.info("%s", json.dumps({name: found[name] for name in ("queries", "writes", "network")}))


def _by_name(of: list[Any], roots: dict[str, Path]) -> dict[str, Path]:
    """The root of each image that the manifests name."""
    names = {
        word
        for word in json.dumps(of).replace('"', " ").split()
        if word.endswith(f":{VERSION}") and "bitsift-" in word
    }
    return {name: roots[name.rpartition("bitsift-")[2].partition(":")[0]] for name in names}


def _write_documents(cluster: Rehearsed, count: int) -> None:
    """What the user copies to the folder ``source`` of the backup volume."""
    volume = cluster.kubelet.volumes.claim("bitsift-backup")
    (volume / "source").mkdir(parents=True)
    with gzip.open(WORDS, "rt") as words, (volume / "source" / "words.jsonl").open("w") as file:
        for _, line in zip(range(count), words, strict=False):
            file.write(line)
    for path in (volume / "source", volume / "source" / "words.jsonl"):
        os.chown(path, 10_001, 10_001)


def _write_model(cluster: Rehearsed) -> None:
    """Another model than the one in the image: what the user copies to the backup volume."""
    volume = cluster.kubelet.volumes.claim("bitsift-backup")
    (volume / "models").mkdir()
    build_tiny_model(volume / "models", dimension=384)  # of the vectors that callers write
    for path in (volume / "models", *(volume / "models").rglob("*")):
        os.chown(path, 10_001, 10_001)


def _step(rehearsal: Rehearsal, name: str, asking: Asking, writes: Writes) -> dict[str, Any]:
    time.sleep(CALM_S)
    began_s = time.monotonic()
    acknowledged, refused = len(writes.acknowledged), len(writes.refused)
    problem = None
    log.info("--- %s", name)
    try:
        STEPS[name](rehearsal)
    except AssertionError as error:
        problem = str(error)[:2_000]
    took_s = time.monotonic() - began_s
    time.sleep(CALM_S)
    counts = asking.counts(began_s)
    return {
        "took_s": round(took_s, 1),
        "queries": counts,
        "p99_ms": percentile_ms(asking.between(began_s, time.monotonic()), 0.99),
        "writes_acknowledged": len(writes.acknowledged) - acknowledged,
        "writes_refused": len(writes.refused) - refused,
        "problem": problem,
    }


def _network(cluster: Rehearsed) -> dict[str, Any]:
    """Connections as the design has them, and what pods tried in vain all the while."""
    denied: Counter[str] = Counter()
    for pod in cluster.living():
        for address, port in cluster.network.remembered(pod.plan.address)[0]:
            denied[f"{pod.plan.labels['app.kubernetes.io/component']} to {address}:{port}"] += 1
    found = design.tried(cluster)  # its own attempts are remembered, too
    return {
        "tried": found.tried,
        "allowed_but_not_needed": found.too_many,
        "needed_but_blocked": found.blocked,
    } | {"tried_by_pods_and_denied": denied.most_common(40)}


def _memory(cluster: Rehearsed) -> dict[str, Any]:
    """The most that any container of a kind held, and its limit over that."""
    peaks: dict[str, int] = {}
    limits: dict[str, int] = {}
    for pod in cluster.history:
        for container in (*pod.plan.init, *pod.plan.containers):
            running = pod.container
            now = running.peak_bytes if running is not None else 0
            peak = max(pod.peaks.get(container.name, 0), now)
            name = f"{pod.plan.labels['app.kubernetes.io/component']}/{container.name}"
            peaks[name] = max(peaks.get(name, 0), peak)
            limits[name] = container.memory_bytes
    return {
        name: {
            "peak_mib": round(peak / 2**20),
            "limit_mib": limits[name] >> 20,
            "ratio": round(limits[name] / peak, 2) if peak else None,
        }
        for name, peak in sorted(peaks.items())
    }


def _note(found: dict[str, Any], cluster: Rehearsed, out: Path) -> None:
    found["memory"] = _memory(cluster)
    found["restarts"] = {pod.plan.name: pod.restarts for pod in cluster.history if pod.restarts}
    write_result(out, found)


if __name__ == "__main__":
    main()
