"""Names of hosts: which lead to this machine only, and which a gateway answers to.

A page on the internet can have its own name lead to 127.0.0.1 for a while (DNS rebinding); a
browser then lets it read whatever answers there. It cannot change the name in the Host header,
so a gateway answers to names that it knows, and to no others.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

from bitsift.errors import InvalidRequest

ANY_HOST = "*"
HOST_CHARACTERS_MAX = 253
"""The longest name that DNS knows."""
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([0-9]{0,5}))?", re.IGNORECASE)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def host_of(value: str) -> str | None:
    """The host in a Host header, in its standard form; None where the header is malformed."""
    if len(value) > HOST_CHARACTERS_MAX + len("[]:65535"):
        return None
    found = _HOST.fullmatch(value)
    if found is None:
        return None
    literal, name, _ = found.groups()
    if literal is not None:
        address = _address(literal)
        return None if address is None else str(address)
    return _standard(name)


def is_loopback(host: str) -> bool:
    """Whether a socket bound to ``host`` can be reached from this machine only.

    True for 127.0.0.0/8, ::1, localhost, and a name that leads nowhere else.
    """
    address = _address(host)
    if address is not None:
        return _is_loopback(address)
    if _standard(host) == "localhost":
        return True
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError):
        return False
    addresses = [_address(str(place[4][0])) for place in found]
    return bool(addresses) and all(a is not None and _is_loopback(a) for a in addresses)


class HostList:
    """The hosts that a gateway bound to ``bound`` answers to.

    They are localhost and the loopback addresses, ``bound``, and ``more`` (``*``: any). Bound to
    all addresses of the machine it answers to any address, which no DNS server can hand out.
    """

    def __init__(self, bound: str, more: Iterable[str] = ()) -> None:
        """Raises InvalidRequest where one of ``more`` is not a host."""
        more = tuple(more)
        self._is_open = ANY_HOST in more
        address = _address(bound)
        self._has_all_addresses = address is not None and address.is_unspecified
        self._names = {"localhost", _standard(bound), *(map(_allowed, more))}

    def __contains__(self, host: str) -> bool:
        if self._is_open or host in self._names:
            return True
        address = _address(host)
        return address is not None and (self._has_all_addresses or _is_loopback(address))


def _allowed(host: str) -> str:
    standard = host if host == ANY_HOST else host_of(f"[{host}]" if ":" in host else host)
    if standard is None:
        raise InvalidRequest(
            f"--allowed-host {host!r} is not a host: write a name or an address without "
            "a port, or *"
        )
    return standard


def _standard(host: str) -> str:
    address = _address(host)
    return str(address) if address is not None else host.lower().removesuffix(".")


def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return mapped or address


def _is_loopback(address: _Address) -> bool:
    return address.is_loopback
