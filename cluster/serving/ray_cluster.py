"""Ray for a command: the cluster that runs at an address, or a local one of its own."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import parameter, utils, worker

from bitsift.cluster.interrupts import deferred, shielded
from bitsift.cluster.serving.claim import current_mark
from bitsift.cluster.serving.leftovers import GCS_PREFIX, mark_folder
from bitsift.cluster.serving.process_limits import (
    check_process_limits,
    check_sockets,
    check_temporary_folder,
)
from bitsift.cluster.serving.ray_environment import LOOPBACK, local_environment
from bitsift.cluster.serving.ray_session import RaySession
from bitsift.config.sources import RAY_VARIABLE
from bitsift.errors import Unavailable

NAMESPACE = "bitsift"
OBJECT_STORE_BYTES = 1 << 30
"""Only batches in flight pass through Ray's object store; answers are small and are inlined."""
CONNECT_TIMEOUT_S = 10.0
_STDERR = 2
_QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1"}
OnStep = Callable[[str], None]
"""Called at the start of each step."""


def quiet(_: str) -> None:
    """Ignores steps."""


@contextlib.contextmanager
def ray_cluster(
    address: str | None, on_step: OnStep = quiet, *, healing: bool = False
) -> Iterator[None]:
    """A running Ray cluster at ``address``, or a local one that ends with the block.

    A local one listens on loopback only and asks every caller for a random token, since whoever can
    call a Ray cluster can run code in it. Nothing is left of it, but its logs where the block ends
    by an error. With ``healing`` its control store (GCS) is kept on the disk, so that it can be
    started again alone (own_ray.py). Inside another such block, or where the program has called
    ``ray.init`` itself, that cluster is used. Raises Unavailable when it cannot be had.
    """
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as started:
        if address is None:
            check_process_limits()
            check_sockets(get_default_ray_temp_dir())
            check_temporary_folder(get_default_ray_temp_dir())
            started.enter_context(local_environment())
        storage = None
        if healing and address is None:
            folder = tempfile.TemporaryDirectory(prefix=GCS_PREFIX, ignore_cleanup_errors=True)
            marked = Path(started.enter_context(folder))
            mark_folder(marked, current_mark())
            storage = str(marked / "tables")
            started.enter_context(_own_output())
        session = started.enter_context(RaySession(on_step))
        started.callback(_disconnect)
        on_step("starting Ray" if address is None else f"connecting to Ray at {_said(address)}")
        _connect(address, session, storage)
        yield


def _connect(address: str | None, session: RaySession, storage: str | None) -> None:
    """``storage`` is where the GCS of a local cluster keeps its tables, None: in its RAM.

    ``session`` is told of a cluster that began here before a signal can end the command.
    """
    if address is not None:
        _require_answer(address)
    settings: dict[str, Any] = {"address": address}
    if address is None:
        settings = {
            "address": "local",  # None would be what RAY_ADDRESS says
            "num_cpus": os.cpu_count(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": LOOPBACK,
        }
        if storage is not None:
            kept = {"gcs_storage": "rocksdb", "gcs_storage_path": storage}
            settings["_system_config"] = kept
    try:
        with deferred(), _own_handlers(), _no_monitors(), _quiet_core():
            ray.init(
                namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **settings
            )
            if address is None:
                session.begun()
    except Exception as error:  # of a dozen classes, bare Exception among them
        failed = f"no Ray cluster at {_said(address)}"
        if not address:
            failed = "a local Ray cluster could not be started"
        raise Unavailable(f"{failed}: {first_line(error)}") from error
    if address is None and ray.util.get_node_ip_address() != LOOPBACK:
        raise Unavailable(f"Ray would listen on {ray.util.get_node_ip_address()}, not on loopback")


def _require_answer(address: str) -> None:
    """Raises Unavailable if nothing listens at ``address``: Ray itself would retry forever, deaf to
    signals. Addresses that are not host:port are left to Ray.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise Unavailable(f"no Ray cluster at {_said(address)}: {first_line(error)}") from error


def _said(address: str | None) -> str:
    """The address, and who says it where that is easily forgotten."""
    is_from_ray = address is not None and address == os.environ.get(RAY_VARIABLE)
    return f"{address}, which {RAY_VARIABLE} says" if is_from_ray else f"{address}"


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray leaves SIGTERM to those who handle it: it would exit in the middle of its own start."""
    before = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


@contextlib.contextmanager
def _no_monitors() -> Iterator[None]:
    """A local cluster neither grows nor prints its workers' logs: without the two processes that
    would, it takes 170 MB less and is there sooner. ``ray.init`` has no argument for it.
    """
    before = parameter.RayParams
    without = functools.partial(
        before,
        no_monitor=True,
        include_log_monitor=False,  # type: ignore[arg-type]
    )
    parameter.RayParams = without  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        parameter.RayParams = before  # type: ignore[misc]


@contextlib.contextmanager
def _own_output() -> Iterator[None]:
    """Ray prints what it finds wrong with the cluster to standard output, which ``log_to_driver``
    and ``logging_level`` do not keep it from: with --json that holds one object of ours.
    """
    before = worker._worker_logs_enabled
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


@contextlib.contextmanager
def _quiet_core() -> Iterator[None]:
    """What Ray's C++ writes to standard error is shown only if this fails. It reports each time
    that its level of logging was set, and without that it warns of what is meant (handles of actors
    among the arguments of others) and prints a trace on SIGTERM.
    """
    before = {name: os.environ[name] for name in _QUIET if name in os.environ}
    with contextlib.ExitStack() as restored, tempfile.TemporaryFile() as aside:
        sys.stderr.flush()
        shown = os.dup(_STDERR)
        restored.callback(os.close, shown)
        restored.callback(os.dup2, shown, _STDERR)
        os.dup2(aside.fileno(), _STDERR)
        os.environ.update(_QUIET)
        try:
            yield
        except Exception:
            aside.seek(0)
            os.write(shown, aside.read())
            raise
        finally:
            for name in _QUIET:
                os.environ.pop(name, None)
            os.environ.update(before)


def _disconnect() -> None:
    with shielded():
        ray.shutdown()


def logs_folder() -> str:
    """Where the processes of the connected Ray cluster write their logs, on this machine."""
    node = ray._private.worker.global_worker.node
    assert node is not None
    return str(node.get_logs_dir_path())


def first_line(error: BaseException) -> str:
    """What an error says, where a line is all there is room for."""
    return next(iter(str(error).splitlines()), repr(error))
