"""The arguments of the clients' searches: the fields of SearchOptions, typed and checked."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

from bitsift.checked import checked_search, resolved
from bitsift.errors import InvalidRequest, reason
from bitsift.nearest import nearest
from bitsift.options import SearchOptions, SearchRequest
from bitsift.plain import one_vector

P = ParamSpec("P")
Client = TypeVar("Client")
Result = TypeVar("Result")
_TYPES = get_type_hints(SearchOptions)
_OPTIONS = inspect.Signature(
    [
        parameter.replace(annotation=_TYPES[name])  # for help(): without limits and help texts
        for name, parameter in inspect.signature(SearchOptions).parameters.items()
    ]
)
_QUERIES = inspect.Signature(
    [
        inspect.Parameter(
            "queries", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Iterable[str]
        ),
        *(p for name, p in _OPTIONS.parameters.items() if name not in ("query", "vector")),
    ]
)


def takes_options(
    _: Callable[P, SearchOptions],
) -> Callable[
    [Callable[[Client, SearchRequest], Result]], Callable[Concatenate[Client, P], Result]
]:
    """Gives a method that sends a checked request the arguments of SearchOptions.

    It raises InvalidRequest for invalid values.
    """
    return functools.partial(_taking, _OPTIONS)


def takes_queries_and_options(
    _: Callable[P, SearchOptions],
) -> Callable[
    [Callable[[Client, SearchRequest], Result]],
    Callable[Concatenate[Client, Iterable[str], P], Result],
]:
    """The same for a method that takes several texts instead of one text or vector."""
    return functools.partial(_taking, _QUERIES)


def _taking(
    signature: inspect.Signature, send: Callable[[Client, SearchRequest], Result]
) -> Callable[..., Result]:
    """``send`` with the arguments of ``signature``, as help() and editors show them too."""

    @functools.wraps(send)
    def method(client: Client, /, *arguments: Any, **options: Any) -> Result:
        try:
            bound = signature.bind(*arguments, **options)
        except TypeError as error:
            raise TypeError(f"{send.__name__}() {error}{_meant(signature, options)}") from None
        return send(client, _request(**bound.arguments))

    own = inspect.signature(send)
    client, _ = own.parameters.values()
    method.__signature__ = own.replace(parameters=[client, *signature.parameters.values()])  # type: ignore[attr-defined]
    return method


def _meant(signature: inspect.Signature, options: Mapping[str, object]) -> str:
    """Which argument the first unknown one of ``options`` may mean."""
    known = list(signature.parameters)
    unknown = (name for name in options if name not in signature.parameters)
    meant = next((nearest(name, known) for name in unknown), None)
    return f"; did you mean {meant}?" if meant else ""


def search_of(options: Any) -> SearchRequest:
    """One search of a batch. Raises InvalidRequest."""
    if not isinstance(options, Mapping):
        kind = type(options).__name__
        raise InvalidRequest(f'a search of a batch is a mapping: {{"query": …}}, not a {kind}')
    if not all(isinstance(name, str) for name in options):
        raise InvalidRequest("the names of options are texts")
    if options.get("queries") is not None:
        raise InvalidRequest("queries: each search of a batch is one: give query, vector or like")
    return _request(**resolved(dict(options)))


def _request(
    query: object = None, vector: object = None, queries: object = None, **options: object
) -> SearchRequest:
    """What a client was asked for. Raises InvalidRequest."""
    if query is not None and not isinstance(query, str):
        raise InvalidRequest(f"a query is a text, not a {type(query).__name__}: for several texts "
                             "use search_many, for a vector use vector=…")  # fmt: skip
    if isinstance(queries, str):
        raise InvalidRequest("search_many takes several texts; for a single one use search")
    if queries is not None and not isinstance(queries, Iterable):
        raise InvalidRequest(f"queries: a {type(queries).__name__} is not a list of them")
    numbers = None if vector is None else _numbers(vector)
    texts = None if queries is None else list(queries)
    return checked_search({"query": query, "vector": numbers, "queries": texts, **options})


def _numbers(vector: Any) -> list[float]:
    vector = one_vector(vector)
    shape = getattr(vector, "shape", ())
    if len(shape) > 1:
        raise InvalidRequest(
            f"the vector has shape {tuple(shape)}: give one row, or use search_batch for several"
        )
    try:
        numbers = [float(value) for value in vector]
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"the vector is not a sequence of numbers: {reason(error)}") from error
    if not all(map(math.isfinite, numbers)):
        raise InvalidRequest("the vector contains NaN or infinity")
    return numbers
