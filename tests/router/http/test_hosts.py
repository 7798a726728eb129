from __future__ import annotations

import socket

import pytest

from bitsift.errors import InvalidRequest
from bitsift.router.http.hosts import HOST_CHARACTERS_MAX, HostList, host_of, is_loopback


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.8.7", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1", "127.1"]
)
def test_only_this_machine_reaches_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "0", "10.0.0.1", "128.0.0.1", "::ffff:10.0.0.1", "::ffff:0.0.0.0",
     "fe80::1", "no.such.host.invalid", "127.0.0.1.invalid", "a" * 300, "\ud800"],
)  # fmt: skip
def test_others_reach_everything_else(host: str) -> None:
    assert not is_loopback(host)


def test_a_name_is_what_it_leads_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the resolver of names, which a test machine need not have."""
    known = {"here": ["127.0.1.1", "::1"], "both": ["127.0.0.1", "10.0.0.1"], "far": ["10.0.0.1"]}

    def resolve(host: str, *_: object, **__: object) -> list[object]:
        return [(0, 0, 0, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert [is_loopback(name) for name in known] == [True, False, False]


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost", "localhost"),
        ("LocalHost.:8000", "localhost"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("a_b-c.example:1", "a_b-c.example"),
        ("a" * (HOST_CHARACTERS_MAX + 20), None),
        ("", None), ("a b", None), ("a/b", None), ("a@b", None), ("a:b", None), ("::1", None),
        ("[::1", None), ("[zz]", None), ("[::1]x", None), ("a,b", None), ("é", None),
        ("a:1:2", None), ("a:123456", None),
    ],
)  # fmt: skip
def test_a_host_header_is_read_or_refused(header: str, host: str | None) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize(
    ("bound", "more", "answers", "refuses"),
    [
        ("127.0.0.1", (), ["127.0.0.1", "127.1.2.3", "::1", "localhost"], ["10.0.0.1", "evil"]),
        ("localhost", (), ["localhost", "::1"], ["0.0.0.0", "localhost.evil"]),
        ("10.0.0.1", (), ["10.0.0.1", "localhost"], ["10.0.0.2", "evil"]),
        ("0.0.0.0", (), ["10.0.0.1", "2001:db8::1", "localhost"], ["evil", "10.0.0.1.evil"]),
        ("::", (), ["10.0.0.1", "::1"], ["evil"]),
        ("search", (), ["search", "localhost"], ["evil"]),
        ("127.0.0.1", ("Search.Example.", "10.0.0.9"), ["search.example", "10.0.0.9"], ["evil"]),
        ("127.0.0.1", ("*",), ["evil", "10.0.0.1"], []),
    ],
)  # fmt: skip
def test_a_server_answers_to_the_hosts_that_it_knows(
    bound: str, more: tuple[str, ...], answers: list[str], refuses: list[str]
) -> None:
    hosts = HostList(bound, more)
    assert [host for host in answers if host not in hosts] == []
    assert [host for host in refuses if host in hosts] == []


@pytest.mark.parametrize("host", ["a:80", "http://a", "", "a b", "*.example", "a/b"])
def test_what_is_no_host_cannot_be_allowed(host: str) -> None:
    with pytest.raises(InvalidRequest, match="--allowed-host"):
        HostList("127.0.0.1", [host])
