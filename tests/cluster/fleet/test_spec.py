"""The spec of a cluster: what it says, what is relative to it, and each mistake by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bitsift.cluster.fleet.spec import (
    COPY_RATE_MAX,
    GRACE_MAX_S,
    NAME_CHARACTERS_MAX,
    REPLICAS_MAX,
    ROUTERS_MAX,
    read_spec,
)
from bitsift.config.toml_file import FILE_BYTES_MAX
from bitsift.errors import InvalidRequest, NotFound

SMALL = """
[index]
folder = "idx"
[placement]
data = "data/{node}"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(text)
    return path


def test_a_small_spec_has_the_defaults_and_paths_beside_it(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, SMALL))
    assert spec.index.folder == str(tmp_path / "idx")
    assert spec.data_folder("a") == tmp_path / "data" / "a"
    assert (spec.placement.replicas, spec.placement.routers, spec.serve.port) == (2, 1, 8000)
    with pytest.raises(ValidationError):
        spec.placement.replicas = 3


def test_an_index_that_is_built_on_the_nodes_has_a_name_only(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, SMALL.replace('folder = "idx"', 'name = "words.2"')))
    assert (spec.index.name, spec.index.folder, spec.index.backup) == ("words.2", None, None)
    with pytest.raises(InvalidRequest, match="give either folder, backup or name"):
        read_spec(write(tmp_path, SMALL.replace("[index]", '[index]\nname = "words"')))
    longest = "x" * NAME_CHARACTERS_MAX
    spec = read_spec(write(tmp_path, SMALL.replace('folder = "idx"', f'name = "{longest}"')))
    assert spec.index.name == longest
    for name in ("../words", "", "a b", f"{longest}x"):
        text = SMALL.replace('folder = "idx"', f'name = "{name}"')
        with pytest.raises(InvalidRequest, match="^.*index.name: "):
            read_spec(write(tmp_path, text))


def test_a_url_and_an_absolute_path_stay_as_they_are(tmp_path: Path) -> None:
    text = SMALL.replace('folder = "idx"', 'backup = "s3://b/i"').replace("data/", "/data/")
    spec = read_spec(write(tmp_path, text))
    assert spec.index.backup == "s3://b/i"
    assert spec.data_folder("n") == Path("/data/n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "replica = 2",
            r"placement.replica: there is no such key; did you mean [a-z.]*replicas\?",
        ),
        ("grace = 2", r"did you mean placement.grace_s\?"),
        ("port = 1", r"did you mean serve.port\?"),
        ("replicas = 0", "placement.replicas: .*greater than or equal to 1"),
        ("replicas = true", "placement.replicas: expected a number"),
        ("grace_s = inf", "placement.grace_s"),
        ('copy_rate = "quick"', "placement.copy_rate"),
        (f"copy_rate = {COPY_RATE_MAX + 1}", "placement.copy_rate: .*less than or equal to"),
        ("[server]", "server: there is no such key; did you mean serve"),
        ("[index.peer]", "index.peer: there is no such key"),
        ("shards = 4", r"placement.shards does not belong in a spec: .* cluster reshard N"),
        ("dimension = 4", "placement.dimension does not belong .* fixed when an index is built"),
        ('[serve]\nwrite_acks = "two"', "serve.write_acks: "),
    ],
)
def test_a_mistake_is_named_with_what_is_meant(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_spec(write(tmp_path, SMALL + line))


@pytest.mark.parametrize(
    ("key", "most", "said"),
    [
        ("replicas", REPLICAS_MAX, "less than or equal to 16"),
        ("routers", ROUTERS_MAX, "less than or equal to 1024"),
        ("grace_s", GRACE_MAX_S, "less than or equal to 604800"),
    ],
)
def test_a_cluster_has_so_many_copies_and_routers_and_waits_for_so_long_at_most(
    tmp_path: Path, key: str, most: float, said: str
) -> None:
    spec = read_spec(write(tmp_path, f"{SMALL}{key} = {most}"))
    assert getattr(spec.placement, key) == most
    with pytest.raises(InvalidRequest, match=f"placement.{key}: .*{said}"):
        read_spec(write(tmp_path, f"{SMALL}{key} = {most + 1}"))


def test_every_mistake_is_listed(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_spec(write(tmp_path, '[index]\n[placement]\nreplicas = -1\ndata = "{nod}"'))
    for said in (
        "index: give either folder, backup or name",
        "placement.replicas",
        "placement.data: {node}",
    ):
        assert said in raised.value.message


@pytest.mark.parametrize("text", ["[index", "\udcff", "a = 1\na = 2"])
def test_what_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidRequest, match="is not TOML"):
        read_spec(path)


def test_a_spec_has_so_many_bytes_at_most(tmp_path: Path) -> None:
    read_spec(write(tmp_path, SMALL + "#" * (FILE_BYTES_MAX - len(SMALL))))
    with pytest.raises(InvalidRequest, match="over 262,144 bytes"):
        read_spec(write(tmp_path, SMALL + "#" * (FILE_BYTES_MAX - len(SMALL) + 1)))


def test_a_spec_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="docs/cluster.md"):
        read_spec(tmp_path / "none.toml")
