"""The HTTP gateway: a FastAPI application round one SearchService and one Writer."""

from __future__ import annotations

import asyncio
import importlib.metadata
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from router.admin import add_admin
from router.answer import Answer
from router.document_routes import DOCUMENTS_PATH, Writer, add_documents
from router.problems import add_problem_handlers
from router.schema import (
    QUERIES_MAX,
    Answers,
    Include,
    Problem,
    Text,
    TopK,
    read_search_request,
    search_request_schema,
)
from router.service import (
    FIELDS,
    TIMEOUT_DEFAULT_S,
    TIMEOUT_MAX_S,
    TOP_K_DEFAULT,
    Question,
    SearchService,
)
from router.shell import AnswerHeaders, BodyLimit
from shard_worker.errors import Unavailable
from shard_worker.types import CANDIDATES_MAX, NPROBE_MAX, Mode, ShardStatus

WEB_FOLDER = Path(__file__).with_name("web")
BODY_BYTES_MAX = 2 << 20
STATUS_TIMEOUT_S = 2.0
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (413, 422, 500, 503, 504)
}


def create_app(service: SearchService, writer: Writer) -> FastAPI:
    """The application. Bad input is a 422 problem document, never a 500."""
    app = FastAPIOffline(  # /docs works where no CDN can be reached
        title="Bitsift",
        version=importlib.metadata.version("bitsift"),
        description=f"Search by meaning. At most {QUERIES_MAX} queries and 2 MiB a request.",
        responses=_PROBLEMS,
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, limit=BODY_BYTES_MAX, unlimited=DOCUMENTS_PATH)
    app.add_middleware(AnswerHeaders)
    add_problem_handlers(app)
    _add_search(app, service)
    add_documents(app, service.shards, writer)
    add_admin(app, service)
    _add_status(app, service)
    _add_page(app)
    return app


def json_response(data: Any, status: int = 200) -> Response:
    """``data`` may hold dataclasses; lone surrogates cannot occur, the border refuses them."""
    return Response(orjson.dumps(data), status, media_type="application/json")


def _add_search(app: FastAPI, service: SearchService) -> None:
    body = {"requestBody": search_request_schema()}

    @app.post("/v1/search", response_model=Answer | Answers, openapi_extra=body)
    async def search(http: Request) -> Response:
        """Answer one query, one vector, or several queries at once."""
        request = await read_search_request(http)
        questions = request.questions()
        if request.queries is None:
            return json_response(await service.search(questions[0]))
        answers = await asyncio.gather(*(service.search(question) for question in questions))
        return json_response({"results": answers})

    @app.get("/v1/search", response_model=Answer)
    async def search_by_url(
        q: Annotated[Text, Query(description="what to look for")],
        top_k: Annotated[TopK, Query()] = TOP_K_DEFAULT,
        candidates: Annotated[int | None, Query(ge=1, le=CANDIDATES_MAX)] = None,
        mode: Mode = Mode.AUTO,
        nprobe: Annotated[int | None, Query(ge=1, le=NPROBE_MAX)] = None,
        timeout_ms: Annotated[float, Query(gt=0, le=TIMEOUT_MAX_S * 1e3)] = TIMEOUT_DEFAULT_S * 1e3,
        include: Annotated[list[Include] | None, Query()] = None,
        explain: bool = False,
        require_complete: bool = False,
    ) -> Response:
        """The same for one query, for links and curl."""
        question = Question(
            text=q,
            top_k=top_k,
            candidates=candidates,
            mode=mode,
            nprobe=nprobe,
            timeout_s=timeout_ms / 1e3,
            include=FIELDS if include is None else frozenset(include),
            explain=explain,
            require_complete=require_complete,
        )
        return json_response(await service.search(question))


def _add_status(app: FastAPI, service: SearchService) -> None:
    async def statuses() -> list[ShardStatus]:
        return await service.shards.statuses(STATUS_TIMEOUT_S)

    @app.get("/v1/index")
    async def index() -> Response:
        """What is searched: model, sizes in RAM and on disk, and what fp32 would take.

        ``loading`` says how far a load is that fills the index meanwhile, null when none does.
        """
        description, shards = service.description, await statuses()
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
            "loading": _loading_facts(service.loading_total, documents),
            "memory": memory,
            "disk": disk,
        }
        return json_response({**description.to_json(), **live})

    @app.get("/v1/cluster")
    async def cluster() -> Response:
        """The state of every shard, with the reason of what failed, and the encoder."""
        return json_response({"shards": await statuses(), "encoder": _encoder_facts(service)})

    @app.get("/livez")
    async def live() -> Response:
        """The process answers; says nothing of its shards."""
        return json_response({"status": "alive"})

    @app.get("/readyz")
    async def ready() -> Response:
        """200 once the encoder is warm, no shard is loading and one at least is ready.

        A shard that failed does not make the gateway unready: answers name it instead.
        """
        states = [shard.state for shard in await statuses()]
        if service.encoder is None and service.description.model is not None:
            raise Unavailable("the encoder is still loading")
        if "LOADING" in states or "READY" not in states:
            raise Unavailable(f"the shards are {', '.join(states)}")
        return json_response({"status": "ready", "shards": states})


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


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB_FOLDER / "index.html")

    app.mount("/static", StaticFiles(directory=WEB_FOLDER), name="static")
