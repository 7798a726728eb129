"""/openapi.json is whole: each route has examples, which it accepts and answers in that form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

from bitsift.cluster.serving.key_store import editing
from bitsift.router.http.access import AccessSettings
from bitsift.router.http.examples import EXAMPLES, JSON
from bitsift.router.http.gateway import create_app
from bitsift.router.http.keys import Scope, new_key
from bitsift.router.http.openapi import PROBLEM
from bitsift.router.http.routes import needed_scope
from bitsift.router.shadow.comparison import Compared
from tests.fakes import make_service, make_shards, make_writer
from tests.gateways import Running, running_texts

DIMENSION = 64
CHANGES = (
    "POST /v1/indexes", "DELETE /v1/indexes/{name}", "PUT /v1/aliases/{alias}",
    "DELETE /v1/aliases/{alias}",
)  # fmt: skip
TEXTS = [f"a text about number {i}" for i in range(40)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("api")
    with running_texts(folder, TEXTS, DIMENSION, 2) as running:
        running.service.shadow.estimates.add("auto", "unfiltered", Compared(1.0, 1.0))
        yield running


@pytest.fixture(scope="module")
def described(gateway: Running) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{gateway.url}/openapi.json").json()
    return found


def operation(described: dict[str, Any], route: str) -> dict[str, Any]:
    method, path = route.split()
    found: dict[str, Any] = described["paths"][path][method.lower()]
    return found


def operations(described: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", found)
        for path, methods in described["paths"].items()
        for method, found in methods.items()
    ]


def check(value: Any, schema: dict[str, Any], described: dict[str, Any]) -> None:
    whole = {**schema, "components": described["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def alike(found: Any, shown: Any) -> bool:
    """Whether an answer and an example have the same names at every depth. What one of them leaves
    empty, and what is in lists behind the first, may differ.
    """
    if isinstance(found, dict) and isinstance(shown, dict):
        if not found or not shown:
            return True
        names = found.keys() - {"fields", "metadata"}  # whose names are the documents' own
        return names == shown.keys() - {"fields", "metadata"} and all(
            alike(found[name], shown[name]) for name in names
        )
    if isinstance(found, list) and isinstance(shown, list):
        return not found or not shown or alike(found[0], shown[0])
    return not isinstance(found, dict | list) or shown is None


def test_every_route_has_an_example_and_every_example_a_route(described: dict[str, Any]) -> None:
    assert {route for route, _ in operations(described)} == set(EXAMPLES)


def test_every_route_is_described_in_words_and_has_a_tag(described: dict[str, Any]) -> None:
    known = {tag["name"] for tag in described["tags"]}
    for route, found in operations(described):
        assert found["description"], route
        assert set(found["tags"]) <= known, route


@pytest.mark.parametrize("route", EXAMPLES)
def test_an_example_is_what_the_description_says(described: dict[str, Any], route: str) -> None:
    found = operation(described, route)
    content = found["responses"]["200"]["content"][EXAMPLES[route].kind]
    check(content["example"], content.get("schema", {}), described)
    for parameter in found.get("parameters", ()):
        if parameter.get("required"):
            assert "example" in parameter, parameter["name"]
        if "example" in parameter:
            check(parameter["example"], parameter["schema"], described)
    if "requestBody" in found:
        for kind, content in found["requestBody"]["content"].items():
            assert content["examples"], kind
            for example in content["examples"].values():
                check(example["value"], content["schema"], described)


@pytest.mark.parametrize("route", EXAMPLES)
def test_an_example_is_accepted_and_answered_in_that_form(gateway: Running, route: str) -> None:
    example, (method, path) = EXAMPLES[route], route.split()
    if "document_id" in example.parameters:
        body = {"documents": [{"id": example.parameters["document_id"], "text": "a"}]}
        httpx.post(f"{gateway.url}/v1/documents", json=body).raise_for_status()
    query = {name: it for name, it in example.parameters.items() if f"{{{name}}}" not in path}
    url = gateway.url + path.format(**example.parameters)
    if not example.bodies:
        answers = [httpx.request(method, url, params=query, json={} if method == "POST" else None)]
    else:
        answers = [
            httpx.request(
                method, url, params=query, headers={"content-type": kind},
                content=body if isinstance(body, str) else json.dumps(body),
            )
            for kind, bodies in example.bodies.items()
            for body in bodies.values()
        ]  # fmt: skip
    for answer in answers:
        if route == "POST /v1/admin/backup":  # this server has no root for them
            assert answer.status_code == 403
            continue
        if route in CHANGES:  # it has one index, and can have no other
            assert answer.status_code in (404, 422)
            assert "indexes-root" in answer.text
            continue
        assert answer.status_code == 200, answer.text
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in {example.kind, *example.bodies}
        if kind == JSON:
            found = answer.json()
            several = path == "/v1/search" and "results" in found
            found = found["results"][0] if several else found
            if isinstance(found, dict):  # a later body may ask for more than the example shows
                found = {name: it for name, it in found.items() if name in example.answer}
            assert alike(found, example.answer), found


def test_errors_are_described_as_they_are_sent(gateway: Running, described: dict[str, Any]) -> None:
    for route, found in operations(described):
        for status, answer in found["responses"].items():
            if status >= "400":
                assert list(answer["content"]) == [PROBLEM], (route, status)
                content = answer["content"][PROBLEM]
                check(content["example"], content["schema"], described)
                assert content["example"]["status"] == int(status)
    sent = httpx.post(f"{gateway.url}/v1/search", json={})
    assert sent.headers["content-type"] == PROBLEM
    schema = operation(described, "POST /v1/search")["responses"]["422"]["content"][PROBLEM]
    check(sent.json(), schema["schema"], described)


def test_with_keys_it_says_which_routes_need_one(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key, _ = new_key("", Scope.READ, None)
    with editing(keys) as held:
        held.append(key)
    shards, calibration = make_shards(tmp_path / "s", np.empty((0, 32), np.float32), 32, 1)
    app = create_app(
        make_service([], calibration), make_writer([], calibration), AccessSettings(keys)
    )
    shards[0].close()
    described = app.openapi()
    assert app.openapi() is described
    assert set(described["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
    for route, found in operations(described):
        assert bool(found["security"]) == (needed_scope(*route.split()) is not None), route


def test_without_keys_it_asks_for_none(described: dict[str, Any]) -> None:
    assert "securitySchemes" not in described["components"]
    assert not [route for route, found in operations(described) if "security" in found]
