"""Asking many actors at once, of which some do not answer: one question to each at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import ray

from bitsift.errors import BitsiftError
from bitsift.router.shards.ray_calls import Callee, asked

ASK_TIMEOUT_S = 5.0
K = TypeVar("K", bound=Hashable)


class Polls:
    """The questions that are under way. A frozen actor has one of each kind waiting, never more."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, Any] = {}

    def ask(self, calls: Mapping[K, Callable[[], Any]], timeout_s: float) -> dict[K, Any]:
        """What those answered that did so in time; a BitsiftError in the place of an answer.

        ``calls`` send a question each, and give its reference; one that is still waiting for an
        earlier answer is not asked again.
        """
        for key in self._waiting.keys() - calls.keys():
            del self._waiting[key]
        for key, call in calls.items():
            if key not in self._waiting:
                self._waiting[key] = call()
        references = list(self._waiting.values())
        if references:
            ray.wait(references, num_returns=len(references), timeout=timeout_s, fetch_local=False)
        answers = {}
        for key in calls:
            reference = self._waiting[key]
            if ray.wait([reference], timeout=0, fetch_local=False)[0]:
                answers[key] = outcome(reference)
                del self._waiting[key]
        return answers


def outcome(reference: Any, timeout_s: float = 5.0) -> Any:
    """What was answered, or the BitsiftError that was raised."""
    try:
        return asked(reference, Callee("an actor of the cluster"), timeout_s)
    except BitsiftError as error:
        return error


def agent_said(
    agent: Any, node: str, method: str, *arguments: Any, timeout_s: float = ASK_TIMEOUT_S
) -> Any:
    """What the agent of ``node`` answers. Raises its BitsiftErrors, or Unavailable for it."""
    call = getattr(agent, method).remote(*arguments)
    return asked(call, Callee(f"the agent of node {node}"), timeout_s)
