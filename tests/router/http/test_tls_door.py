"""Sockets in a TLS handshake are counted and bounded like every other that waits for its peer."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlparse

import httpx
import numpy as np
import pytest
import trustme

from bitsift.router.http.limits import HttpLimits
from bitsift.router.http.tls import TlsFiles
from bitsift.router.shards.local import LocalLink
from tests.fakes import make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
PATIENT = HttpLimits(connections_max=20, handshake_timeout_s=60.0)
SHORT = HttpLimits(connections_max=20, handshake_timeout_s=3.0)


class Gateway(Running):
    trusted: ssl.SSLContext


@contextlib.contextmanager
def serving(folder: Path, limits: HttpLimits) -> Iterator[Gateway]:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    tls = TlsFiles(folder / "cert.pem", folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(str(tls.cert))
    certificate.private_key_pem.write_to_path(str(tls.key))
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    (shard,), calibration = make_shards(folder, nothing, DIMENSION, 1)
    links = [LocalLink(shard)]
    service, writer = make_service(links, calibration), make_writer(links, calibration)
    running = Gateway(service, writer, limits=limits, tls=tls)
    running.trusted = ssl.create_default_context()
    authority.configure_trust(running.trusted)
    try:
        yield running
    finally:
        running.stop()
        shard.close()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Gateway]:
    with serving(tmp_path, PATIENT) as running:
        yield running


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Gateway]:
    with serving(tmp_path, SHORT) as running:
        yield running


def connect(gateway: Gateway) -> socket.socket:
    """A TCP connection to the port, on which nothing was said yet."""
    parsed = urlparse(gateway.url)
    return socket.create_connection((parsed.hostname, parsed.port), timeout=30)


def rest(peer: socket.socket) -> bytes:
    """What comes until the connection is closed."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := peer.recv(65_536):
            found += part
    return found


def live(gateway: Gateway) -> int:
    answer = httpx.get(f"{gateway.url}/livez", verify=gateway.trusted, timeout=30)
    return answer.status_code


def wait_for_connections(gateway: Gateway, count: int) -> None:
    until = time.monotonic() + 30
    while len(gateway.connections) != count:
        assert time.monotonic() < until, len(gateway.connections)
        time.sleep(0.01)


def test_silent_sockets_in_their_handshake_take_no_more_places_than_there_are(
    patient: Gateway,
) -> None:
    with contextlib.ExitStack() as stack:
        places = PATIENT.connections_max
        peers = [stack.enter_context(connect(patient)) for _ in range(places)]
        wait_for_connections(patient, places)
        one_more = stack.enter_context(connect(patient))
        assert rest(peers[0]) == b"", "the one that was silent for longest gave its place"
        assert live(patient) == 200
        assert len(patient.connections) <= places
        one_more.close()
    wait_for_connections(patient, 0)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_does_not_come_to_its_end_is_not_waited_for(
    impatient: Gateway, sent: bytes
) -> None:
    with connect(impatient) as peer:
        peer.sendall(sent)
        rest(peer)
    wait_for_connections(impatient, 0)
    assert live(impatient) == 200


def test_what_speaks_no_tls_is_closed(patient: Gateway) -> None:
    with connect(patient) as peer:
        peer.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"HTTP/1.1 200" not in rest(peer)
    wait_for_connections(patient, 0)


def test_a_connection_whose_handshake_has_ended_is_kept_for_further_requests(
    patient: Gateway,
) -> None:
    with httpx.Client(base_url=patient.url, verify=patient.trusted, timeout=30) as client:
        for _ in range(3):
            assert client.get("/livez").status_code == 200
        assert len(patient.connections) == 1
    wait_for_connections(patient, 0)


def test_what_a_peer_says_before_it_is_accepted_is_not_lost(patient: Gateway) -> None:
    """Between two turns of its loop uvloop reads; a ClientHello that it read went nowhere."""
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(live, [patient] * 40)) == [200] * 40
