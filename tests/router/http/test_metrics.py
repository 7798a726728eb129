"""/metrics: valid for Prometheus' own parser, by its conventions, and what happened is in it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from bitsift.errors import ShardUnavailable
from bitsift.router import metrics_page
from bitsift.router.http.by_filter import counts_of
from bitsift.router.http.routes import ROUTE_SCOPES, template_of
from bitsift.router.indexes import Indexes, Served
from bitsift.router.metrics_page import MetricsPage
from bitsift.router.shadow.comparison import Compared
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.replica import Replica
from bitsift.router.shards.standing import Standing
from bitsift.shard_worker.types import ShardStatus
from bitsift.write_results import UPSERT_STATUSES
from tests.fakes import BrokenLink, FrozenLink, HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running
from tests.metric_table import listed

DIMENSION = 64
TEXTS = [f"a text about number {i}" for i in range(40)]
JSON = {"content-type": "application/json"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    units = HashEncoder(DIMENSION).encode_documents(TEXTS)
    shards, calibration = make_shards(tmp_path, units, DIMENSION, 2, TEXTS)
    links = [LocalLink(s) for s in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    yield running
    running.stop()
    for shard in shards:
        shard.close()


def page(gateway: Running) -> str:
    answer = httpx.get(f"{gateway.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.text


def families(gateway: Running) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(page(gateway))}


def value(gateway: Running, name: str, **labels: str) -> float:
    """The sample of that name with these labels; 0 where there is none."""
    samples = [sample for family in families(gateway).values() for sample in family.samples]
    found = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
    return sum(found)


def search(gateway: Running, **options: object) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/search", json={"query": TEXTS[3], **options})


# --- form -------------------------------------------------------------------------------------

_NO_BASE_UNITS = {"milliseconds", "ms", "minutes", "hours", "days", "bits", "kib", "percent"}


def faults(family: Metric) -> Iterator[str]:
    """What `promtool check metrics` would say, and that names begin with ours."""
    name = family.name
    if not name.startswith(("bitsift_", "process_")):
        yield "the prefix"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        yield "the characters"
    if not family.documentation:
        yield "no help text"
    if family.type == "gauge" and name.endswith(("_total", "_count", "_sum", "_bucket")):
        yield "a suffix of another type"
    if any(f"_{kind}" in name for kind in ("counter", "gauge", "histogram", "summary")):
        yield "its type in its name"
    if _NO_BASE_UNITS.intersection(name.split("_")):
        yield "a unit that is not a base unit"
    if family.type == "histogram" and not name.endswith(("_seconds", "_bytes", "_items")):
        yield "no unit"


def test_the_page_is_valid_and_keeps_the_conventions(gateway: Running) -> None:
    search(gateway)
    text = page(gateway)
    found = list(text_string_to_metric_families(text))
    assert {family.name: list(faults(family)) for family in found if list(faults(family))} == {}
    assert len({family.name for family in found}) == len(found)
    assert re.search(r"^# TYPE bitsift_http_requests_total counter$", text, re.MULTILINE)
    assert "_created" not in text


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_to_object_to(gateway: Running) -> None:
    search(gateway)
    check = ["promtool", "check", "metrics"]
    found = subprocess.run(check, input=page(gateway), text=True, capture_output=True, timeout=60)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_the_page_on_monitoring_names_every_metric_and_its_labels(gateway: Running) -> None:
    search(gateway, filter={"id": "3"})
    gateway.service.syncs = [{"shard": 0, "node": "a", "state": "in step", "missed": 0}]
    httpx.post(f"{gateway.url}/v1/documents/delete", json={"ids": ["nobody"]})
    gateway.service.shadow.estimates.add("auto", "unfiltered", Compared(1.0, 1.0))
    gateway.service.metrics.shadowed("compared", 0.1)
    found = {}
    for name, family in families(gateway).items():
        if not name.startswith("process_"):
            shown = f"{name}_total" if family.type == "counter" else name
            used = {label for sample in family.samples for label in sample.labels}
            found[shown] = family.type, used - {"le"}
    assert found == listed()


def test_a_fault_of_form_is_found() -> None:
    wrong = [
        Metric("other_things", "h", "gauge"),
        Metric("bitsift_x", "", "gauge"),
        Metric("bitsift_x_total", "h", "gauge"),
        Metric("bitsift_gauge", "h", "gauge"),
        Metric("bitsift_x_ms", "h", "gauge"),
        Metric("bitsift_x", "h", "histogram"),
    ]
    assert all(list(faults(family)) for family in wrong)


# --- what it counts ---------------------------------------------------------------------------


def test_requests_are_counted_by_route_method_and_status(gateway: Running) -> None:
    for _ in range(3):
        search(gateway)
    search(gateway, top_k=0)
    httpx.get(f"{gateway.url}/v1/documents/3")
    httpx.head(f"{gateway.url}/v1/documents/nobody")
    httpx.get(f"{gateway.url}/nothing/here")
    httpx.request("PROPFIND", f"{gateway.url}/v1/search")
    name, route = "bitsift_http_requests_total", "/v1/search"
    assert value(gateway, name, route=route, method="POST", status="200") == 3
    assert value(gateway, name, route=route, method="POST", status="422") == 1
    assert value(gateway, name, route="/v1/documents/*", method="GET", status="200") == 1
    assert value(gateway, name, route="/v1/documents/*", method="HEAD", status="404") == 1
    assert value(gateway, name, route="other", method="GET", status="404") == 1
    assert value(gateway, name, route=route, method="other", status="405") == 1
    seconds = "bitsift_http_request_duration_seconds_count"
    assert value(gateway, seconds, route=route, method="POST") == 4


def test_ids_texts_and_unknown_paths_are_in_no_label(gateway: Running) -> None:
    search(gateway, query="zebra crossing")
    for n in range(30):
        httpx.get(f"{gateway.url}/v1/documents/zebra{n}")
        httpx.get(f"{gateway.url}/zebra{n}")
    text = page(gateway)
    assert "zebra" not in text
    assert text.count('bitsift_http_requests_total{method="GET"') < 5


@pytest.mark.parametrize("route", ROUTE_SCOPES)
def test_every_route_has_one_label(route: str) -> None:
    path = route.split()[1]
    below = path.endswith("/") and path != "/"
    assert template_of(f"{path}x/y" if below else path) == (f"{path}*" if below else path)


def test_searches_their_stages_and_their_shards_are_counted(gateway: Running) -> None:
    for _ in range(4):
        search(gateway, mode="exact")
    search(gateway, mode="exhaustive")
    assert value(gateway, "bitsift_searches_total", mode="exact", outcome="complete") == 4
    assert value(gateway, "bitsift_search_duration_seconds_count", mode="exhaustive") == 1
    for stage in ("encode", "fan_out", "rescore", "texts"):
        name = "bitsift_search_stage_duration_seconds_count"
        assert value(gateway, name, stage=stage) == 5
    assert value(gateway, "bitsift_shard_queries_total", shard="1", outcome="answered") == 5
    assert value(gateway, "bitsift_batch_items_count", queue="search") == 8  # four by two shards
    assert value(gateway, "bitsift_batch_items_sum", queue="encode") == 1  # then it was known
    assert value(gateway, "bitsift_queue_wait_seconds_count", queue="exhaustive") == 2
    assert value(gateway, "bitsift_query_cache_hits_total") == 4
    assert value(gateway, "bitsift_queue_waiting", queue="search") == 0


def test_ways_of_filters_are_counted(gateway: Running) -> None:
    search(gateway, filter={"id": {"$in": ["3", "4"]}})
    search(gateway)
    plans = families(gateway)["bitsift_filter_plans"].samples
    assert sum(sample.value for sample in plans) == 2  # one for each shard


def test_partial_answers_and_errors_are_counted(tmp_path: Path) -> None:
    units = HashEncoder(DIMENSION).encode_documents(TEXTS)
    shards, calibration = make_shards(tmp_path, units, DIMENSION, 2, TEXTS)
    links = [LocalLink(shards[0]), BrokenLink(ShardUnavailable("no disk"))]
    gateway = Running(make_service(links, calibration), make_writer(links, calibration))
    try:
        assert search(gateway, mode="exact").json()["partial"]
        assert search(gateway, mode="exact", require_complete=True).status_code == 503
        name = "bitsift_searches_total"
        assert value(gateway, name, outcome="partial") == 1
        assert value(gateway, name, outcome="ShardUnavailable") == 1
        failed = {"shard": "1", "outcome": "ShardUnavailable"}
        assert value(gateway, "bitsift_shard_queries_total", **failed) == 2
        assert value(gateway, "bitsift_replica_up", shard="0") == 1
        assert value(gateway, "bitsift_replica_up", shard="1") == 0
    finally:
        gateway.stop()
        for shard in shards:
            shard.close()


def test_documents_are_counted_by_what_became_of_them(gateway: Running) -> None:
    documents = [{"id": "new", "text": "a"}, {"id": "3", "text": "b"}, {"id": "", "text": "c"}]
    httpx.post(f"{gateway.url}/v1/documents", json={"documents": documents})
    lines = b'{"id": "line", "text": "d"}\nno JSON\n'
    ndjson = {"content-type": "application/x-ndjson"}
    httpx.post(f"{gateway.url}/v1/documents", content=lines, headers=ndjson)
    httpx.post(f"{gateway.url}/v1/documents/delete", json={"ids": ["new", "nobody"]})
    httpx.delete(f"{gateway.url}/v1/documents/line")
    expected = {
        ("upsert", "created"): 2,
        ("upsert", "updated"): 1,
        ("upsert", "rejected"): 2,
        ("delete", "deleted"): 2,
        ("delete", "missing"): 1,
        ("delete", "failed"): 0,
    }
    for (operation, status), count in expected.items():
        found = value(
            gateway, "bitsift_documents_written_total", operation=operation, status=status
        )
        assert found == count, (operation, status)


@given(st.lists(st.text()), st.lists(st.integers(0, 10**6), min_size=6, max_size=6))
def test_the_counts_of_an_answer_are_read_from_its_end(ids: list[str], counts: list[int]) -> None:
    ids = [text.encode("utf-8", "replace").decode() for text in ids]
    by_status = dict(zip(UPSERT_STATUSES, counts, strict=True))
    results = [{"id": it, "status": "created", "error": None} for it in ids]
    whole = {"results": results, **by_status, "token": "abc"}
    assert counts_of(orjson.dumps(whole)) == by_status


def test_what_shards_hold_and_what_their_disks_have_left(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_page, "FRESH_S", 0.0)
    status = gateway.service.shards.sets[0].replicas[0]
    assert value(gateway, "bitsift_shard_documents") == len(TEXTS)
    assert value(gateway, "bitsift_shard_rows", shard="0") > 0
    for name in ("index_bytes", "disk_bytes", "volume_bytes", "volume_free_bytes"):
        assert value(gateway, f"bitsift_replica_{name}", shard="0") > 0, name
    assert value(gateway, "bitsift_replica_damaged_rows") == 0
    status.hedges, status.retries = 3, 2
    assert value(gateway, "bitsift_replica_hedges_total", shard="0") == 3
    assert value(gateway, "bitsift_replica_retries_total", shard="0") == 2


def test_the_only_node_of_a_server_has_one_name(tmp_path: Path) -> None:
    """Ray's is another at each start, and each would be a new series."""
    status = ShardStatus(0, "READY", node="a0b1")
    alone = Replica(0, "", CountingLink())  # type: ignore[arg-type]
    of_cluster = Replica(0, "pod-1", CountingLink())  # type: ignore[arg-type]
    standing = Standing(None, None)
    assert metrics_page._node(alone.facts(status, standing), status) == "local"
    assert metrics_page._node(of_cluster.facts(status, standing), status) == "pod-1"
    gone = ShardStatus(0, "UNREACHABLE")
    assert metrics_page._node(alone.facts(gone, standing), gone) == "local"
    assert metrics_page._node(of_cluster.facts(gone, standing), gone) == "pod-1"


def test_what_a_controller_says_of_replicas(gateway: Running) -> None:
    gateway.service.syncs = [
        {"shard": 0, "node": "a", "state": "in step", "missed": 0},
        {"shard": 0, "node": "b", "state": "behind", "missed": 12},
        {"shard": 0, "node": "c", "state": "behind", "missed": None},
    ]
    assert value(gateway, "bitsift_replica_in_step", node="a") == 1
    assert value(gateway, "bitsift_replica_in_step", node="b") == 0
    assert value(gateway, "bitsift_replica_missed_documents", node="b") == 12
    names = families(gateway)["bitsift_replica_missed_documents"].samples
    assert [sample.labels["node"] for sample in names] == ["a", "b"]


def test_the_event_loop_is_in_it(gateway: Running) -> None:
    time.sleep(0.3)
    assert value(gateway, "bitsift_event_loop_lag_seconds_count") >= 2
    assert value(gateway, "bitsift_event_loop_block_seconds_count") >= 2


# --- what it costs ----------------------------------------------------------------------------


class CountingLink(FrozenLink):
    """Never says how it is, and counts who asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def status(self):  # type: ignore[no-untyped-def]
        self.asked += 1
        await asyncio.Event().wait()


def test_a_silent_shard_is_waited_for_shortly_and_asked_once_by_all_who_look(
    tmp_path: Path,
) -> None:
    units = HashEncoder(DIMENSION).encode_documents(TEXTS)
    shards, calibration = make_shards(tmp_path, units, DIMENSION, 2, TEXTS)
    silent = CountingLink()

    async def scenario() -> None:
        service = make_service([LocalLink(shards[0]), silent], calibration)
        page = MetricsPage(Indexes(Served("a", service, None)))
        texts = await asyncio.gather(*(page.text() for _ in range(50)))
        assert len(set(texts)) == 1
        (look,) = page._looks.values()
        was_asked = look._asking
        assert was_asked is not None, "the page came only when the shard had been given up"
        await asyncio.gather(*(page.text() for _ in range(50)))
        assert silent.asked == 1
        await was_asked
        text = (await page.text()).decode()
        assert re.search(r'bitsift_replica_up\{.*shard="1"\} 0\.0', text)
        assert re.search(r'bitsift_replica_up\{.*shard="0"\} 1\.0', text)
        assert silent.asked == 1

    asyncio.run(scenario())
    for shard in shards:
        shard.close()


def test_who_stops_waiting_for_a_page_leaves_it_to_the_others(tmp_path: Path) -> None:
    shards, calibration = make_shards(tmp_path, np.empty((0, 32), np.float32), 32, 1)

    async def scenario() -> None:
        service = make_service([LocalLink(shards[0])], calibration)
        page = MetricsPage(Indexes(Served("a", service, None)))
        first, second = (asyncio.create_task(page.text()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert b"bitsift_build_info" in await second

    asyncio.run(scenario())
    shards[0].close()


def test_recall_of_live_searches_is_on_the_page_and_in_the_index(gateway: Running) -> None:
    assert httpx.get(f"{gateway.url}/v1/index").json()["shadow"] == {
        "share": 0.0, "cpu": 0.01, "estimates": [],
    }  # fmt: skip
    assert value(gateway, "bitsift_shadow_recall_ratio") == 0
    for recall in (1.0, 0.5):
        gateway.service.shadow.estimates.add("exact", "scan", Compared(recall, recall / 2))
    (said,) = httpx.get(f"{gateway.url}/v1/index").json()["shadow"]["estimates"]
    assert (said["mode"], said["plan"], said["searches"]) == ("exact", "scan", 2)
    labels = {"mode": "exact", "plan": "scan"}
    assert value(gateway, "bitsift_shadow_sample_searches", **labels) == 2
    for bound in ("mean", "low", "high"):
        for name, field in (("recall", "recall_at_10"), ("overlap", "rank_biased_overlap")):
            found = value(gateway, f"bitsift_shadow_{name}_ratio", **labels, bound=bound)
            assert found == said[field][bound]
    assert said["recall_at_10"]["mean"] == 0.75
    assert said["rank_biased_overlap"]["mean"] == 0.375
