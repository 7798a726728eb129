"""What passes a filter, written a second time: from its JSON, by other means than the product.

And random documents and filters to ask both about.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

FORMATS = [
    f"%Y-%m-%d{time}{zone}"
    for time in ("", "T%H:%M", "T%H:%M:%S", "T%H:%M:%S.%f", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f")
    for zone in (("",) if not time else ("", "%z"))
]


def passes(written: dict[str, Any], document_id: str, metadata: dict[str, Any]) -> bool:
    """Whether the document passes the filter, which is a checked one."""
    for key, below in written.items():
        if key == "$and":
            ok = False not in [passes(each, document_id, metadata) for each in below]
        elif key == "$or":
            ok = True in [passes(each, document_id, metadata) for each in below]
        elif key == "$not":
            ok = not passes(below, document_id, metadata)
        else:
            ok = field_passes(key, below, document_id, metadata)
        if not ok:
            return False
    return True


def field_passes(name: str, below: Any, document_id: str, metadata: dict[str, Any]) -> bool:
    if name == "id":
        at, present = [document_id], True
    else:
        keys = name.removeprefix("metadata.").split(".")
        at, present = list(scalars_at(metadata, keys)), exists(metadata, keys)
    if not isinstance(below, dict) or "$date" in below:
        below = {"$eq": below}
    results = []
    for operator, operand in below.items():
        if operator == "$not":
            results.append(not field_passes(name, operand, document_id, metadata))
        else:
            wanted = as_id(operand) if name == "id" else operand
            results.append(holds(operator, wanted, at, present))
    return all(results)


def as_id(operand: Any) -> Any:
    """A number as an id is a string."""
    if isinstance(operand, list):
        return [as_id(each) for each in operand]
    if isinstance(operand, bool) or not isinstance(operand, int | float):
        return operand
    if isinstance(operand, int):
        return str(operand)
    return f"{operand:g}"


def holds(operator: str, operand: Any, at: list[Any], present: bool) -> bool:
    def equal(one: Any) -> bool:
        return not present if one is None else any(compared(v, one) == 0 for v in at)

    def ordered(*signs: int) -> bool:
        return any(compared(v, operand) in signs for v in at)

    hold: dict[str, Callable[[], bool]] = {
        "$eq": lambda: equal(operand),
        "$ne": lambda: not equal(operand),
        "$in": lambda: any(map(equal, operand)),
        "$nin": lambda: not any(map(equal, operand)),
        "$all": lambda: all(map(equal, operand)),
        "$exists": lambda: present == operand,
        "$prefix": lambda: any(isinstance(v, str) and v[: len(operand)] == operand for v in at),
        "$gt": lambda: ordered(1),
        "$gte": lambda: ordered(0, 1),
        "$lt": lambda: ordered(-1),
        "$lte": lambda: ordered(-1, 0),
    }
    return hold[operator]()


def compared(stored: Any, operand: Any) -> int | None:
    """-1, 0 or 1; None where the types are apart."""
    if isinstance(operand, dict):
        stored, operand = moment(stored), moment(operand)
        if stored is None:
            return None
    else:
        number = [isinstance(v, int | float) and not isinstance(v, bool) for v in (stored, operand)]
        if not all(number) and type(stored) is not type(operand):
            return None
    return int(stored > operand) - int(stored < operand)


def moment(stored: Any) -> datetime | None:
    if isinstance(stored, dict):
        stored = stored["$date"]
    if not isinstance(stored, str):
        return None
    for form in FORMATS:
        try:
            found = datetime.strptime(stored, form)
        except ValueError:
            continue
        if found.date().isoformat() != stored[:10]:
            return None  # strptime takes 2026-1-31 too
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found
    return None


def is_scalar(item: Any) -> bool:
    if isinstance(item, dict):
        return list(item) == ["$date"] and moment(item) is not None
    return item is not None and not isinstance(item, list)


def scalars_at(item: Any, keys: list[str]) -> Iterator[Any]:
    if isinstance(item, list):
        for each in item:
            yield from scalars_at(each, keys)
    elif not keys:
        if is_scalar(item):
            yield item
    elif isinstance(item, dict) and not is_scalar(item):
        for count in range(1, len(keys) + 1):
            key = ".".join(keys[:count])
            if key in item:
                yield from scalars_at(item[key], keys[count:])


def exists(item: Any, keys: list[str]) -> bool:
    if isinstance(item, list):
        return any(exists(each, keys) for each in item)
    if is_scalar(item):
        return not keys
    if not isinstance(item, dict):
        return False
    path = ".".join(keys)
    for key, below in item.items():
        parts = key.split(".")
        if parts == keys[: len(parts)] and exists(below, keys[len(parts) :]):
            return True
        if (not keys or key.startswith(f"{path}.")) and exists(below, []):
            return True
    return False


# --- at random -----------------------------------------------------------------------------------

FIELDS = ["a", "b", "a.b", "a.b.c", "ä x", "id", "metadata.id", "metadata.metadata.a", "absent"]
KEYS = ["a", "b", "c", "a.b", "ä x", "id", "metadata"]
SCALARS: list[Any] = [
    *("", "a", "aa", "b", "ä", "\U0001f600", "1", "true", "2025-02-03", "2025-02-03T00:00:00"),
    *("2025-02-03T01:00+01:00", "2025-02-03 00:00:00.000001", "2025-02-30", "1969-12-31T23:59:59Z"),
    *(0, -0.0, 1, 1.0, 1.5, -3, 2**53, 2**53 + 1, float(2**53), 2**63, -(2**63), 1e300, 5e-324),
    *(True, False),
]
DATES: list[Any] = [
    {"$date": date}
    for date in (
        "2025-02-03",
        "2025-02-02T23:30:00-00:30",
        "2025-02-03T00:00:00.000001Z",
        "0001-01-01",
    )
]


def random_item(chance: random.Random, depth: int = 0) -> Any:
    drawn = chance.random()
    if drawn < 0.08:
        return None
    if drawn < 0.14:
        return chance.choice(DATES)
    if drawn < 0.30 and depth < 3:
        return [random_item(chance, depth + 1) for _ in range(chance.randrange(4))]
    if drawn < 0.45 and depth < 3:
        return random_metadata(chance, depth + 1)
    return chance.choice(SCALARS)


def random_metadata(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    keys = chance.sample(KEYS, chance.randrange(len(KEYS)))
    return {key: random_item(chance, depth) for key in keys}


def random_document(chance: random.Random) -> tuple[str, dict[str, Any]]:
    return chance.choice(["a", "aa", "1", "2025-02-03"]), random_metadata(chance)


def random_filter(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    drawn = chance.random()
    if depth < 4 and drawn < 0.3:
        parts = [random_filter(chance, depth + 1) for _ in range(chance.randrange(4))]
        return {chance.choice(["$and", "$or"]): parts}
    if depth < 4 and drawn < 0.4:
        return {"$not": random_filter(chance, depth + 1)}
    tests = {random_field(chance): random_test(chance) for _ in range(chance.choice([1, 1, 1, 2]))}
    return {name: exact(test) if name == "id" else test for name, test in tests.items()}


def exact(operand: Any) -> Any:
    """Without floats that may have lost digits: of an id they are refused."""
    if isinstance(operand, list):
        return [exact(each) for each in operand]
    if isinstance(operand, dict):
        return {name: exact(each) for name, each in operand.items()}
    return 7 if isinstance(operand, float) and abs(operand) >= 2**53 else operand


def random_field(chance: random.Random) -> str:
    return chance.choice(FIELDS)


def random_test(chance: random.Random) -> Any:
    scalar = chance.choice(SCALARS + DATES)
    if chance.random() < 0.2:
        return chance.choice([scalar, None])
    operators = ["$eq", "$ne", "$in", "$nin", "$all", "$exists", "$prefix", "$not"]
    operators += ["$gt", "$gte", "$lt", "$lte"]
    return {
        operator: random_operand(chance, operator)
        for operator in chance.sample(operators, chance.choice([1, 1, 2]))
    }


def random_operand(chance: random.Random, operator: str) -> Any:
    anything = SCALARS + DATES
    if operator == "$not":
        return {"$gte": chance.choice([1, "a"])}
    if operator == "$exists":
        return chance.random() < 0.5
    if operator == "$prefix":
        return chance.choice(["", "a", "2025-", "ä"])
    if operator == "$all":
        return chance.sample(anything, chance.choice([1, 1, 2]))
    if operator in ("$in", "$nin"):
        return chance.sample([*anything, None], chance.randrange(5))
    if operator in ("$eq", "$ne"):
        return chance.choice([*anything, None])
    return chance.choice([value for value in anything if not isinstance(value, bool)])
