"""The retry policy: whether and when a client repeats a request by itself, as told to tenacity."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)
from tenacity.wait import wait_base

from bitsift.errors import BitsiftError, RequestOutcome

ATTEMPTS_MAX = 4
WAIT_FIRST_S = 0.5
WAIT_MAX_S = 4.0
RETRY_AFTER_MAX_S = 30.0
"""If a server asks for a longer wait than this, its error is raised instead."""

Kind = TypeVar("Kind", Retrying, AsyncRetrying)


def is_sent_again(error: BaseException, *, writes: bool) -> bool:
    """Whether the request that ``error`` ended may be sent again. Pure.

    A write may be repeated only if it was not done: a second copy of one that may have been done
    would undo what others wrote in between.
    """
    if not isinstance(error, BitsiftError):
        return False
    patient = error.retry_after_s is not None and error.retry_after_s <= RETRY_AFTER_MAX_S
    return patient and not (writes and error.outcome is not RequestOutcome.NOT_DONE)


def retrying(kind: type[Kind], *, writes: bool) -> Kind:
    """The loop of attempts for one request. The last error is raised as it is.

    Waits as long as the server asks, and a growing random time: clients that failed together do
    not come back together.
    """
    return kind(
        retry=retry_if_exception(partial(is_sent_again, writes=writes)),
        stop=stop_after_attempt(ATTEMPTS_MAX),
        wait=wait_random_exponential(WAIT_FIRST_S, WAIT_MAX_S) + _AskedFor(),
        reraise=True,
    )


class _AskedFor(wait_base):
    """As long as the server asked to wait."""

    def __call__(self, retry_state: RetryCallState) -> float:
        outcome = retry_state.outcome
        error = None if outcome is None else outcome.exception()
        return float(getattr(error, "retry_after_s", None) or 0.0)
