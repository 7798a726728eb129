"""The settings: one frozen, typed tree. Each is defined here and nowhere else.

A setting is `name` in the table `[section]` of bitsift.toml, the variable `BITSIFT_SECTION_NAME`,
and a flag of the commands that use it. Each of these overrides the one before
(settings_sources.py). Type, default, limits and help are those of its field below: the command
line, `bitsift config` and docs/configuration.md are made from them.

What is fixed when an index is built (its model, dimension, shards, transform, calibration) is not
a setting: it is stored in the manifest of the index. What a query may choose (top_k, mode, …) is
part of the query. What nobody should change is a constant.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from bitsift.errors import InvalidRequest
from bitsift.quantities import parse_bytes

TEXT_CHARACTERS_MAX = 4_096
TEXTS_MAX = 100
PORT_MAX = 65_535
EXACT_BUDGET_MAX_MS = 60_000.0
"""As long as a search may take."""
TOMBSTONE_DAYS_MAX = 365.0
STORE_BYTES_MIN, STORE_BYTES_MAX = 16 << 20, 32 << 40
"""Twice the highest, for the old and the new generation of a compaction, fits into an address
space of 47 bits."""
QUERY_CACHE_MAX = 1_000_000
REJECTS_MAX = 1_000_000_000
ENCODERS_MAX = 1_024
MIN_READY_MAX = 4_096
SHADOW_CPU_MIN = 0.0001


@dataclass(frozen=True, slots=True)
class Flag:
    """The name of a setting's flag, where it is not the setting's own."""

    name: str


class Size:
    """Marks a number of bytes, written as 500G."""


class Place:
    """Marks a folder or a URL of object storage."""


class Named:
    """Marks settings that only an explicitly named file may contain: where keys and documents are
    sent, and whose code is run. A file that merely lies in the working folder could be anybody's.
    """


def _no_bool(value: Any) -> Any:
    """TOML's true is no number, though Python's is."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _bytes(value: Any) -> int:
    try:
        return parse_bytes(_no_bool(value))
    except InvalidRequest as error:
        raise ValueError(error.message) from error


def _split(value: Any) -> Any:
    """A variable holds a list as one text, with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _home(value: Any) -> Any:
    """The shell leaves the ~ of --keys=~/keys.json; nothing replaces that of a file."""
    if value == "":
        raise ValueError("expected a name")
    return os.path.expanduser(value) if isinstance(value, str) else value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("expected printable characters only")
    return value


Text = Annotated[
    str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX), AfterValidator(_printable)
]
Number = Annotated[int, BeforeValidator(_no_bool)]
Decimal = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
File = Annotated[Path, BeforeValidator(_home)]
Backend = Literal["auto", "openvino", "torch"]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_split), Field(max_length=TEXTS_MAX)]


class Section(BaseModel):
    """A table of bitsift.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Serve(Section):
    """How a served index is reached: `bitsift serve`, `demo`."""

    host: Text = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[Number, Field(ge=0, le=PORT_MAX)] = Field(
        default=8000, description="Port to listen on; 0 takes a free one."
    )
    admin_host: Text = Field(default="127.0.0.1", description="Address of the admin port.")
    admin_port: Annotated[Number | None, Field(ge=0, le=PORT_MAX)] = Field(
        default=None,
        examples=[8_001],
        description="Serve /v1/admin on this port only, not on the main one; 0 takes a free one.",
    )
    min_ready_shards: Annotated[Number | None, Field(ge=1, le=MIN_READY_MAX)] = Field(
        default=None,
        examples=[1],
        description="/readyz succeeds once this many shards are ready. Not set: once every shard "
        "has opened or failed and at least one is ready.",
    )
    query_cache: Annotated[Number, Field(ge=0, le=QUERY_CACHE_MAX)] = Field(
        default=4_096,
        description="Query vectors to cache, four bytes per dimension each; 0 disables the cache.",
    )
    root_path: Text | None = Field(
        default=None,
        examples=["/search"],
        description="What a proxy puts before the paths of the API, which it may take off or not.",
    )
    shadow_share: Annotated[Decimal, Field(ge=0, le=1)] = Field(
        default=0.001,
        description="Share of the searches that are asked again in exhaustive mode, to measure "
        "recall; 0 = none.",
    )
    shadow_cpu: Annotated[Decimal, Field(ge=SHADOW_CPU_MIN, le=1)] = Field(
        default=0.01,
        description="Share of the time that this may take at most, of one core in each shard, for "
        "each router.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="Form of the logs of router, writer and shards; json has one object a line.",
    )
    access_log: bool = Field(
        default=False,
        description="Note each request in the router's log: route, status, time, id of the key.",
    )
    otlp_endpoint: Text | None = Field(
        default=None,
        examples=["http://localhost:4318"],
        description="Send traces to this collector, by OTLP over HTTP; see docs/monitoring.md.",
    )


class Access(Section):
    """Who may do what with a served index: `bitsift serve`, `demo`; see docs/security.md."""

    keys: File | None = Field(
        default=None,
        examples=["keys.json"],
        description="Require a key from this file of every caller; see bitsift keys.",
    )
    insecure: bool = Field(
        default=False, description="Let other machines in without a key. They may do anything."
    )
    allowed_hosts: Annotated[Texts, Flag("--allowed-host")] = Field(
        default=(),
        examples=[["search.example.com"]],
        description="Additional host names for this server; * allows any.",
    )
    cors_origins: Annotated[Texts, Flag("--cors")] = Field(
        default=(),
        examples=[["https://app.example.com"]],
        description="Allow web pages of these origins, such as https://app.example.com.",
    )
    backup_root: Annotated[Text | None, BeforeValidator(_home), Place()] = Field(
        default=None,
        examples=["s3://backups/bitsift"],
        description="Where backups over HTTP may go, or below it: a folder, s3://, gs:// or az://. "
        "Not set: they are refused.",
    )
    tls_cert: File | None = Field(
        default=None, examples=["cert.pem"], description="Speak TLS with this certificate (PEM)."
    )
    tls_key: File | None = Field(
        default=None, examples=["key.pem"], description="Its private key (PEM)."
    )


class Shards(Section):
    """How served shards search, and their automatic maintenance: `bitsift serve`, `demo`."""

    exact_budget_ms: Annotated[Decimal, Field(ge=0, le=EXACT_BUDGET_MAX_MS)] = Field(
        default=50.0,
        description="Longest exact scan of a shard; where one takes longer, lists are probed.",
    )
    compact_above: Annotated[Decimal, Field(ge=0.01, le=1)] = Field(
        default=0.25,
        description="Compact a shard automatically when more than this share of its rows is "
        "deleted; 1 = never.",
    )
    store_max: Annotated[
        int, Size(), BeforeValidator(_bytes), Field(ge=STORE_BYTES_MIN, le=STORE_BYTES_MAX)
    ] = Field(default=1 << 40, description="Largest size of a shard's data file.")
    tombstone_days: Annotated[Decimal, Field(ge=0, le=TOMBSTONE_DAYS_MAX)] = Field(
        default=7.0,
        description="Days to remember a deletion, so that an older write cannot bring the "
        "document back. A replica that was away for longer may have to be copied whole.",
    )
    search_port: Annotated[Number, Field(ge=0, le=PORT_MAX)] = Field(
        default=0,
        description="First of the 1,000 ports on which shards take searches of routers, each on "
        "one that is free; 0 = any.",
        examples=[11_000],
    )


class Model(Section):
    """How the index's model runs: `bitsift serve`, `demo`, `index`, `create`."""

    backend: Backend = Field(
        default="auto",
        description="Runtime of the model; auto picks the faster one on this machine.",
    )


class Ray(Section):
    """The Ray cluster that serves and builds: `bitsift serve`, `index`."""

    address: Annotated[Text | None, Flag("--ray-address"), Named()] = Field(
        default=None,
        examples=["127.0.0.1:6379"],
        description="Address of a running Ray cluster. Not set: what RAY_ADDRESS says, else a "
        "local one is started.",
    )


class Index(Section):
    """How an index is built; the command's own options say from what: `bitsift index`."""

    max_rejects: Annotated[Number, Field(ge=0, le=REJECTS_MAX)] = Field(
        default=1_000, description="Stop after more than this many bad records."
    )
    encoders: Annotated[Number | None, Field(ge=1, le=ENCODERS_MAX)] = Field(
        default=None,
        examples=[4],
        description="Number of encoder processes. Not set: as many as fit.",
    )


class Client(Section):
    """Which gateway to ask when no index is named: `bitsift search`, `status`, `count`, `list`,
    `add`, `update`, `delete`, `get`, `backup`, `compact`, `verify`, `repair`.
    """

    url: Annotated[Text | None, Named()] = Field(
        default=None,
        examples=["http://127.0.0.1:8000"],
        description="URL of a running gateway, such as http://127.0.0.1:8000; with "
        "/v1/indexes/NAME behind it, that of one of its indexes.",
    )


class Settings(Section):
    """All settings; ``Settings()`` has the defaults and reads nothing."""

    serve: Serve = Serve()
    access: Access = Access()
    shards: Shards = Shards()
    model: Model = Model()
    ray: Ray = Ray()
    index: Index = Index()
    client: Client = Client()


DEFAULTS = Settings()
