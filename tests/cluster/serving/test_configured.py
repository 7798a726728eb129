"""The same settings mean the same to `bitsift serve` and to a cluster's spec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bitsift.cluster.fleet.spec import ClusterSpec, parse_spec
from bitsift.cluster.serving.configured import access_settings, shard_settings
from bitsift.errors import InvalidRequest


def spec(folder: Path, **tables: object) -> ClusterSpec:
    values = {"index": {"folder": "index"}, "placement": {"data": "data"}, **tables}
    return parse_spec(values, folder / "spec.toml")


@pytest.mark.parametrize("given", ["tls_cert", "tls_key"])
def test_half_of_tls_is_refused_in_a_spec_too(tmp_path: Path, given: str) -> None:
    """Routers that answered without TLS then would send keys in the clear."""
    half = spec(tmp_path, access={given: "file.pem"})
    with pytest.raises(InvalidRequest, match="both --tls-cert and --tls-key"):
        access_settings(half.access, half.serve)


def test_a_spec_gives_its_routers_tls(tmp_path: Path) -> None:
    whole = spec(tmp_path, access={"tls_cert": "cert.pem", "tls_key": "key.pem"})
    tls = access_settings(whole.access, whole.serve).tls
    assert tls is not None
    assert (tls.cert, tls.key) == (tmp_path / "cert.pem", tmp_path / "key.pem")


@pytest.mark.parametrize(
    ("first", "ports"), [(0, [0]), (11_000, range(11_000, 12_000)), (65_530, range(65_530, 65_536))]
)
def test_shards_take_searches_on_a_thousand_ports_from_the_first(
    tmp_path: Path, first: int, ports: Sequence[int]
) -> None:
    given = spec(tmp_path, shards={"search_port": first})
    assert list(shard_settings(given.shards).search_ports) == list(ports)


def test_shards_write_their_logs_as_the_router_does(tmp_path: Path) -> None:
    given = spec(tmp_path, serve={"log_format": "json"})
    assert shard_settings(given.shards, given.serve.log_format).log_format == "json"


@pytest.mark.parametrize("address", ["localhost:4318", "ftp://a", "http://", "http://a/?b=c"])
def test_an_address_that_takes_no_traces_is_refused(tmp_path: Path, address: str) -> None:
    wrong = spec(tmp_path, serve={"otlp_endpoint": address})
    with pytest.raises(InvalidRequest, match="is not the address of a collector"):
        access_settings(wrong.access, wrong.serve).check("127.0.0.1")
    right = spec(tmp_path, serve={"otlp_endpoint": "http://localhost:4318"})
    access = access_settings(right.access, right.serve)
    access.check("127.0.0.1")
    assert access.otlp_endpoint == "http://localhost:4318"


def test_traces_need_what_sends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsift.router.tracing.is_installed", lambda: False)
    given = spec(tmp_path, serve={"otlp_endpoint": "http://localhost:4318"})
    with pytest.raises(InvalidRequest, match="pip install"):
        access_settings(given.access, given.serve).check("127.0.0.1")
