"""The programs that tests call, and which of them are here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PACKAGES = {
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "faketime": "libfaketime",
    "gcc": "gcc",
    "libc headers": "libc6-dev",
    "make": "make",
    "mount": "mount",
    "namespaces": "iproute2",
    "promtool": "prometheus",
    "strace": "strace",
}
"""Debian's package of each. .ci/packages has the same, of Prometheus's only promtool, in .venv/bin:
the package starts a server where it is installed.
"""
LIBFAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


def can_make_namespaces() -> bool:
    """Whether this user can give processes a network of their own."""
    tools = ("ip", "unshare", "nsenter", "mount")
    return os.geteuid() == 0 and all(map(shutil.which, tools))


def is_here(name: str) -> bool:
    """Whether the program ``name`` can be called."""
    if name == "namespaces":
        return can_make_namespaces()
    if name == "faketime":
        return LIBFAKETIME is not None
    if name == "libc headers":
        return Path("/usr/include/dlfcn.h").exists()
    return shutil.which(name) is not None
