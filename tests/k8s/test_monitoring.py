"""The component ``monitoring``: what it asks for exists, and each alert fires when it should."""

from __future__ import annotations

import copy
import functools
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitsift.router.http.routes import ROUTE_SCOPES
from tests.k8s.monitoring import (
    dashboard,
    dashboard_mistakes,
    expression_mistakes,
    monitoring_mistakes,
    rules,
)
from tests.k8s.rendered import MANIFESTS, OVERLAYS, Object, called, kubectl
from tests.metric_table import PAGE, series

COMPONENT = MANIFESTS / "components" / "monitoring"
ROUTES = {route.split(" ")[1] for route in ROUTE_SCOPES}


@functools.cache
def _with_monitoring(name: str, folder: Path) -> str:
    def beside(path: Path) -> str:  # kustomize takes no absolute ones
        return os.path.relpath(path, folder)

    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "bitsift",
        "resources": [beside(MANIFESTS / "overlays" / name)],
        "components": [beside(COMPONENT)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("monitoring")


@pytest.fixture
def of(folder: Path) -> list[Object]:
    """The objects of production with the component."""
    return list(yaml.load_all(_with_monitoring("production", folder), Loader=yaml.CSafeLoader))


@pytest.mark.parametrize("name", OVERLAYS)
def test_nothing_is_wrong_with_any_overlay(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rendered = _with_monitoring(name, tmp_path_factory.mktemp(name))
    found = list(yaml.load_all(rendered, Loader=yaml.CSafeLoader))
    assert list(monitoring_mistakes(found, series(), ROUTES)) == []


def test_no_overlay_asks_for_it_by_itself() -> None:
    for name in OVERLAYS:
        own = yaml.safe_load((MANIFESTS / "overlays" / name / "kustomization.yaml").read_text())
        assert "components" not in own  # a cluster without the operator has no such kinds


# --- planted mistakes are found ---------------------------------------------------------------

Plant = Callable[[list[Object]], Any]


def monitor(of: list[Object]) -> Object:
    found: Object = called(of, "ServiceMonitor", "bitsift")["spec"]
    return found


def endpoint(of: list[Object]) -> Object:
    found: Object = monitor(of)["endpoints"][0]
    return found


PLANTED: dict[str, Plant] = {
    "a typo": lambda of: endpoint(of).update(scrapeTimeOut="5s"),
    "another version": lambda of: called(of, "ServiceMonitor", "bitsift").update(
        apiVersion="monitoring.coreos.com/v1beta1"
    ),
    "no such port": lambda of: endpoint(of).update(port="metrics"),
    "no such route": lambda of: endpoint(of).update(path="/v1/metrics"),
    "no key": lambda of: endpoint(of).pop("authorization"),
    "no such secret": lambda of: endpoint(of)["authorization"]["credentials"].update(name="key"),
    "a scrape longer than its interval": lambda of: endpoint(of).update(scrapeTimeout="1m"),
    "labels of no service": lambda of: monitor(of)["selector"]["matchLabels"].update(a="b"),
    "a closed port": lambda of: called(of, "NetworkPolicy", "metrics")["spec"]["ingress"][0][
        "ports"
    ][0].update(port=9090),
    "no such metric": lambda of: rules(of)[0].update(expr="absent(bitsift_builds)"),
    "no such label": lambda of: rules(of)[1].update(expr='bitsift_searches_total{stage="x"} > 1'),
    "grouped by nothing": lambda of: rules(of)[1].update(
        expr="sum by (stage) (rate(bitsift_searches_total[5m])) > 1"
    ),
    "no PromQL": lambda of: rules(of)[1].update(expr="sum(rate(bitsift_searches_total)) >"),
    "a rate of a moment": lambda of: rules(of)[1].update(expr="rate(bitsift_searches_total) > 1"),
    "no time": lambda of: rules(of)[1].update({"for": "5"}),
    "no severity": lambda of: rules(of)[1]["labels"].update(severity="bad"),
    "a label that is not there": lambda of: rules(of)[1]["annotations"].update(
        summary="{{ $labels.shard }}"
    ),
    "two of one name": lambda of: rules(of)[1].update(alert=rules(of)[0]["alert"]),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_mistake_is_found(what: str, of: list[Object]) -> None:
    assert not list(monitoring_mistakes(of, series(), ROUTES))
    PLANTED[what](of)
    assert list(monitoring_mistakes(of, series(), ROUTES)), what


def test_a_mistake_in_the_dashboard_is_found(of: list[Object]) -> None:
    sound = dashboard(of)
    assert not list(dashboard_mistakes(sound, series()))
    at = next(n for n, panel in enumerate(sound["panels"]) if panel["type"] != "row")

    def planted(change: Callable[[Object], Any]) -> bool:
        found = copy.deepcopy(sound)
        change(found["panels"][at])
        return bool(list(dashboard_mistakes(found, series())))

    assert planted(lambda panel: panel.update(id=sound["panels"][0]["id"]))
    assert planted(lambda panel: panel["gridPos"].update(y=panel["gridPos"]["y"] - 1))
    assert planted(lambda panel: panel["gridPos"].update(w=25))
    assert planted(lambda panel: panel.update(targets=[]))
    assert planted(lambda panel: panel["targets"][0].update(expr="rate(bitsift_x_total[5m])"))
    assert planted(lambda panel: panel["targets"][0].update(datasource={"uid": "mine"}))


def test_what_an_expression_names_is_found_wherever_it_stands() -> None:
    known = {"a": {"x"}, "b": {"y"}}
    assert not list(expression_mistakes("sum by (x) (rate(a[5m])) / on (pod) (1 - -b) > 2", known))
    for wrong in (
        "1 - (2 * c)",
        "rate(c[5m])",
        "-c",
        "max_over_time(c[5m:1m])",
        "a or c",
        "topk(1, c)",
    ):
        assert list(expression_mistakes(wrong, known)), wrong


# --- each alert fires when it should, and not before ------------------------------------------

NODE = 'shard="0",node="n1"'
FIRES: dict[str, list[tuple[str, str]]] = {
    "BitsiftNoRouter": [('up{job="other"}', "1x60")],
    "BitsiftPartialAnswers": [
        ('bitsift_searches_total{mode="auto",outcome="complete"}', "0+100x60"),
        ('bitsift_searches_total{mode="auto",outcome="partial"}', "0+2x60"),
    ],
    "BitsiftFailedRequests": [
        ('bitsift_http_requests_total{route="/v1/search",method="POST",status="200"}', "0+100x60"),
        ('bitsift_http_requests_total{route="/v1/search",method="POST",status="503"}', "0+2x60"),
    ],
    "BitsiftSlowSearches": [
        ('bitsift_search_duration_seconds_bucket{mode="auto",le="1"}', "0+90x60"),
        ('bitsift_search_duration_seconds_bucket{mode="auto",le="2.5"}', "0+100x60"),
        ('bitsift_search_duration_seconds_bucket{mode="auto",le="+Inf"}', "0+100x60"),
    ],
    "BitsiftLowRecall": [
        ('bitsift_shadow_recall_ratio{mode="auto",plan="unfiltered",bound="high"}', "0.89x60"),
    ],
    "BitsiftRouterOverloaded": [
        ('bitsift_event_loop_lag_seconds_bucket{pod="r",le="0.25"}', "0+90x60"),
        ('bitsift_event_loop_lag_seconds_bucket{pod="r",le="0.5"}', "0+100x60"),
        ('bitsift_event_loop_lag_seconds_bucket{pod="r",le="+Inf"}', "0+100x60"),
    ],
    "BitsiftReplicaDown": [(f"bitsift_replica_up{{{NODE}}}", "0x60")],
    "BitsiftReplicaBehind": [(f"bitsift_replica_in_step{{{NODE}}}", "0x60")],
    "BitsiftReplicaDiffers": [(f"bitsift_replica_differs{{{NODE}}}", "1x60")],
    "BitsiftDamagedRows": [(f"bitsift_replica_damaged_rows{{{NODE}}}", "3x60")],
    "BitsiftWritesStopped": [(f"bitsift_replica_writes_stopped{{{NODE}}}", "1x60")],
    "BitsiftDiskFilling": [
        (f"bitsift_replica_volume_bytes{{{NODE}}}", "100x60"),
        (f"bitsift_replica_volume_free_bytes{{{NODE}}}", "19x60"),
    ],
}
QUIET: dict[str, list[tuple[str, str]]] = {
    "BitsiftPartialAnswers": [
        ('bitsift_searches_total{mode="auto",outcome="complete"}', "0+1000x60"),
        ('bitsift_searches_total{mode="auto",outcome="partial"}', "0+2x60"),
    ],
    "BitsiftSlowSearches": [
        ('bitsift_search_duration_seconds_bucket{mode="exhaustive",le="1"}', "0+0x60"),
        ('bitsift_search_duration_seconds_bucket{mode="exhaustive",le="+Inf"}', "0+100x60"),
    ],
    "BitsiftLowRecall": [  # it may be as high as it should be
        ('bitsift_shadow_recall_ratio{mode="auto",plan="unfiltered",bound="mean"}', "0.89x60"),
        ('bitsift_shadow_recall_ratio{mode="auto",plan="unfiltered",bound="low"}', "0.8x60"),
        ('bitsift_shadow_recall_ratio{mode="auto",plan="unfiltered",bound="high"}', "0.91x60"),
    ],
    "BitsiftReplicaDown": [  # one router of two sees it
        (f'bitsift_replica_up{{{NODE},pod="a"}}', "0x60"),
        (f'bitsift_replica_up{{{NODE},pod="b"}}', "1x60"),
    ],
    "BitsiftDiskFilling": [
        (f"bitsift_replica_volume_bytes{{{NODE}}}", "100x60"),
        (f"bitsift_replica_volume_free_bytes{{{NODE}}}", "21x60"),
    ],
}
BUILD = ('bitsift_build_info{version="0"}', "1x60")


def fired(of: list[Object], given: list[tuple[str, str]], alert: str, folder: Path) -> bool:
    """Whether ``alert`` fires after an hour of these series, by promtool."""
    spec = called(of, "PrometheusRule", "bitsift")["spec"]
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec))
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in given],
                "alert_rule_test": [{"eval_time": "59m", "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 or f"alertname: {alert}" in said, said
    return done.returncode != 0  # none was expected


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_rules(of: list[Object], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump(called(of, "PrometheusRule", "bitsift")["spec"])
    )
    check = ["promtool", "check", "rules", "rules.yaml"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_on_monitoring_names_every_alert_and_how_long_it_waits(of: list[Object]) -> None:
    rows = re.findall(r"^\| (Bitsift\w+) \| .* \| (.*) \|$", PAGE.read_text(), re.M)
    waits = {rule["alert"]: rule.get("for", "at once").replace("m", " min") for rule in rules(of)}
    assert dict(rows) == waits


def test_every_alert_has_its_case(of: list[Object]) -> None:
    assert {rule["alert"] for rule in rules(of)} == set(FIRES)


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("alert", FIRES)
def test_an_alert_fires(alert: str, of: list[Object], tmp_path: Path) -> None:
    assert fired(of, FIRES[alert], alert, tmp_path)
    for other, given in FIRES.items():
        if other != alert:
            assert not fired(of, [*given, BUILD], alert, tmp_path), other


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("alert", QUIET)
def test_an_alert_waits_for_its_reason(alert: str, of: list[Object], tmp_path: Path) -> None:
    assert not fired(of, [*QUIET[alert], BUILD], alert, tmp_path)
