"""What a client makes of what came back: an answer, or the BitsiftError that says what happened."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from bitsift import errors
from bitsift.errors import BitsiftError, RequestOutcome, reason
from bitsift.problem_lines import error_named

T = TypeVar("T")
SHOWN_CHARACTERS_MAX = 200
_BY_STATUS: dict[int, type[BitsiftError]] = {
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    413: errors.RequestTooLarge,
    429: errors.Overloaded,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
    507: errors.StorageFull,
}
"""What an answer means whose problem document, if it has one, names no class of ours."""
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
"""Raised before the first byte of a request left; after any other error it may have arrived."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An RFC 9457 problem document in the place of an answer."""

    type: str
    title: str
    status: int
    detail: str
    outcome: RequestOutcome

    def error(self) -> BitsiftError:
        """The error that it names."""
        return error_named({"type": self.type, "detail": self.detail, "outcome": self.outcome})


def answer_of(response: httpx.Response, kind: TypeAdapter[T], server: str) -> T:
    """The value of a good response. Raises the BitsiftError that a problem document names, and one
    of unknown outcome for an answer that is not Bitsift's.
    """
    if not response.is_success:
        raise _error_of(response, server)
    try:
        return kind.validate_json(response.content)
    except ValidationError as error:
        raise BitsiftError(
            f"{server} answered HTTP {response.status_code}, "
            f"but not as Bitsift does: {_shown(response)!r}"
        ) from error


def report_of(line: Any) -> dict[str, Any] | None:
    """The report of a job, where a ``line`` of its answer is the last one; None for any other.
    Raises the BitsiftError that the job ended with.
    """
    problem = line.get("error")
    if problem is not None:
        raise error_named(problem)
    found: dict[str, Any] | None = line.get("report")
    return found


def error_of_transport(error: httpx.RequestError, server: str, *, writes: bool) -> BitsiftError:
    """Of a request that was not answered: a write of which something was sent is unknown."""
    if isinstance(error, _NOT_SENT):
        failed: BitsiftError = errors.Unavailable(f"{server} cannot be reached ({reason(error)})")
        writes = False
    else:
        late = isinstance(error, httpx.TimeoutException)
        kind = errors.DeadlineExceeded if late else errors.Unavailable
        failed = kind(f"{server} broke off its answer ({reason(error)})")
    failed = failed.with_outcome(RequestOutcome.UNKNOWN if writes else RequestOutcome.NOT_DONE)
    failed.retry_after_s = 0.0  # nobody asked for patience
    return failed


def server_name(url: httpx.URL) -> str:
    """How messages call the gateway at ``url``: its address, and the proxy on the way there. User
    names and passwords are left out.
    """
    proxy = _proxy_of(url)
    return _address(url) + (f", through the proxy {proxy} from the environment," if proxy else "")


def _proxy_of(url: httpx.URL) -> str | None:
    """The proxy that the environment names for ``url``: ``http_proxy``, ``all_proxy``, …"""
    named = urllib.request.getproxies()
    proxy = named.get(url.scheme) or named.get("all")
    if not proxy or urllib.request.proxy_bypass(url.host):
        return None
    try:
        return _address(httpx.URL(proxy if "://" in proxy else f"http://{proxy}"))
    except httpx.InvalidURL:
        return "(no valid URL)"


def _address(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _error_of(response: httpx.Response, server: str) -> BitsiftError:
    problem = _problem(response)
    name = str(problem.get("type", "")).removeprefix("bitsift:")
    kind: Any = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, BitsiftError):
        error = kind(str(problem["detail"]))
    else:
        said = problem.get("detail") or f"{server} answered {_shown(response)}"
        refused = response.is_client_error
        kind = _BY_STATUS.get(
            response.status_code, errors.InvalidRequest if refused else BitsiftError
        )
        error = kind(str(said)).with_outcome(
            RequestOutcome.NOT_DONE if refused else RequestOutcome.UNKNOWN
        )
    if problem.get("outcome") in list(RequestOutcome):
        error = error.with_outcome(RequestOutcome(problem["outcome"]))
    wait_s = _retry_after_s(response)
    if wait_s is not None:
        error.retry_after_s = wait_s
    return error


def _problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document of a gateway of ours; {} for the answer of anything between."""
    try:
        body = response.json()
    except ValueError:
        return {}
    ours = isinstance(body, dict) and str(body.get("type", "")).startswith("bitsift:")
    return body if ours and "detail" in body else {}


def _shown(response: httpx.Response) -> str:
    """Status, target of a redirect, and the beginning of the text, on one line."""
    try:
        phrase = HTTPStatus(response.status_code).phrase
    except ValueError:
        phrase = ""
    to = response.headers.get("location")
    said = f"HTTP {response.status_code} {phrase}" + (f" to {to}" if to else "")
    text = " ".join(response.text.split())[:SHOWN_CHARACTERS_MAX]
    return f"{said}: {text}" if text else said


def _retry_after_s(response: httpx.Response) -> float | None:
    """What ``Retry-After`` asks for, in seconds; it holds seconds or a date."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
