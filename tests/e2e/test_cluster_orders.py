"""What operators order of a cluster, under load; and where an index comes from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.chaos.nodes import chaos_nodes
from tests.commands import bitsift
from tests.fleets import PLAIN, ROWS, Cluster, Load, answering, is_whole, made_cluster, urls
from tests.ray_nodes import RayNodes, ray_nodes

pytestmark = pytest.mark.long
OPEN = "[access]\ninsecure = true\n"


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes({"a": {}, "b": {}, "c": {}}) as nodes:
        yield nodes


def answers(cluster: Cluster, url: str) -> None:
    for number in range(len(cluster.queries)):
        cluster.ask(url, number)


def test_a_copy_is_moved_and_another_is_added_under_load(nodes: RayNodes, tmp_path: Path) -> None:
    cluster = made_cluster(tmp_path, nodes)
    status = cluster.run("up", cluster.spec(routers=1))
    (url,) = urls(status).values()
    held = answering(status)[0]
    source, (target,) = min(held), {"a", "b", "c"} - held
    with Load.on(cluster, url):
        cluster.run("move", 0, source, target)
        wanted = held - {source} | {target}
        status = cluster.until(lambda status: answering(status)[0] == wanted and is_whole(status))
        cluster.until(
            lambda status: source not in {it["node"] for it in status["shards"][0]["replicas"]}
        )
        assert not list((tmp_path / "data" / source).glob("*/shard-00000"))
        refused = cluster.run("move", 0, source, target, check=False)
        assert refused["type"] == "bitsift:NotFound"

        cluster.run("add-replica", 0)
        status = cluster.until(lambda status: answering(status)[0] == {"a", "b", "c"})
        refused = cluster.run("add-replica", 0, "b", check=False)
        assert refused["type"] == "bitsift:InvalidRequest"
    assert len(answering(status)[1]) == 2
    answers(cluster, url)
    cluster.run("down")


@pytest.mark.parametrize("form", ["folder", "URL"])
def test_an_index_comes_from_a_backup(nodes: RayNodes, tmp_path: Path, form: str) -> None:
    cluster = made_cluster(tmp_path, nodes)
    backup = tmp_path / "backup"
    bitsift("backup", tmp_path / "index", backup)
    shutil.rmtree(tmp_path / "index")
    source = backup.as_uri() if form == "URL" else backup.name
    status = cluster.run("up", cluster.spec(routers=1, index=f'backup = "{source}"'))
    assert [len(found) for found in answering(status)] == [2, 2]
    shutil.rmtree(backup)
    answers(cluster, *urls(status).values())
    cluster.run("down")


@pytest.mark.needs("namespaces")
def test_an_index_that_one_node_has_is_copied_by_the_others(tmp_path: Path) -> None:
    with chaos_nodes(["a", "b", "c"]) as nodes:
        cluster = made_cluster(tmp_path, nodes)
        for name in ("a", "c"):  # they see an empty folder
            hidden = ["mount", "-t", "tmpfs", "tmpfs", tmp_path / "index"]
            assert nodes.inside(name, hidden).returncode == 0
        index = 'folder = "index"\nnode = "b"'
        status = cluster.run("up", cluster.spec(routers=1, host="0.0.0.0", index=index, more=OPEN))
        assert [len(found) for found in answering(status)] == [2, 2]
        answers(cluster, *urls(status).values())
        cluster.run("down")


def test_a_replicated_index_is_restored_to_another_number_of_replicas(
    nodes: RayNodes, tmp_path: Path
) -> None:
    """What was acknowledged before the backup began is in it, once, whichever replica it was of."""
    cluster, root = made_cluster(tmp_path, nodes), tmp_path / "backups"
    root.mkdir()
    access = f'[access]\nbackup_root = "{root}"\n'
    status = cluster.run("up", cluster.spec(replicas=3, routers=1, more=access))
    (url,) = urls(status).values()
    written = {f"new {number}": [1.0, *[0.0] * (ROWS.dim - 1)] for number in range(300)}
    documents = [{"id": name, "text": name, "vector": it} for name, it in written.items()]
    said = httpx.post(f"{url}/v1/documents", json={"documents": documents}, timeout=60, **PLAIN)
    assert said.json()["created"] == len(written)
    assert httpx.delete(f"{url}/v1/documents/new%200", timeout=20, **PLAIN).status_code == 200
    dest = {"dest": str(root / "one")}
    copied = httpx.post(f"{url}/v1/admin/backup", json=dest, timeout=120, **PLAIN)
    assert copied.status_code == 200, copied.text
    cluster.run("down")
    for replicas in (1, 2):
        shutil.rmtree(tmp_path / "data")
        spec = cluster.spec(replicas=replicas, routers=1, index='backup = "backups/one"')
        status = cluster.run("up", spec)
        assert [len(found) for found in answering(status)] == [replicas, replicas]
        (url,) = urls(status).values()
        for name in written:
            got = httpx.get(f"{url}/v1/documents/{quote(name)}", timeout=20, **PLAIN)
            assert got.status_code == (404 if name == "new 0" else 200), got.text
        info = httpx.get(f"{url}/v1/index", timeout=20, **PLAIN).json()
        assert info["documents"] == ROWS.rows + len(written) - 1
        cluster.run("down")
