"""What can be wrong in the component ``monitoring``: objects of the Prometheus operator, whose
schema is written down here as far as it is used, expressions, and the dashboard.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import promql_parser

from tests.k8s.rendered import Object, called, pods

SECRETS = {"bitsift-metrics-key": {"key"}}
"""Made by hand: docs/kubernetes.md."""
OF_TARGETS = {"container", "endpoint", "instance", "job", "namespace", "pod", "service"}
"""Labels that the operator gives to all series of a target."""
SEVERITIES = {"critical", "warning"}
_TEXT = {"type": "string", "minLength": 1}
_TIME = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}


def _closed(required: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    properties = {**required, **optional}
    return {
        "type": "object", "properties": properties, "required": list(required),
        "additionalProperties": False,
    }  # fmt: skip


_SECRET = _closed({"name": _TEXT, "key": _TEXT})
_MONITOR = _closed(
    {
        "selector": _closed({"matchLabels": _TEXTS}),
        "endpoints": {
            "type": "array",
            "minItems": 1,
            "items": _closed(
                {"port": _TEXT, "path": _TEXT},
                interval=_TIME,
                scrapeTimeout=_TIME,
                authorization=_closed({"credentials": _SECRET}, type=_TEXT),
            ),
        },
    }
)
_RULES = _closed(
    {
        "groups": {
            "type": "array",
            "items": _closed(
                {
                    "name": _TEXT,
                    "rules": {
                        "type": "array",
                        "items": _closed(
                            {
                                "alert": _TEXT,
                                "expr": _TEXT,
                                "labels": _TEXTS,
                                "annotations": _TEXTS,
                            },
                            **{"for": _TIME},
                        ),
                    },
                }
            ),
        }
    }
)
_SCHEMAS = {"ServiceMonitor": _MONITOR, "PrometheusRule": _RULES}


def rules(of: list[Object]) -> list[Object]:
    groups = called(of, "PrometheusRule", "bitsift")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def monitoring_mistakes(
    of: list[Object], series: Mapping[str, set[str]], routes: set[str]
) -> Iterator[str]:
    """``series`` are those that exist, with their labels."""
    wrong = list(_by_schema(of))
    yield from wrong
    if not wrong:
        yield from _monitor_mistakes(of, routes)
        yield from _rule_mistakes(of, series)
        yield from _policy_mistakes(of)
    yield from dashboard_mistakes(dashboard(of), series)


def _by_schema(of: list[Object]) -> Iterator[str]:
    for one in of:
        if one["apiVersion"].startswith("monitoring.coreos.com/"):
            if one["apiVersion"] != "monitoring.coreos.com/v1":
                yield f"{one['kind']}: no such version {one['apiVersion']}"
            schema = jsonschema.Draft202012Validator(_SCHEMAS[one["kind"]])
            for error in schema.iter_errors(one["spec"]):
                yield f"{one['kind']}: {error.json_path}: {error.message}"


def _monitor_mistakes(of: list[Object], routes: set[str]) -> Iterator[str]:
    monitor = called(of, "ServiceMonitor", "bitsift")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [one for one in of if one["kind"] == "Service"]
    chosen = [one for one in services if wanted <= one["metadata"].get("labels", {}).items()]
    if [one["metadata"]["name"] for one in chosen] != ["bitsift"]:
        yield "ServiceMonitor: it chooses another service than bitsift"
        return
    ports = {port["name"] for port in chosen[0]["spec"]["ports"]}
    for endpoint in monitor["endpoints"]:
        if endpoint["port"] not in ports:
            yield f"ServiceMonitor: the service has no port {endpoint['port']}"
        if endpoint["path"] not in routes:
            yield f"ServiceMonitor: there is no route {endpoint['path']}"
        secret = endpoint.get("authorization", {}).get("credentials")
        if secret is None or secret["key"] not in SECRETS.get(secret["name"], ()):
            yield "ServiceMonitor: it presents no key of a secret that is made"
        if _seconds(endpoint["scrapeTimeout"]) >= _seconds(endpoint["interval"]):
            yield "ServiceMonitor: a scrape may take longer than until the next"


def _seconds(text: str) -> float:
    return {"ms": 1e-3, "s": 1, "m": 60, "h": 3_600}[text.lstrip("0123456789")] * float(
        re.match(r"\d+", text)[0]  # type: ignore[index]
    )


def _rule_mistakes(of: list[Object], series: Mapping[str, set[str]]) -> Iterator[str]:
    names = [rule["alert"] for rule in rules(of)]
    if len(set(names)) < len(names):
        yield "PrometheusRule: two alerts of one name"
    for rule in rules(of):
        alert, expr = rule["alert"], rule["expr"]
        yield from (f"{alert}: {said}" for said in expression_mistakes(expr, series))
        if rule["labels"].get("severity") not in SEVERITIES:
            yield f"{alert}: no severity of {SEVERITIES}"
        if set(rule["annotations"]) != {"summary", "description"}:
            yield f"{alert}: it says no summary and description"
        for label in re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])):
            if label not in re.findall(r"\w+", expr):
                yield f"{alert}: what it finds has no label {label}"


def expression_mistakes(expression: str, series: Mapping[str, set[str]]) -> Iterator[str]:
    """Of one in PromQL: it cannot be parsed, or names a series or a label that there is none of."""
    try:
        parsed = promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    except ValueError as error:
        yield f"{expression}: {error}"
        return
    known = set(OF_TARGETS)
    for selector in _selectors(parsed):
        if selector.name not in series:
            yield f"there is no metric {selector.name}"
            continue
        known |= series[selector.name]
        for matcher in selector.matchers.matchers:
            if matcher.name not in series[selector.name] | OF_TARGETS:
                yield f"{selector.name} has no label {matcher.name}"
    for labels in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expression):
        for label in re.findall(r"\w+", labels):
            if label not in known:
                yield f"nothing in it has a label {label}"


def _selectors(expression: Any) -> Iterator[Any]:
    """All selectors of series in it."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    elif isinstance(expression, promql_parser.MatrixSelector):
        yield expression.vector_selector
    for name in ("expr", "lhs", "rhs"):
        inner = getattr(expression, name, None)
        if isinstance(inner, promql_parser.Expr):
            yield from _selectors(inner)
    for inner in getattr(expression, "args", ()):
        yield from _selectors(inner)


def _policy_mistakes(of: list[Object]) -> Iterator[str]:
    policy = called(of, "NetworkPolicy", "metrics")["spec"]
    wanted = policy["podSelector"]["matchLabels"].items()
    reached = [pod for pod in pods(of) if wanted <= pod.labels.items()]
    open_ports = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    http = {
        port["containerPort"]
        for pod in reached
        for container in pod.containers
        for port in container.get("ports", ())
        if port["name"] == "http"
    }
    if not reached or http != open_ports:
        yield f"NetworkPolicy metrics: it opens {open_ports} of {len(reached)} kinds of pods"


def dashboard(of: list[Object]) -> Object:
    config = next(
        one
        for one in of
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "bitsift-dashboard"
    )
    found: Object = json.loads(config["data"]["dashboard.json"])
    return found


def dashboard_mistakes(of: Object, series: Mapping[str, set[str]]) -> Iterator[str]:
    panels = of["panels"]
    ids = [panel["id"] for panel in panels]
    if len(set(ids)) < len(ids):
        yield "dashboard: two panels of one id"
    for one, other in itertools.combinations(panels, 2):
        if _overlap(one["gridPos"], other["gridPos"]):
            yield f"dashboard: {one['title']} lies over {other['title']}"
    for panel in panels:
        place, title = panel["gridPos"], panel["title"]
        if place["x"] + place["w"] > 24:
            yield f"dashboard: {title} is wider than the page"
        if panel["type"] != "row" and not panel["targets"]:
            yield f"dashboard: {title} shows nothing"
        for target in panel.get("targets", ()):
            if target["datasource"]["uid"] != "${datasource}":
                yield f"dashboard: {title} asks one Prometheus only"
            for said in expression_mistakes(target["expr"], series):
                yield f"dashboard: {title}: {said}"


def _overlap(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size]
        for at, size in (("x", "w"), ("y", "h"))
    )
