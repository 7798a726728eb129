"""An example of a request to each route, and of its answer, for /openapi.json.

Whoever adds a route adds a line; tests send the requests and compare the answers' forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bitsift.router.http.media_types import NDJSON, OCTETS

JSON = "application/json"
_TOKEN = "AksJYv0sBWdoAAAAjxHMKKIBAAAA98p29BFQ"
_HIT = {
    "id": "14405480-n", "score": 0.8946, "title": "arachnophobia",
    "text": "a morbid fear of spiders", "metadata": {"pos": "noun"}, "shard": 1, "explain": None,
    "vector": None, "highlight": None,
}  # fmt: skip
_STORED = {name: _HIT[name] for name in ("id", "title", "text", "metadata", "shard")} | {
    "vector": None,
    "version": "117701396989149184",
}
_TIMES = {"encode": 10.3, "fan_out": 10.5, "rescore": 0.2, "texts": 0.2, "total": 21.2}
_ANSWER = {
    "hits": [_HIT],
    "coverage": {"shards": 2, "answered": 2, "failures": []},
    "timings_ms": _TIMES,
    "partial": False,
    "filter": None,
    "total": None,
    "facets": None,
    "cursor": "BAVYV5TEH5X2bK0XaRoBXIdL3rmRrpzx",
}
_PROBLEM = {
    "type": "bitsift:InvalidRequest", "title": "invalid request", "status": 422,
    "detail": "query: the query is empty", "outcome": "not_done",
}  # fmt: skip
_REPORT = (
    '{"done":40000,"total":107525}\n'
    '{"report":{"is_sound":true,"shards":2,"rows":107525,"replicas":[{"shard":0,"node":"","rows":'
    '53762,"damaged":0,"lacking":0,"examples":[],"mended":0,"reason":null},{"shard":1,"node":"",'
    '"rows":53763,"damaged":0,"lacking":0,"examples":[],"mended":0,"reason":null}]}}\n'
)
_SHARD = {
    "shard": 0, "state": "READY", "reason": None, "rows": 53762, "documents": 53762,
    "bits_bytes": 2580576, "disk_bytes": 58720256, "corrupt_rows_seen": 0, "lists": 0,
    "clustered_rows": 0, "training": False, "nprobe": 0, "exact_scan_ms": 0.9,
    "first_share": 0.0, "generation": 0,
    "compacting": False, "writes_stopped": None, "format": "2.1", "resident_bytes": 77524992,
    "node": "cc792ab7", "pid": 4711, "version": 117701396989149184, "digest": "", "settings": "",
    "volume_bytes": 270553174016, "volume_free_bytes": 80010805248,
}  # fmt: skip
_REPLICA = {
    "node": "cc792ab7", "state": "READY", "reason": None, "breaker": "closed", "outstanding": 0,
    "p50_ms": 1.8, "p95_ms": 3.1, "hedges": 0, "retries": 0, "pid": 4711, "lag_ms": 0,
    "digest": None,
}  # fmt: skip
_MODEL = {
    "name": "all-MiniLM-L6-v2", "revision": "c5ab4b5d", "dimension": 384, "query_prompt": "",
    "document_prompt": "", "max_tokens": 256, "normalized": True,
}  # fmt: skip
_INDEX = {
    "name": "wordnet", "uuid": "c5f1a3de-6d53-4a52-8a1e-6a8f3d1f7a10",
    "created": "2026-11-29T19:00:00+00:00", "shards": 2, "dimension": 384, "model": _MODEL,
    "calibration_version": 1, "examples": ["fear of spiders"], "documents": 107525,
    "loading": None,
    "memory": {"bits_bytes": 5161200, "float32_bytes": 165158400, "ratio": 32.0},
    "disk": {"bytes": 117440512},
    "fields": {"pos": {"rows": 107525, "values": 4, "types": ["string"], "indexed": True}},
    "shadow": {
        "share": 0.001, "cpu": 0.01,
        "estimates": [
            {
                "mode": "auto", "plan": "unfiltered", "searches": 412,
                "recall_at_10": {"mean": 0.991, "low": 0.977, "high": 0.997},
                "rank_biased_overlap": {"mean": 0.987, "low": 0.971, "high": 0.994},
            }
        ],
    },
}  # fmt: skip
_CLUSTER = {
    "shards": [_SHARD | {"replicas": [_REPLICA]}],
    "sync": [],
    "encoder": {
        "state": "READY", "backend": "openvino", "reason": None,
        "query_cache": {"entries": 12, "entries_max": 4096, "hits": 40, "misses": 12},
    },
    "healed": [],
    "event_loop": {
        "samples": 1200, "lag_p50_ms": 0.05, "lag_p99_ms": 1.2, "lag_max_ms": 4.1,
        "block_p99_ms": 0.9, "block_max_ms": 2.0,
    },
}  # fmt: skip
_WRITTEN = {
    "results": [
        {"id": "a1", "status": "created", "error": None, "version": "117701396989149184"}
    ],
    "created": 1, "updated": 0, "unchanged": 0, "conflict": 0, "rejected": 0, "failed": 0,
    "token": _TOKEN,
}  # fmt: skip
_DELETED = {
    "results": [{"id": "a1", "status": "deleted", "error": None, "version": None}],
    "deleted": 1, "missing": 0, "conflict": 0, "failed": 0, "token": _TOKEN, "cursor": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Example:
    """``answer`` is in the media type ``kind``; ``bodies`` are by media type and then by what they
    show; ``parameters`` by their names.
    """

    answer: Any
    kind: str = JSON
    bodies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)


_ID = {"document_id": "14405480-n"}
EXAMPLES: Mapping[str, Example] = {
    "POST /v1/search": Example(
        _ANSWER,
        bodies={
            JSON: {
                "a text": {"query": "fear of spiders", "top_k": 3},
                "the sentence that matters, the newest first": {
                    "query": "fear of spiders", "highlight": True, "sort": ["year:desc"],
                },
                "with facets": {"query": "fear of spiders", "facets": ["pos"], "facet_limit": 5},
                "filtered": {"query": "fear of spiders", "filter": {"pos": {"$in": ["noun"]}}},
                "several texts": {"queries": ["fear of spiders", "a small dog"], "top_k": 1},
                "only ids, all shards or an error": {
                    "query": "fear of spiders", "include": [], "require_complete": True,
                },
            }
        },
    ),
    "POST /v1/search/batch": Example(
        {"results": [_ANSWER, _PROBLEM]},
        bodies={
            JSON: {
                "different options": {
                    "searches": [
                        {"query": "fear of spiders", "top_k": 1},
                        {"query": "a small dog", "filter": {"pos": "noun"}, "explain": True},
                    ]
                }
            }
        },
    ),
    "GET /v1/search": Example(_ANSWER, parameters={"q": "fear of spiders", "top_k": 3}),
    "POST /v1/documents": Example(
        _WRITTEN,
        bodies={
            JSON: {
                "a document": {
                    "documents": [
                        {"id": "a1", "title": "arachnid", "text": "eight legs",
                         "metadata": {"year": 2026}}
                    ]
                },
                "only where there is none, or in the place of a version": {
                    "documents": [
                        {"id": "a1", "text": "eight legs", "if_absent": True},
                        {"id": "a2", "text": "six", "if_version": "117701396989149184"},
                    ]
                },
            },
            NDJSON: {"lines": '{"id": "a1", "text": "eight legs"}\n{"id": "a2", "text": "six"}\n'},
        },
    ),
    "POST /v1/documents/file": Example(
        '{"line": 7, "id": null, "status": "rejected", "error": {"type": "InvalidRequest", '
        '"detail": "no text", "outcome": "not_done"}}\n'
        '{"totals": {"created": 6, "updated": 0, "unchanged": 0, "conflict": 0, "rejected": 1, '
        '"failed": 0}, "error": null, "token": "AUsJYv0s", "notes": []}\n',
        NDJSON,
        bodies={OCTETS: {"a table": "id,title,text\na1,arachnid,eight legs\n"}},
        parameters={"name": "words.csv", "text_field": "text"},
    ),
    "POST /v1/documents/delete": Example(
        _DELETED,
        bodies={
            JSON: {
                "one": {"ids": ["a1"]},
                "one in a version": {"ids": ["a1"], "if_version": "117701396989149184"},
                "some of what passes a filter": {"filter": "year < 1900", "limit": 500},
            }
        },
    ),
    "POST /v1/documents/update": Example(
        {
            "results": [
                {"id": "a1", "status": "updated", "error": None, "version": "117701396989149185"}
            ],
            "updated": 1, "unchanged": 0, "missing": 0, "conflict": 0, "rejected": 0, "failed": 0,
            "token": _TOKEN, "cursor": None, "count": 1,
        },
        bodies={
            JSON: {
                "some of what passes a filter": {
                    "filter": "year < 1900", "limit": 500, "metadata": {"old": True}
                },
                "a field taken away": {"ids": ["a1"], "metadata": {"draft": None}},
            }
        },
    ),
    "POST /v1/documents/get": Example(
        {"documents": [_STORED], "missing": ["nobody"]},
        bodies={
            JSON: {"two": {"ids": ["14405480-n", "nobody"], "include": ["title", "metadata"]}}
        },
    ),
    "POST /v1/documents/count": Example(
        {"count": 42, "facets": {"pos": [{"value": "noun", "count": 42, "relation": "eq"}]}},
        bodies={JSON: {"what passes": {"filter": {"pos": "noun"}, "facets": ["pos"]}}},
    ),
    "POST /v1/documents/list": Example(
        {"documents": [_STORED], "cursor": None, "count": 1},
        bodies={
            JSON: {
                "the first page": {"filter": "number exists", "limit": 100},
                "in order": {"sort": ["number:desc"]},
            }
        },
    ),
    "GET /v1/documents/{document_id}": Example(
        _STORED, parameters=_ID
    ),
    "DELETE /v1/documents/{document_id}": Example(
        {"id": "14405480-n", "status": "deleted", "token": _TOKEN}, parameters=_ID
    ),
    "PATCH /v1/documents/{document_id}": Example(
        {"id": "14405480-n", "status": "updated", "version": "117701396989149185", "token": _TOKEN},
        bodies={JSON: {"a field changed": {"metadata": {"reviewed": True}}}},
        parameters=_ID,
    ),
    "GET /v1/index": Example(_INDEX),
    "GET /v1/indexes": Example(
        {
            "indexes": [
                {
                    "name": "wordnet", "state": "READY", "reason": None, "documents": 107525,
                    "rows": 107525, "dimension": 384, "model": "all-MiniLM-L6-v2",
                    "aliases": ["words"], "default": True,
                }
            ]
        }
    ),
    "POST /v1/indexes": Example(
        {"name": "articles", "model": "minilm", "dimension": 384, "shards": 2},
        bodies={
            JSON: {
                "of a model": {"name": "articles", "model": "minilm", "shards": 2},
                "of your own vectors": {"name": "pictures", "dimensions": 512},
            }
        },
    ),
    "DELETE /v1/indexes/{name}": Example(
        {"name": "articles", "status": "deleted", "aliases": []}, parameters={"name": "articles"}
    ),
    "PUT /v1/aliases/{alias}": Example(
        {"alias": "live", "index": "articles-2"},
        bodies={JSON: {"what it means": {"index": "articles-2"}}},
        parameters={"alias": "live"},
    ),
    "DELETE /v1/aliases/{alias}": Example(
        {"alias": "live", "index": None}, parameters={"alias": "live"}
    ),
    "GET /v1/cluster": Example(_CLUSTER),
    "GET /metrics": Example(
        "# HELP bitsift_searches_total Searches by mode and outcome.\n"
        "# TYPE bitsift_searches_total counter\n"
        'bitsift_searches_total{mode="auto",outcome="complete"} 12.0\n',
        "text/plain",
    ),
    "GET /livez": Example({"status": "alive"}),
    "GET /readyz": Example({"status": "ready", "shards": ["READY", "READY"]}),
    "POST /v1/admin/backup": Example(
        {
            "dest": "s3://backups/bitsift", "index_uuid": _INDEX["uuid"],
            "created": "2026-11-29T19:00:00+00:00", "files": 7, "bytes": 117440512, "blocks": 113,
            "blocks_new": 2, "bytes_stored": 1200000, "blocks_removed": 0,
        },
        bodies={JSON: {"below --backup-root": {"dest": "s3://backups/bitsift"}}},
    ),
    "POST /v1/admin/compact": Example([{"shard": 0, "rows_dropped": 120, "bytes_freed": 140000}]),
    "POST /v1/admin/verify": Example(_REPORT, NDJSON),
    "POST /v1/admin/repair": Example(_REPORT, NDJSON),
}  # fmt: skip
"""By method and route."""
