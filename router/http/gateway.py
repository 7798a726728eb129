"""The HTTP gateway: a FastAPI application around one SearchService and one Writer."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from bitsift.errors import Unavailable
from bitsift.options import QUERIES_MAX
from bitsift.router.http.access import AccessSettings, add_access
from bitsift.router.http.admin import add_admin
from bitsift.router.http.answer_json import json_response
from bitsift.router.http.compression import Compression
from bitsift.router.http.cut_off import CutOff
from bitsift.router.http.document_routes import DOCUMENTS_PATH, Writer, add_documents
from bitsift.router.http.field_facts import field_facts
from bitsift.router.http.file_routes import FILE_PATH, add_files
from bitsift.router.http.index_changes import add_index_changes
from bitsift.router.http.index_routes import add_indexes
from bitsift.router.http.listing_routes import add_listing
from bitsift.router.http.media_types import NDJSON, OCTETS
from bitsift.router.http.metrics_routes import add_metrics
from bitsift.router.http.observing import Observing
from bitsift.router.http.openapi import complete
from bitsift.router.http.paths import ByIndex, Described, OnePath
from bitsift.router.http.problems import add_problem_handlers
from bitsift.router.http.readiness import Readiness
from bitsift.router.http.schema import Problem
from bitsift.router.http.search_places import InPlace
from bitsift.router.http.search_routes import add_search
from bitsift.router.http.shell import AnswerHeaders, RequestLimits
from bitsift.router.indexes import Indexes, Served
from bitsift.router.loop_lag import LoopLag
from bitsift.router.orders import Orders
from bitsift.router.service import SearchService
from bitsift.shard_worker.types import ShardStatus

WEB_FOLDER = Path(__file__).parents[1] / "web"
BODY_BYTES_MAX = 2 << 20
ADMIN_BODY_BYTES_MAX = 64 << 10
STATUS_TIMEOUT_S = 2.0
READY_TIMEOUT_S = 0.5
"""A probe must not wait for a hanging shard: Kubernetes gives up after 1 s by default."""
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem}
    for code in (400, 401, 403, 408, 413, 415, 421, 422, 429, 500, 503, 504)
}
_DESCRIPTION = (
    f"Search by meaning. At most {QUERIES_MAX} queries and 2 MiB per request.\n\n"
    "A server may have several indexes: `GET /v1/indexes` lists them. The routes below ask the "
    "default one; `/v1/indexes/{name}/…` in the place of `/v1/…` asks another, by its name or an "
    "alias: `POST /v1/indexes/articles/search`."
)
_LOOPBACK = "127.0.0.1"


def create_app(
    service: SearchService,
    writer: Writer,
    access: AccessSettings = AccessSettings(),  # noqa: B008 (frozen)
    host: str = _LOOPBACK,
    min_ready_shards: int | None = None,
    indexes: Indexes | None = None,
    orders: Orders | None = None,
) -> FastAPI:
    """The application, served on ``host``. Bad input is a 422 problem document, never a 500.

    ``service`` and ``writer`` are those of the default index, ``indexes`` has it and others; None:
    it is the only one. ``orders`` changes which there are; None: nobody can.
    With ``access.admin_port`` the admin routes are in ``create_admin_app`` instead.
    ``min_ready_shards`` is what /readyz waits for (readiness.py).
    """
    indexes = indexes or Indexes(Served(service.description.name, service, writer))
    asked, through = indexes.service, indexes.writer
    app = FastAPIOffline(  # /docs works where no CDN can be reached
        title="Bitsift",
        version=importlib.metadata.version("bitsift"),
        description=_DESCRIPTION,
        responses=_PROBLEMS,
        redoc_url=None,
        lifespan=lambda _: _measured(service.loop_lag),
    )
    app.add_middleware(ByIndex, indexes=indexes)
    app.add_middleware(Described, root_path=access.root_path)
    app.add_middleware(
        RequestLimits,
        body_bytes_max=BODY_BYTES_MAX,
        smaller={"/v1/admin/": ADMIN_BODY_BYTES_MAX},
        apart=(DOCUMENTS_PATH, FILE_PATH),
    )
    app.add_middleware(InPlace)
    add_access(app, access, host, indexes, {DOCUMENTS_PATH: NDJSON, FILE_PATH: OCTETS})
    _surround(app, service, access)
    add_search(app, asked)
    add_listing(app, asked)
    add_documents(app, asked, through)
    add_files(app, asked, through)
    if access.admin_port is None:
        add_admin(app, asked, access.backup_root)
    _add_status(app, asked)
    add_indexes(app, indexes)
    if access.admin_port is None:
        add_index_changes(app, indexes, orders)
    add_metrics(app, indexes)
    _add_live(app)
    _add_ready(app, service, Readiness(min_ready_shards))
    _add_page(app)
    complete(app, keys=access.keys is not None)
    return app


def create_admin_app(
    service: SearchService,
    access: AccessSettings,
    indexes: Indexes | None = None,
    orders: Orders | None = None,
) -> FastAPI:
    """The admin routes alone, for the port of their own."""
    indexes = indexes or Indexes(Served(service.description.name, service, None))
    app = FastAPI(title="Bitsift admin", openapi_url=None, responses=_PROBLEMS)
    app.add_middleware(ByIndex, indexes=indexes)
    app.add_middleware(RequestLimits, body_bytes_max=ADMIN_BODY_BYTES_MAX, smaller={}, apart=())
    add_access(app, access, access.admin_host, indexes)
    _surround(app, service, access)
    add_admin(app, indexes.service, access.backup_root)
    add_index_changes(app, indexes, orders)
    add_metrics(app, indexes)
    _add_live(app)
    return app


def _surround(app: FastAPI, service: SearchService, access: AccessSettings) -> None:
    """What both have outside of all that may refuse a request."""
    app.add_middleware(CutOff)
    app.add_middleware(AnswerHeaders)
    app.add_middleware(Compression)
    app.add_middleware(Observing, metrics=service.metrics, logs=access.log.access)
    app.add_middleware(OnePath, root_path=access.root_path)
    add_problem_handlers(app)


@contextlib.asynccontextmanager
async def _measured(lag: LoopLag) -> AsyncIterator[None]:
    """While the application runs, its event loop is measured."""
    task = asyncio.create_task(lag.run())
    yield
    task.cancel()


def _add_status(app: FastAPI, service: SearchService) -> None:
    @app.get("/v1/index")
    async def index() -> Response:
        """The index: model, sizes in RAM and on disk, and what fp32 would take.

        A shard that is not ready counts as it was when it last was, and is named in ``not_ready``.
        ``loading`` is the progress of a load that is filling the index, or null. ``fields`` are
        those of metadata that the most documents have, as far as their shards have indexed them.
        ``shadow`` is what a sample of live searches says of recall, by mode and way of the filter.
        """
        description = service.description
        shards = await service.shards.last_known(STATUS_TIMEOUT_S)
        documents = sum(shard.documents for shard in shards)
        bits_bytes = sum(shard.bits_bytes for shard in shards)
        float32_bytes = documents * description.dimension * 4
        memory = {
            "bits_bytes": bits_bytes,
            "float32_bytes": float32_bytes,
            "ratio": round(float32_bytes / bits_bytes, 1) if bits_bytes else None,
        }
        disk = {"bytes": sum(shard.disk_bytes for shard in shards)}
        live = {
            "documents": documents,
            "not_ready": [_not_ready(shard) for shard in shards if shard.state != "READY"],
            "loading": _loading_facts(service.loading_total, documents),
            "memory": memory,
            "disk": disk,
            "fields": field_facts(shards),
            "shadow": service.shadow.facts(),
        }
        return json_response({**description.to_json(), **live})

    @app.get("/v1/cluster")
    async def cluster() -> Response:
        """The state of every shard and of each of its replicas, with the reason of what failed;
        which replicas of a cluster are in step (``sync``), also those that do not answer; the
        encoder, what was healed, and how late the router's event loop was in the last minute:
        ``lag`` in all, ``block`` by its own computing.
        """
        states = await service.shards.states(STATUS_TIMEOUT_S)
        facts = {
            "shards": [_without_fields(it.status) | {"replicas": it.replicas} for it in states],
            "sync": service.syncs,
            "encoder": _encoder_facts(service),
            "healed": service.healed,
            "event_loop": service.loop_lag.facts(),
        }
        return json_response(facts)


def _add_ready(app: FastAPI, service: SearchService, readiness: Readiness) -> None:
    @app.get("/readyz")
    async def ready() -> Response:
        """200 once the encoder is warm and the shards have opened, and from then on.

        A shard that fails or restarts later is named here and in the answers.
        """
        statuses = await service.shards.statuses(READY_TIMEOUT_S)
        states = [status.state for status in statuses]
        enough = readiness.look(statuses)
        if service.encoder is None and service.description.model is not None:
            raise Unavailable(f"the encoder is still loading; the shards are {', '.join(states)}")
        if not enough:
            raise Unavailable(f"the shards are {', '.join(states)}")
        return json_response({"status": "ready", "shards": states})


def _not_ready(status: ShardStatus) -> dict[str, Any]:
    """``documents`` as they were last known; 0 where they never were."""
    facts = asdict(status)
    return {name: facts[name] for name in ("shard", "state", "reason", "documents")}


def _without_fields(status: ShardStatus) -> dict[str, Any]:
    """They are of the index, not of its state."""
    facts = asdict(status)
    del facts["fields"]
    return facts


def _loading_facts(total: int | None, documents: int) -> dict[str, int] | None:
    """``done`` counts what can be found already, so it is true after a restart as well."""
    return None if total is None else {"done": min(documents, total), "total": total}


def _encoder_facts(service: SearchService) -> dict[str, Any]:
    if service.description.model is None:
        return {"state": "NONE", "backend": None}
    if service.encoder is None:
        return {"state": "LOADING", "backend": None}
    return {
        "state": "READY",
        "backend": getattr(service.encoder, "backend", None),
        "reason": getattr(service.encoder, "backend_reason", None),
        "query_cache": service.query_vectors.cache_facts(),
    }


def _add_live(app: FastAPI) -> None:
    @app.get("/livez")
    async def live() -> Response:
        """The process is up; says nothing about its shards."""
        return json_response({"status": "alive"})


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB_FOLDER / "index.html")

    app.mount("/static", StaticFiles(directory=WEB_FOLDER), name="static")
