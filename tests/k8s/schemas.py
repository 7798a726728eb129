"""What the API server checks by schema: Kubernetes' own kinds in two versions, and RayCluster.

``raycluster-v1.json.gz`` is the schema of v1 in the CRD of KubeRay 1.7.0 (Apache-2.0), which has no
descriptions. Its three CEL rules, and what the operator itself refuses, are in kuberay.py.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate import utils
from kubernetes_validate.utils import SchemaNotFoundError

from tests.k8s.rendered import Object

VERSIONS = ("1.31", "1.37")
"""The oldest that has all that is used, and the newest that can be checked."""
utils.schema_contents = functools.cache(utils.schema_contents)  # it reads 2 MB for each object
_TRAPS = re.compile(r"y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF")


def wrong_by_schema(of: list[Object]) -> Iterator[str]:
    for one in of:
        named = f"{one.get('kind')} {one.get('metadata', {}).get('name')}"
        if one.get("kind") == "RayCluster":
            errors = _ray_cluster().iter_errors(one)
            yield from (f"{named}: {error.json_path}: {error.message}" for error in errors)
            continue
        for version in VERSIONS:
            said = _refusal(json.dumps(one), version)
            if said is not None:
                yield f"{named}, Kubernetes {version}: {said}"


@functools.cache
def _refusal(one: str, version: str) -> str | None:
    """Kept, for most objects are the same in every overlay. The command only warns of a kind that
    it does not know; here that is a mistake.
    """
    try:
        kubernetes_validate.validate(json.loads(one), version, strict=True)
    except (kubernetes_validate.ValidationError, SchemaNotFoundError) as error:
        return str(error.message)
    return None


@functools.cache
def _ray_cluster() -> Any:
    packed = Path(__file__).with_name("raycluster-v1.json.gz").read_bytes()
    return jsonschema.Draft202012Validator(_closed(json.loads(gzip.decompress(packed))))


def _closed(schema: Any) -> Any:
    """As the API server reads it: fields that it does not know are refused."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        found.pop("type", None)
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") is True
    if schema.get("type") == "object" and "properties" in schema and not is_open:
        known: dict[str, Any] = {"apiVersion": {}, "kind": {}, "metadata": {}}
        is_whole = "spec" in schema["properties"] and "status" in schema["properties"]
        found["properties"] = found["properties"] | (known if is_whole else {})
        found.setdefault("additionalProperties", False)
    return found


def booleans_of_yaml_1_1(text: str) -> Iterator[str]:
    """Words that kubectl reads as true or false, and other programs as text: to be quoted."""
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        is_plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0] and not event.style
        if is_plain and _TRAPS.fullmatch(event.value):
            yield f"line {event.start_mark.line + 1}: {event.value} is a boolean of YAML 1.1"
