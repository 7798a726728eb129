"""The only things that a local Ray cluster takes from the environment.

Ray reads its settings from environment variables, in this process and in each that it starts. Some
would join another cluster, open this one to others or run code of the caller's choice in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

from ray._private import ray_constants
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationMode,
    AuthenticationTokenLoader,
    Config,
    get_authentication_mode,
)

from bitsift.errors import Unavailable

LOOPBACK = "127.0.0.1"
FAIL_OVER = {"RAY_timeout_ms_task_wait_for_death_info": "0"}
"""In processes that call shards: calls to a process that died fail in 10 ms, those under way too.
Without it Ray waits 1.8 s for the news, and another replica is asked so much later (measured)."""
_SETTINGS = FAIL_OVER | {
    ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",  # processes listen on 127.0.0.1, not on ::
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # workers answer people
}
_IGNORED = (
    "RAY_ADDRESS",  # another cluster
    "RAY_AUTH_TOKEN_PATH",  # a token that others may know
    "RAY_JOB_CONFIG_JSON_ENV_VAR",  # settings of another job
    "RAY_JOB_ID",
    "RAY_NAMESPACE",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING",
    "RAY_RAYLET_PID",
    "RAY_REDIS_ADDRESS",  # keeps the state of the cluster elsewhere
    "RAY_RUNTIME_ENV_HOOK",  # runs a function
    "RAY_grpc_enable_http_proxy",  # sends calls between local processes through a proxy
)


@contextlib.contextmanager
def local_environment() -> Iterator[None]:
    """Within it a new Ray cluster listens on loopback and asks each caller for a random token.

    The environment is as before at the end. Raises Unavailable where Ray did not take the token.
    """
    names = (*_IGNORED, *_SETTINGS, "RAY_AUTH_TOKEN")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    clusters = ray_constants.ENABLE_RAY_CLUSTER  # what Ray read when it was imported
    try:
        os.environ.update(_SETTINGS, RAY_AUTH_TOKEN=secrets.token_hex(32))
        ray_constants.ENABLE_RAY_CLUSTER = False
        _read_again()
        if get_authentication_mode() != AuthenticationMode.TOKEN:
            raise Unavailable("this version of Ray does not require a token from its callers")
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
        _read_again()


def ignored() -> list[str]:
    """Variables of this environment that a local cluster does not heed."""
    return [name for name in _IGNORED if name in os.environ]


def _read_again() -> None:
    """Ray reads mode and token once; its own ``enable_token_auth_by_default`` does the same."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
