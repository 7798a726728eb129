"""When a client sends again: a function of the error, the attempt, and whether it writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import Retrying

from bitsift.client.retries import (
    ATTEMPTS_MAX,
    RETRY_AFTER_MAX_S,
    WAIT_MAX_S,
    is_sent_again,
    retrying,
)
from bitsift.errors import (
    BitsiftError,
    ChecksumMismatch,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestOutcome,
    ShardUnavailable,
    StorageFull,
    Unavailable,
    WritesStopped,
)

KINDS = [
    BitsiftError, InvalidRequest, NotFound, Overloaded, StorageFull, Unavailable, ShardUnavailable,
    WritesStopped, DeadlineExceeded, ChecksumMismatch,
]  # fmt: skip


@given(
    kind=st.sampled_from(KINDS),
    outcome=st.sampled_from([RequestOutcome.UNKNOWN, RequestOutcome.DONE]),
    patience_s=st.none() | st.floats(0, 1e9),
)
def test_a_write_that_may_have_been_done_is_never_sent_again(
    kind: type[BitsiftError],
    outcome: RequestOutcome,
    patience_s: float | None,
) -> None:
    error = kind("m").with_outcome(outcome)
    error.retry_after_s = patience_s
    assert not is_sent_again(error, writes=True)


@pytest.mark.parametrize(
    ("kind", "reads", "writes"),
    [
        (Overloaded, True, True),
        (Unavailable, True, True),
        (ShardUnavailable, True, False),
        (DeadlineExceeded, True, False),
        (WritesStopped, False, False),
        (StorageFull, False, False),
        (InvalidRequest, False, False),
        (NotFound, False, False),
        (ChecksumMismatch, False, False),
        (BitsiftError, False, False),
    ],
)
def test_what_is_sent_again(kind: type[BitsiftError], reads: bool, writes: bool) -> None:
    assert is_sent_again(kind("m"), writes=False) is reads
    assert is_sent_again(kind("m"), writes=True) is writes
    not_done = kind("m").with_outcome(RequestOutcome.NOT_DONE)
    assert is_sent_again(not_done, writes=True) is reads


def test_patience_has_an_end() -> None:
    patient = Overloaded("m")
    patient.retry_after_s = RETRY_AFTER_MAX_S
    assert is_sent_again(patient, writes=True)
    patient.retry_after_s = RETRY_AFTER_MAX_S + 1
    assert not is_sent_again(patient, writes=True)


def test_what_is_no_error_of_ours_is_never_sent_again() -> None:
    assert not is_sent_again(KeyError("a fault of the client itself"), writes=False)


@given(asked_s=st.none() | st.floats(0.1, 30))
def test_attempts_have_an_end_and_wait_what_was_asked_for_and_some_chance(
    asked_s: float | None,
) -> None:
    waits: list[float] = []
    error = Overloaded("m")
    error.retry_after_s = asked_s

    def fail() -> None:
        raise error

    attempts = retrying(Retrying, writes=True)
    with pytest.raises(Overloaded) as raised:
        attempts.copy(sleep=waits.append)(fail)
    assert raised.value is error
    assert len(waits) == (0 if asked_s is None else ATTEMPTS_MAX - 1)
    assert all(asked_s <= wait <= asked_s + WAIT_MAX_S for wait in waits if asked_s is not None)
