"""Pods' network: a namespace and an address each on a bridge of this machine, and rules of nft."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.rehearsal.policies import DENIED, PASSED

_CLONE_NEWNET = 0x40000000
_WITHIN_S = 30
NODE = 254
"""The last byte of the bridge's own address, which probes come from."""
SERVICES = 200
"""Addresses of services begin here; those of pods below."""


@dataclass(slots=True)
class Network:
    """A bridge, and namespaces that hang on it. Any number of threads."""

    subnet: str
    prefix: str
    _used: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _last: int = 0

    @property
    def node(self) -> str:
        return f"{self.subnet}.{NODE}"

    def service(self, number: int) -> str:
        return f"{self.subnet}.{SERVICES + number}"

    def free_address(self) -> str:
        """One that nobody has had for as long as possible: a pod never returns to its own."""
        with self._lock:
            for step in range(1, SERVICES):
                number = (self._last + step - 1) % (SERVICES - 1) + 1
                if number not in self._used:
                    self._used.add(number)
                    self._last = number
                    return f"{self.subnet}.{number}"
        raise AssertionError("all addresses are taken")

    def space(self, address: str) -> str:
        """The name of the namespace of an address."""
        return f"{self.prefix}-{_number(address)}"

    def add(self, address: str) -> None:
        """Make its namespace, with this address and a way to all others."""
        name, link = self.space(address), f"{self.prefix}v{_number(address)}"
        ip("netns", "add", name)
        ip("link", "add", link, "type", "veth", "peer", "eth0", "netns", name)
        ip("link", "set", link, "master", f"{self.prefix}br", "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "add", "default", "via", self.node)

    def remove(self, address: str) -> None:
        """Its processes have ended."""
        with contextlib.suppress(AssertionError):
            ip("link", "del", f"{self.prefix}v{_number(address)}")
        ip("netns", "del", self.space(address))
        with self._lock:
            self._used.discard(_number(address))

    def set_rules(self, address: str, rules: str) -> None:
        nft(self.space(address), "-f", "-", given=rules)

    def remembered(self, address: str) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
        """Connections (address, port) that its rules denied, and those that they let pass."""
        return tuple(  # type: ignore[return-value]
            _elements(nft(self.space(address), "-j", "list", "set", "inet", "pod", name))
            for name in (DENIED, PASSED)
        )


def _number(address: str) -> int:
    return int(address.rpartition(".")[2])


def _elements(said: str) -> set[tuple[str, int]]:
    found = next(one["set"] for one in json.loads(said)["nftables"] if "set" in one)
    pairs = [one.get("elem", one) for one in found.get("elem", [])]
    pairs = [one.get("val", one) for one in pairs]
    return {(str(pair["concat"][0]), int(pair["concat"][1])) for pair in pairs}


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """One of this process; nothing of it is left."""
    number = os.getpid()
    made = Network(f"10.{128 + number % 64}.{number // 64 % 256}", f"rh{number % 1_000_000}")
    bridge = f"{made.prefix}br"
    ip("link", "add", bridge, "type", "bridge")
    try:
        ip("addr", "add", f"{made.node}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        yield made
    finally:
        for one in json.loads(ip("-j", "netns", "list") or "[]"):
            if one["name"].startswith(f"{made.prefix}-"):
                ip("netns", "del", one["name"])
        ip("link", "del", bridge)


def enter(space: str) -> None:
    """From now on this thread, and those that it starts, are in a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{space}") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"namespace {space} cannot be entered")


def connects(space: str, address: str, port: int, timeout_s: float) -> bool:
    """Whether TCP reaches the other side: accepted, or refused because nobody listens there.

    The thread that calls it stays in that namespace.
    """
    enter(space)
    with socket.socket() as one:
        one.settimeout(timeout_s)
        return one.connect_ex((address, port)) in (0, errno.ECONNREFUSED)


def ip(*arguments: str) -> str:
    return _said(["ip", *arguments])


def nft(space: str, *arguments: str, given: str | None = None) -> str:
    return _said(["ip", "netns", "exec", space, "nft", *arguments], given)


def _said(command: list[str], given: str | None = None) -> str:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, timeout=_WITHIN_S
    )
    assert done.returncode == 0, (command, done.stderr, given)
    return done.stdout
