"""Changed settings reach every process of a cluster under load, and nobody notices."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.asking import Asking, Routers, Writes
from tests.chaos.nodes import ChaosNodes, chaos_nodes
from tests.chaos.rolling import ACTORS, NAMES, PORT, addresses
from tests.commands import bitsift
from tests.fleets import ROWS, Cluster, is_whole, made_cluster, urls

pytestmark = [pytest.mark.needs("namespaces"), pytest.mark.long, pytest.mark.timeout(900)]
PER_S = 10.0
KEPT = ("agent", "controller")
CHANGED = 'query_cache = 7\nwrite_acks = "all"', "compact_above = 0.5"


@dataclass(slots=True)
class Rolled:
    """A cluster under load, whose spec is changed."""

    cluster: Cluster
    nodes: ChaosNodes
    asking: Asking
    writes: Writes
    keys: dict[str, str]
    seen: list[dict[str, Any]] = field(default_factory=list)
    """What status said of each change."""

    def spec(self, keys: str, serve: str = "", shards: str = "") -> Path:
        more = f'{serve}\n[access]\nkeys = "{keys}.json"\n[shards]\n{shards}\n'
        return self.cluster.spec(routers=2, grace_s=300, host="0.0.0.0", port=PORT, more=more)

    def change(self, spec: Path) -> None:
        """Until all that runs has it."""
        self.cluster.run("up", "--no-wait", spec)
        self.cluster.until(self._is_rolled, 300)

    def _is_rolled(self, status: dict[str, Any]) -> bool:
        if status["rolling"] is not None:
            self.seen.append(status["rolling"])
        is_well = all(router["is_well"] for router in status["routers"])
        return status["rolling"] is None and is_whole(status) and is_well

    def pids(self) -> dict[str, set[int]]:
        """Of the actors of each kind."""
        return {
            what: {pid for node in NAMES for pid in self.nodes.actors(node, kind)}
            for what, kind in ACTORS.items()
        }

    def use(self, key: str) -> None:
        for routers in (self.asking.routers, self.writes.routers):
            routers.key = self.keys[key]

    def statuses_with(self, key: str) -> set[int]:
        """How each router answers whoever shows a key."""
        headers = {"authorization": f"Bearer {self.keys[key]}"}
        found = urls(self.cluster.run("status")).values()
        asks = [httpx.get(f"{url}/v1/index", headers=headers, trust_env=False) for url in found]
        return {answer.status_code for answer in asks}


def made_keys(folder: Path) -> dict[str, str]:
    """old.json and new.json have a key each, both.json has the two."""
    found, kept = {}, {}
    for name in ("old", "new"):
        made = ["keys", "new", "--keys", folder / f"{name}.json", "--scope", "admin", "--json"]
        found[name] = json.loads(bitsift(*made).stdout)["key"]
        kept[name] = json.loads((folder / f"{name}.json").read_text())
    both = kept["old"] | {"keys": [*kept["old"]["keys"], *kept["new"]["keys"]]}
    path = folder / "both.json"
    path.touch(0o600)
    path.write_text(json.dumps(both))
    return found


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rolled]:
    folder = tmp_path_factory.mktemp("rolled")
    with chaos_nodes(NAMES) as nodes:
        cluster, keys = made_cluster(folder, nodes), made_keys(folder)
        routers = [Routers(addresses(nodes), keys["old"]) for _ in range(2)]
        asking, writes = Asking(cluster, routers[0], PER_S), Writes(cluster, routers[1])
        found = Rolled(cluster, nodes, asking, writes, keys)
        cluster.run("up", found.spec("old"))
        yield found
        cluster.run("down")


def test_changed_settings_cost_no_answer_and_no_acknowledged_write(rolled: Rolled) -> None:
    asking, writes = rolled.asking, rolled.writes
    before = rolled.pids()
    with asking.going_on(), writes.going_on():
        time.sleep(2.0)
        rolled.change(rolled.spec("both", *CHANGED))
        after = rolled.pids()
        rolled.use("new")
        rolled.change(rolled.spec("new", *CHANGED))
        time.sleep(2.0)
    last = rolled.pids()
    for what in ACTORS:
        assert len(after[what]) == len(before[what]), (what, before, after)
        assert (after[what] == before[what]) == (what in KEPT), (what, before, after)
        assert (last[what] == after[what]) == (what != "router"), (what, after, last)
    assert rolled.seen[0]["total"] == 7
    assert rolled.statuses_with("new") == {200}
    assert rolled.statuses_with("old") == {401}

    asked = asking.counts()
    assert not [said for said in writes.refused if said.startswith("{")], "some met no open door"
    assert asking.wrong == []
    assert asked["answered"] == asked["asked"] > 200
    assert len(writes.acknowledged) > 100
    status = rolled.cluster.run("status")
    assert [writes.lost(url) for url in urls(status).values()] == [[], []]
    versions = [{r["version"] for r in shard["replicas"]} for shard in status["shards"]]
    assert all(len(found) == 1 for found in versions), versions


def test_what_cannot_be_changed_while_it_runs_says_so(rolled: Rolled) -> None:
    folder = rolled.cluster.folder
    bitsift("index", ROWS, "--shards", 3, "--out", folder / "other")
    spec = rolled.spec("old")
    spec.write_text(spec.read_text().replace('folder = "index"', 'folder = "other"'))
    refused = rolled.cluster.run("up", spec, check=False)
    assert refused["type"] == "bitsift:InvalidRequest"
    assert "bitsift cluster reshard 3" in refused["detail"]
    spec.write_text(spec.read_text().replace("data/{node}", "elsewhere/{node}"))
    refused = rolled.cluster.run("up", spec, check=False)
    assert "run bitsift cluster down first" in refused["detail"]
    spec.write_text(spec.read_text().replace("replicas = 2", "replicas = 2\nshards = 3"))
    refused = rolled.cluster.run("up", spec, check=False)
    assert "bitsift cluster reshard N" in refused["detail"]
    assert rolled.cluster.run("status")["rolling"] is None
