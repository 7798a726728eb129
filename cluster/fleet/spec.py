"""The spec of a cluster of many nodes: one frozen, typed TOML file.

How routers listen, who may ask them, and how shards search are the settings of `bitsift serve`, in
tables of the same names. The cluster's own are two: `[index]`, where the index comes from, and
`[placement]`, how many copies there are and where they lie. What the file leaves
out has its default; an unknown name is refused, with the nearest one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic import model_validator as validator

from bitsift.config.toml_file import beside, read_toml
from bitsift.config.tree import (
    Access,
    Decimal,
    Model,
    Number,
    Section,
    Serve,
    Shards,
    Size,
    Text,
)
from bitsift.errors import InvalidRequest
from bitsift.nearest import no_such_key
from bitsift.quantities import parse_bytes

REPLICAS_MAX = 16
ROUTERS_MAX = 1_024
GRACE_MAX_S = 7 * 86_400.0
COPY_RATE_MIN, COPY_RATE_MAX = 1 << 20, 1 << 40
NODE = "{node}"
"""In ``placement.data``: the name of the node."""
NAME_CHARACTERS_MAX = 100
_NAME = rf"^[A-Za-z0-9][A-Za-z0-9_.-]{{0,{NAME_CHARACTERS_MAX - 1}}}$"
_FIXED = "is fixed when an index is built: build another one, in other data folders"
_ELSEWHERE = {
    "shards": "is changed by bitsift cluster reshard N, while the index answers",
    **dict.fromkeys(("model", "dim", "dimension", "dimensions", "transform"), _FIXED),
}
"""What one may look for in a spec, and where it is."""
_PATHS = (
    ("index", "folder"),
    ("index", "backup"),
    ("placement", "data"),
    ("access", "keys"),
    ("access", "backup_root"),
    ("access", "tls_cert"),
    ("access", "tls_key"),
)


def _bytes(value: Any) -> int:
    try:
        return parse_bytes(value)
    except InvalidRequest as error:
        raise ValueError(error.message) from error


def _of_each_node(value: str) -> str:
    """Only ``{node}`` is replaced; another pair of braces is a mistake that would make a folder."""
    if "{" in value.replace(NODE, "") or "}" in value.replace(NODE, ""):
        raise ValueError(f"{NODE} is the only name allowed in braces")
    return value


class IndexSource(Section):
    """Where the index comes from, on a node that has nothing of it.

    One that was built on the nodes themselves has a ``name`` only: each shard is copied from a node
    that has it.
    """

    folder: Text | None = Field(
        default=None, description="A finished index: a folder on a disk that all nodes share."
    )
    node: Text | None = Field(
        default=None, description="The only node that has `folder`; the others copy from it."
    )
    backup: Text | None = Field(
        default=None, description="A backup of the index: a folder that all nodes share, or a URL."
    )
    name: Annotated[Text, Field(pattern=_NAME)] | None = Field(
        default=None, description="An index that `bitsift index --spec` builds on the nodes."
    )

    @validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.folder, self.backup, self.name)) != 1:
            raise ValueError("give either folder, backup or name")
        if self.node is not None and self.folder is None:
            raise ValueError("node names the node that has the folder: give folder too")
        return self


class PlacementSpec(Section):
    """How many copies of each shard there are, how many routers, and where they lie."""

    data: Annotated[Text, AfterValidator(_of_each_node)] = Field(
        description=f"The folder of replicas on each node; {NODE} is the name of the node."
    )
    replicas: Annotated[Number, Field(ge=1, le=REPLICAS_MAX)] = Field(
        default=2, description="Copies of each shard, each on a node of its own."
    )
    routers: Annotated[Number, Field(ge=1, le=ROUTERS_MAX)] = Field(
        default=1, description="Nodes that answer HTTP."
    )
    grace_s: Annotated[Decimal, Field(ge=0, le=GRACE_MAX_S)] = Field(
        default=300.0,
        description="How long to wait for a lost node before replacing its replicas, seconds.",
    )
    copy_rate: Annotated[
        int, Size(), BeforeValidator(_bytes), Field(ge=COPY_RATE_MIN, le=COPY_RATE_MAX)
    ] = Field(default=100 << 20, description="The most bytes a second that a node copies.")
    ready_port: Annotated[Number, Field(ge=1, lt=1 << 16)] | None = Field(
        default=None,
        description="Where each node says at /readyz whether its replicas are open; none: nowhere.",
    )


class ServeSpec(Serve):
    """How routers are reached, and what a cluster has beyond one machine."""

    write_acks: Literal["one", "majority", "all"] = Field(
        default="majority",
        description="How many replicas of a shard must have a write on their disks before it is "
        "acknowledged. The others get it, too.",
    )


class ClusterSpec(Section):
    """A whole spec."""

    index: IndexSource
    placement: PlacementSpec
    serve: ServeSpec = ServeSpec()
    access: Access = Access()
    shards: Shards = Shards()
    model: Model = Model()

    def data_folder(self, node: str) -> Path:
        """Where the replicas of ``node`` lie, on that node."""
        return Path(self.placement.data.replace(NODE, node))


def read_spec(path: Path) -> ClusterSpec:
    """The spec in ``path``; names of files in it are relative to its own folder.

    Raises NotFound, Unavailable, or InvalidRequest with every mistake in it.
    """
    values, _ = read_toml(path, "spec", "docs/cluster.md shows one")
    return parse_spec(values, path)


def parse_spec(values: dict[str, Any], path: Path) -> ClusterSpec:
    """The spec that ``values`` are, as if ``path`` said them. Raises InvalidRequest."""
    try:
        return ClusterSpec.model_validate(_beside(path.absolute(), values))
    except ValidationError as error:
        mistakes = [_mistake(found) for found in error.errors(include_url=False)]
        listed = mistakes if len(mistakes) == 1 else ("", *mistakes)
        raise InvalidRequest(f"{path}: " + "\n  ".join(listed)) from error


def _beside(file: Path, values: dict[str, Any]) -> dict[str, Any]:
    found = {
        key: dict(table) if isinstance(table, dict) else table for key, table in values.items()
    }
    for section, name in _PATHS:
        table = found.get(section)
        if isinstance(table, dict) and name in table:
            table[name] = beside(file, table[name])
    return found


def _mistake(found: Any) -> str:
    key = ".".join(str(part) for part in found["loc"])
    name = str(found["loc"][-1])
    if found["type"] == "extra_forbidden" and name in _ELSEWHERE:
        return f"{key} does not belong in a spec: it {_ELSEWHERE[name]}"
    if found["type"] == "extra_forbidden":
        return f"{key}: {no_such_key('key', key, _keys(), 'docs/cluster.md lists them all')}"
    if found["type"] == "missing":
        return f"{key} is missing; docs/cluster.md says what it is"
    return f"{key}: {found['msg'].removeprefix('Value error, ')}"


def _keys() -> list[str]:
    return sorted(_keys_of(ClusterSpec, ""))


def _keys_of(model: type[BaseModel], before: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{before}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys_of(field.annotation, f"{before}{name}.")
