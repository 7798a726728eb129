"""Whatever Ray raises becomes one BitsiftError that says what became of the call."""

from __future__ import annotations

import inspect
import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import ray.data
import ray.exceptions
from ray.data import DataContext

from bitsift.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RequestOutcome,
    ShardUnavailable,
    StorageFull,
    Unavailable,
)
from bitsift.router.shards.ray_calls import (
    Callee,
    asked,
    is_gone,
    rows_of,
    shard_callee,
    translated,
)

NOT_DONE, UNKNOWN = RequestOutcome.NOT_DONE, RequestOutcome.UNKNOWN
NEVER_RAN = {"ActorUnschedulableError", "TaskUnschedulableError"}
LASTING = {
    "ActorDiedError", "ActorHandleNotFoundError", "ActorUnschedulableError", "AuthenticationError",
    "GetTimeoutError", "LocalRayletDiedError", "RayCgraphCapacityExceeded", "RayChannelError",
    "RayChannelTimeoutError", "RayDirectTransportError", "RaySystemError", "RuntimeEnvSetupError",
    "StreamingGeneratorReplayInconsistentError", "TaskUnschedulableError",
}  # fmt: skip
SHARD = shard_callee(0)
RAY_ERRORS = [
    kind
    for _, kind in inspect.getmembers(ray.exceptions, inspect.isclass)
    if issubclass(kind, ray.exceptions.RayError)
]


def task_error(
    cause: BaseException | None, text: str = "Traceback …\n  in file\nits last line"
) -> Any:
    return ray.exceptions.RayTaskError("write", text, cause, "shard", 1, "127.0.0.1")


@pytest.mark.parametrize("kind", RAY_ERRORS, ids=lambda kind: kind.__name__)
def test_every_exception_of_ray_becomes_unavailable_with_an_outcome(kind: type[Exception]) -> None:
    """Made without its constructor: some of them cannot even say what they are then."""
    found = translated(kind.__new__(kind), shard_callee(3))
    own = {"GetTimeoutError": DeadlineExceeded, "PendingCallsLimitExceeded": Overloaded}
    assert type(found) is own.get(kind.__name__, ShardUnavailable)
    assert found.message.startswith("shard 3 ")
    silent = ray.exceptions.RayTaskError, ray.exceptions.PendingCallsLimitExceeded
    assert kind.__name__ in found.message or kind in silent
    assert "\n" not in found.message
    never_ran = kind.__name__ in NEVER_RAN or isinstance(found, Overloaded)
    assert found.outcome is (NOT_DONE if never_ran else UNKNOWN)
    assert is_gone(found) is (kind.__name__ in LASTING)
    again = pickle.loads(pickle.dumps(found))
    assert (again.outcome, again.retry_after_s) == (found.outcome, found.retry_after_s)


def test_there_are_ray_exceptions_to_translate() -> None:
    assert {"ActorDiedError", "UnserializableException", *NEVER_RAN, *LASTING} <= {
        kind.__name__ for kind in RAY_ERRORS
    }
    assert len(RAY_ERRORS) > 30


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (MemoryError(), "shard 0 failed (MemoryError)"),
        (TimeoutError(), "shard 0 failed (TimeoutError)"),
        (ValueError("\none\ntwo"), "shard 0 failed (ValueError: one)"),
        (None, "shard 0 failed (RuntimeError: its last line)"),
    ],
)
def test_an_error_without_words_or_with_many_is_said_in_one_line(
    cause: BaseException | None, said: str
) -> None:
    found = translated(task_error(cause), SHARD)
    assert (type(found), found.message, found.outcome) == (ShardUnavailable, said, UNKNOWN)
    if cause is not None:
        assert translated(task_error(cause).as_instanceof_cause(), SHARD).message == said


@pytest.mark.parametrize("outcome", list(RequestOutcome))
def test_an_error_of_the_actors_own_keeps_its_outcome(outcome: RequestOutcome) -> None:
    own = StorageFull("no room").with_outcome(outcome)
    inner = task_error(own).as_instanceof_cause()
    for error in (own, task_error(own), inner, task_error(inner)):
        found = translated(error, SHARD)
        assert (type(found), found.message, found.outcome) == (StorageFull, "no room", outcome)


def test_what_could_not_be_sent_was_not_done() -> None:
    assert translated(ValueError("too large"), SHARD, was_sent=False).outcome is NOT_DONE
    assert translated(ValueError("too large"), SHARD).outcome is UNKNOWN


def test_who_is_no_shard_is_unavailable_and_no_shard() -> None:
    found = translated(ray.exceptions.ActorDiedError(), Callee("the router"))
    assert type(found) is Unavailable
    assert found.message.startswith("the router cannot be reached (ActorDiedError")


@pytest.mark.parametrize("own", [True, False])
def test_what_wraps_an_error_of_ours_several_times_is_taken_off(own: bool) -> None:
    """As Ray Data does: the tasks' error, its own, and the one of the task around it."""
    inner = InvalidRequest("row 7 is bad") if own else KeyError("row 7")
    wrapped = ray.exceptions.UserCodeException("map failed")
    wrapped.__cause__ = inner
    found = translated(task_error(wrapped), Callee("a worker"))
    assert type(found) is (InvalidRequest if own else Unavailable)
    assert found.message == ("row 7 is bad" if own else "a worker failed (KeyError: 'row 7')")


# --- with Ray ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
def task(name: str) -> str:
    if name == "own":
        raise StorageFull("no room")
    if name == "foreign":
        raise KeyError("k")
    if name == "slow":
        time.sleep(60)
    return name


def test_answers_are_waited_for_and_errors_are_ours(cluster: None) -> None:
    worker = Callee("a worker")
    assert asked([task.remote("a"), task.remote("b")], worker, 60) == ["a", "b"]
    with pytest.raises(StorageFull, match="no room"):
        asked([task.remote("a"), task.remote("own")], worker, 60)
    with pytest.raises(Unavailable, match=r"^a worker failed \(KeyError: 'k'\)$"):
        asked(task.remote("foreign"), worker, 60)
    slow = task.remote("slow")
    with pytest.raises(DeadlineExceeded, match="a worker does not answer") as raised:
        asked(slow, worker, 0.05)
    assert raised.value.outcome is UNKNOWN
    ray.cancel(slow, force=True)


@pytest.mark.parametrize("own", [True, False])
def test_what_a_worker_of_ray_data_raises_is_ours(
    cluster: None, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    def fail(row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 3:
            raise InvalidRequest("row 3 is bad") if own else ValueError("row 3")
        return row

    monkeypatch.setattr(DataContext.get_current(), "raise_original_map_exception", True)
    rows = rows_of(ray.data.range(5).map(fail).iter_rows(), Callee("a worker"))
    said = r"^row 3 is bad$" if own else r"^a worker failed \(ValueError: row 3\)$"
    with pytest.raises(InvalidRequest if own else Unavailable, match=said):
        list(rows)


def test_rows_come_as_they_are(cluster: None) -> None:
    rows = rows_of(ray.data.range(5).iter_rows(), Callee("a worker"))
    assert sorted(row["id"] for row in rows) == [0, 1, 2, 3, 4]
