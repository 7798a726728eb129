"""The tree of errors: each class says what became of the request, and keeps that on its way."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest

from bitsift import errors
from bitsift.errors import BitsiftError, RequestOutcome, WritesStopped, reason


def tree(root: type[BitsiftError] = BitsiftError) -> Iterator[type[BitsiftError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:  # others are caught where they are raised
            yield from tree(child)


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_each_class_says_what_became_of_the_request(kind: type[BitsiftError]) -> None:
    """In its own words, not its parent's: a new class that forgets it fails here."""
    assert isinstance(vars(kind)["outcome"], RequestOutcome)
    assert getattr(errors, kind.__name__) is kind, "the client finds the class by its name"
    described = next(line for line in (errors.__doc__ or "").splitlines() if kind.__name__ in line)
    assert described.endswith(kind.outcome.replace("_", " "))


@pytest.mark.parametrize("outcome", [None, *RequestOutcome])
@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_with_its_message_and_its_outcome(
    kind: type[BitsiftError], outcome: RequestOutcome | None
) -> None:
    error = kind("7 of 9 bytes")
    if outcome is not None:
        error = error.with_outcome(outcome)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert (twin.message, twin.args) == ("7 of 9 bytes", ("7 of 9 bytes",))
        assert twin.outcome is (outcome or kind.outcome)


def test_an_outcome_is_said_on_a_copy_so_that_others_keep_theirs() -> None:
    shared = WritesStopped("the disk failed")
    refused = shared.with_outcome(RequestOutcome.NOT_DONE)
    assert refused.outcome is RequestOutcome.NOT_DONE
    assert (shared.outcome, WritesStopped.outcome) == (RequestOutcome.UNKNOWN,) * 2


def test_a_request_that_was_refused_was_not_done() -> None:
    for kind in tree():
        if 400 <= kind.status < 500:
            assert kind.outcome is RequestOutcome.NOT_DONE


class Mute(Exception):
    def __str__(self) -> str:
        raise AttributeError("nothing was ever set")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "MemoryError"),
        (TimeoutError(""), "TimeoutError"),
        (ValueError("\n \n  first\nsecond"), "ValueError: first"),
        (Mute(), "Mute"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 288),
    ],
)
def test_the_reason_of_any_exception_is_one_line(error: BaseException, said: str) -> None:
    assert reason(error) == said
