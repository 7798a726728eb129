"""Calls through Ray, and the one place where its exceptions are translated.

Whatever a call raises leaves here as a BitsiftError that says what became of the call. Nowhere else
are Ray's exceptions named, or results fetched (ruff refuses it).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import ray.exceptions

from bitsift.errors import (
    BitsiftError,
    DeadlineExceeded,
    Overloaded,
    RequestOutcome,
    ShardUnavailable,
    Unavailable,
    reason,
)

T = TypeVar("T")
_NEVER_RAN = (
    ray.exceptions.ActorUnschedulableError,
    ray.exceptions.TaskUnschedulableError,
)
"""What Ray raises for calls that it did not send; after any other error a call may have run."""
_LASTING = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorHandleNotFoundError,
    ray.exceptions.ActorUnschedulableError,
    ray.exceptions.AuthenticationError,
    ray.exceptions.GetTimeoutError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.RaySystemError,
    ray.exceptions.RuntimeEnvSetupError,
    ray.exceptions.TaskUnschedulableError,
)
"""Errors that persist until someone acts; ActorUnavailableError passes: Ray restarts the actor."""

_WRAPPERS = (ray.exceptions.RayTaskError, ray.exceptions.UserCodeException)


@dataclass(frozen=True, slots=True)
class Callee:
    """The target of a call: its name in messages, and the error that its absence means."""

    name: str
    absent: type[Unavailable] = Unavailable


ROUTER, WRITER, SHARDS = Callee("the router"), Callee("the writer"), Callee("a shard")


def shard_callee(number: int, node: str = "") -> Callee:
    """A shard, or its replica on ``node``: other shards answer without it."""
    return Callee(f"shard {number} on {node}" if node else f"shard {number}", ShardUnavailable)


async def called(method: Any, callee: Callee, *arguments: Any) -> Any:
    """What the actor's ``method`` answers. Raises BitsiftErrors, and CancelledError, only.

    A call that is cancelled here runs on there. ``ray.cancel`` is not used: where the call was not
    sent yet, it leaves a gap in their order, for which the actor waits 30 s before it runs any
    later one. Searches and reads are given up by a call of their own (remote_calls.py).
    """
    reference = sent(method, callee, *arguments)
    try:
        return await reference
    except Exception as error:
        raise translated(error, callee) from error


def sent(method: Any, callee: Callee, *arguments: Any) -> Any:
    """A reference to what ``method`` will answer, for ``asked``. Raises BitsiftErrors."""
    try:
        return method.remote(*arguments)
    except Exception as error:
        raise translated(error, callee, was_sent=False) from error


async def put(data: bytes, callee: Callee) -> Any:
    """A reference to ``data``, to send to ``callee``; a thread copies it. Raises BitsiftErrors."""
    try:
        return await asyncio.to_thread(ray.put, data)
    except Exception as error:
        raise translated(error, callee, was_sent=False) from error


def asked(references: Any, callee: Callee, timeout_s: float) -> Any:
    """What a reference, or each of a list, answers; waits for it, ``timeout_s`` at most.

    Raises BitsiftErrors only: DeadlineExceeded after that time, the first that one of them raised.
    """
    try:
        return ray.get(references, timeout=timeout_s)
    except Exception as error:
        raise translated(error, callee) from error


def rows_of(rows: Iterable[T], callee: Callee) -> Iterator[T]:
    """The rows, or batches, of a dataset of Ray Data. Raises BitsiftErrors only."""
    iterator = iter(rows)
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            found = translated(error, callee)
            found.args = (found.message.partition("\n")[0],)  # Ray Data adds how often it tried
            raise found from error
        yield row


def is_gone(error: BitsiftError) -> bool:
    """Whether what was called will not come back by itself."""
    return isinstance(error, Unavailable) and error.retry_after_s is None


def translated(error: BaseException, callee: Callee, *, was_sent: bool = True) -> BitsiftError:
    """The BitsiftError that an actor raised; else that ``callee`` is absent, and why.

    An error of the actor's own keeps its outcome. Any other leaves it unknown what became of a
    call that ``was_sent``: the actor may have done it before it died. ``retry_after_s`` is None
    where it will not come back by itself.
    """
    cause = _cause(error)
    if isinstance(cause, BitsiftError):
        return cause
    if isinstance(error, ray.exceptions.PendingCallsLimitExceeded):
        return Overloaded(
            f"{callee.name} already has the maximum number of calls waiting; try again later"
        )
    in_actor = isinstance(error, ray.exceptions.RayTaskError)
    late = isinstance(error, ray.exceptions.GetTimeoutError)
    befell = "failed" if in_actor else "does not answer" if late else "cannot be reached"
    kind = DeadlineExceeded if late else callee.absent
    found = kind(f"{callee.name} {befell} ({reason(cause)})")
    if isinstance(error, _LASTING):
        found.retry_after_s = None
    sure = not was_sent or isinstance(error, _NEVER_RAN)
    return found.with_outcome(RequestOutcome.NOT_DONE if sure else RequestOutcome.UNKNOWN)


def _cause(error: BaseException) -> BaseException:
    """The BitsiftError in whatever wraps it; else the first that is no wrapper of Ray's."""
    inside = [it for it in _causes(error) if not isinstance(it, _WRAPPERS)]
    return next((it for it in inside if isinstance(it, BitsiftError)), next(iter(inside), error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error``, what it wraps or came from, and so on; the last line where that is lost."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        cause = getattr(seen, "cause", None)
        if isinstance(seen, ray.exceptions.RayTaskError) and not isinstance(cause, BaseException):
            lines = str(getattr(seen, "traceback_str", "")).splitlines()
            cause = RuntimeError(*lines[-1:])
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
