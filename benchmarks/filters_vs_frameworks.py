"""Bitsift's filters against those of Haystack and LlamaIndex: who passes which document?

    python -m benchmarks.filters_vs_frameworks [--pairs 30000] [--seed 0] [--venv FOLDER]

Random filters and random documents, each filter in both languages. The frameworks (330 MB, too much
for the tests) are installed in an environment of their own, in the versions of
filters_vs_frameworks.txt, and answer in a process of their own. Whole filters and each of their
tests are asked. Where a test is answered differently, one of the documented disagreements (RULES)
must say so from the types alone; a whole filter may differ only where one of its tests does.
Anything else is a failure. Results go to benchmarks/results/filters_vs_frameworks.json.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PINS = Path(__file__).with_name("filters_vs_frameworks.txt")
RESULT = Path(__file__).with_name("results") / "filters_vs_frameworks.json"
PAIRS, DOCUMENTS_PER_FILTER = 30_000, 10
HAYSTACK_OPERATORS = {
    "$eq": "==", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<=",
    "$in": "in", "$nin": "not in", "$exists": "!=",
}  # fmt: skip
LLAMA_OPERATORS = HAYSTACK_OPERATORS | {"$nin": "nin", "$all": "all", "$exists": "is_empty"}
ORDERING = ("$gt", "$gte", "$lt", "$lte")
PATHS = ["a", "b", "a.b", "a.b.c", "absent"]
Answer = bool | str  # or the name of an error


# --- random filters and documents ----------------------------------------------------------------


def random_leaf(chance: random.Random, operators: list[str], dates: bool) -> dict[str, Any]:
    """A test of one field, in Bitsift's form."""
    operator = chance.choice(operators)
    plain: list[Any] = ["a", "aa", "b", "ä", "1", "2025-02-03", "2025-02-03T00:00:00"]
    numbers: list[Any] = [0, 1, 1.5, -3, 2**53, 2**53 + 1, 1e300]
    some: list[Any] = plain + numbers
    if dates:
        some += [{"$date": "2025-02-03"}, {"$date": "2025-02-02T23:30:00Z"}, True, False]
    field = chance.choice(PATHS)
    if operator in ("$in", "$nin", "$all"):
        kinds = [plain, numbers] if not dates else [some]
        values = chance.sample(chance.choice(kinds), chance.choice([1, 2, 3]))
        return {field: {operator: values}}
    if operator == "$exists":
        return {field: {operator: chance.random() < 0.5}}
    if operator in ORDERING:
        some = [value for value in some if not isinstance(value, bool)]
    return {field: {operator: chance.choice(some)}}


def random_haystack(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    drawn = chance.random()
    if depth < 3 and drawn < 0.4:
        parts = [random_haystack(chance, depth + 1) for _ in range(chance.randrange(4))]
        return {chance.choice(["$and", "$or"]): parts}
    if depth < 3 and drawn < 0.5:
        return {"$not": random_haystack(chance, depth + 1)}
    return random_leaf(chance, list(HAYSTACK_OPERATORS), dates=True)


def random_llama(chance: random.Random) -> dict[str, Any]:
    """Of one level: LlamaIndex refuses others."""
    operators = list(LLAMA_OPERATORS)
    parts = []
    for _ in range(chance.randrange(1, 4)):
        leaf = random_leaf(chance, operators, dates=False)
        ((path, test),) = leaf.items()
        if "$exists" in test:
            test = {"$exists": False}  # there is no other
        parts.append({path.split(".")[0]: test})
    joined = chance.choice(["$and", "$or", "none"])
    return {"$not": {"$or": parts}} if joined == "none" else {joined: parts}


def leaves(written: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key, below in written.items():
        if key == "$not":
            yield from leaves(below)
        elif key in ("$and", "$or"):
            for part in below:
                yield from leaves(part)
        else:
            yield {key: below}


# --- translation ---------------------------------------------------------------------------------


def plain(operand: Any) -> Any:
    """An operand without our mark of dates."""
    if isinstance(operand, list):
        return [plain(value) for value in operand]
    return operand["$date"] if isinstance(operand, dict) else operand


def to_haystack(written: dict[str, Any]) -> dict[str, Any]:
    ((key, below),) = written.items()
    if key in ("$and", "$or"):
        return {"operator": key[1:].upper(), "conditions": [to_haystack(part) for part in below]}
    if key == "$not":
        return {"operator": "NOT", "conditions": [to_haystack(below)]}
    ((operator, operand),) = below.items()
    if operator == "$exists":
        return {"field": f"meta.{key}", "operator": "!=" if operand else "==", "value": None}
    theirs = HAYSTACK_OPERATORS[operator]
    return {"field": f"meta.{key}", "operator": theirs, "value": plain(operand)}


def to_llama(written: dict[str, Any]) -> dict[str, Any]:
    ((key, below),) = written.items()
    if key == "$not":
        return {"condition": "not", "filters": [llama_leaf(part) for part in below["$or"]]}
    if key in ("$and", "$or"):
        return {"condition": key[1:], "filters": [llama_leaf(part) for part in below]}
    return {"condition": "and", "filters": [llama_leaf(written)]}


def llama_leaf(written: dict[str, Any]) -> dict[str, Any]:
    ((key, test),) = written.items()
    ((operator, operand),) = test.items()
    value = None if operator == "$exists" else plain(operand)
    return {"key": key, "operator": LLAMA_OPERATORS[operator], "value": value}


# --- the other process ---------------------------------------------------------------------------


def answer_all() -> None:
    """Reads questions from the standard input and writes the frameworks' answers. Run by theirs."""
    asked = json.load(sys.stdin)
    by_framework = {"haystack": haystack_passes, "llama_index": llama_passes}
    answers = [
        [said(by_framework[one["framework"]], each, one["metadata"]) for each in one["filters"]]
        for one in asked
    ]
    json.dump(answers, sys.stdout)


def said(passes: Callable[[Any, Any], bool], written: Any, metadata: Any) -> Answer:
    try:
        return bool(passes(written, metadata))
    except Exception as error:  # whichever they raise is their answer
        return type(error).__name__


def haystack_passes(written: Any, metadata: Any) -> bool:
    from haystack import Document  # type: ignore[import-not-found, unused-ignore]
    from haystack.utils.filters import (  # type: ignore[import-not-found, unused-ignore]
        document_matches_filter,
    )

    return bool(document_matches_filter(written, Document(content="", meta=metadata)))


def llama_passes(written: Any, metadata: Any) -> bool:
    from llama_index.core.vector_stores.types import (  # type: ignore[import-not-found, unused-ignore]
        MetadataFilter,
        MetadataFilters,
    )
    from llama_index.core.vector_stores.utils import (  # type: ignore[import-not-found, unused-ignore]
        build_metadata_filter_fn,
    )

    tests = [MetadataFilter(**test) for test in written["filters"]]
    filters = MetadataFilters(filters=tests, condition=written["condition"])
    return bool(build_metadata_filter_fn(lambda _: metadata, filters)("any"))


def environment(folder: Path) -> Path:
    """The Python of an environment with the pinned frameworks, made in ``folder`` if missing."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        install = f"{python} -m pip install -q --disable-pip-version-check -r {PINS}"
        subprocess.run(shlex.split(install), check=True, timeout=1_800)
    return python


# --- documented disagreements --------------------------------------------------------------------


def stored_at(metadata: Any, path: str) -> tuple[Any, bool]:
    """What Haystack reads at ``path``, and whether keys with dots or arrays lie on the way."""
    odd, keys = False, path.split(".")
    for depth, key in enumerate(keys):
        if isinstance(metadata, list):
            return None, True
        if not isinstance(metadata, dict):
            return None, odd
        rest = ".".join(keys[depth:])
        odd |= any("." in name and (rest + ".").startswith(name + ".") for name in metadata)
        odd |= any(name.startswith(f"{rest}.") for name in metadata)
        if key not in metadata:
            return None, odd
        metadata = metadata[key]
    return metadata, odd


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def kind(value: Any) -> type:
    return float if is_number(value) else type(value)


def is_dated(value: Any) -> bool:
    return isinstance(value, str) and len(value) >= 10 and value[4:8:3] == "--"


RULES: dict[str, Callable[[str, list[Any], Any, bool], bool]] = {
    "array: any element counts, there the whole (LlamaIndex: contains)": (
        lambda operator, operands, stored, odd: isinstance(stored, list)
    ),
    "object: its values have paths; there it is a value": (
        lambda operator, operands, stored, odd: isinstance(stored, dict)
    ),
    "path: through arrays, and keys that hold dots": lambda operator, operands, stored, odd: odd,
    "bool: never a number; there true equals 1 and lies above 0": (
        lambda operator, operands, stored, odd: (
            (isinstance(stored, bool) and any(map(is_number, operands)))
            or (is_number(stored) and any(isinstance(one, bool) for one in operands))
        )
    ),
    "order: another type does not pass; there it is an error": (
        lambda operator, operands, stored, odd: (
            operator in ORDERING
            and stored is not None
            and kind(stored) is not kind(plain(operands[0]))
        )
    ),
    "order: strings have one; in Haystack only those that some parser takes for a date": (
        lambda operator, operands, stored, odd: (
            operator in ORDERING and isinstance(stored, str) and isinstance(operands[0], str)
        )
    ),
    "dates: by $date only; in Haystack any two strings that look so are instants": (
        lambda operator, operands, stored, odd: (
            is_dated(stored) and any(map(is_dated, operands)) and operator not in ORDERING
        )
    ),
    "dates: without a zone UTC; in Haystack the zone of the other": (
        lambda operator, operands, stored, odd: (
            is_dated(stored) and any(isinstance(one, dict) for one in operands)
        )
    ),
    "dates: in one form; in Haystack whatever dateutil reads": (
        lambda operator, operands, stored, odd: (
            operator in ORDERING and isinstance(stored, str) and isinstance(operands[0], dict)
        )
    ),
    "empty: \"\" is a value; in LlamaIndex it is none": (
        lambda operator, operands, stored, odd: operator == "$exists" and stored == ""
    ),
    "numbers: exact; in LlamaIndex a list with a fraction is one of floats": (
        lambda operator, operands, stored, odd: (
            operator in ("$in", "$nin", "$all")
            and any(isinstance(one, float) for one in operands)
            and is_number(stored)
            and abs(stored) >= 2**53
        )
    ),
    "all: of equal values; in LlamaIndex of the characters of a string, else an error": (
        lambda operator, operands, stored, odd: operator == "$all" and stored is not None
    ),
}  # fmt: skip


def reasons(leaf: dict[str, Any], metadata: Any) -> list[str]:
    """The documented disagreements that may apply to this test of this document."""
    ((path, test),) = leaf.items()
    ((operator, operand),) = test.items()
    operands = operand if isinstance(operand, list) else [operand]
    stored, odd = stored_at(metadata, path)
    return [name for name, applies in RULES.items() if applies(operator, operands, stored, odd)]


# --- comparison ----------------------------------------------------------------------------------


def questions(pairs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Half of the pairs for each framework."""
    from tests.filters.brute_force import random_document

    chance = random.Random(seed)
    for at in range(pairs // DOCUMENTS_PER_FILTER):
        framework = ("haystack", "llama_index")[at % 2]
        written = random_haystack(chance) if framework == "haystack" else random_llama(chance)
        translate = to_haystack if framework == "haystack" else to_llama
        parts = [written, *leaves(written)]
        for _ in range(DOCUMENTS_PER_FILTER):
            yield {
                "framework": framework,
                "written": parts,
                "filters": [translate(part) for part in parts],
                "metadata": random_document(chance)[1],
            }


def compared(asked: dict[str, Any], answers: list[Answer], counts: Counter[str]) -> list[str]:
    """What is not explained of one pair."""
    from bitsift.filters.matching import matches
    from bitsift.filters.parse import parse_json

    (written, *parts), metadata = asked["written"], asked["metadata"]
    ours = [matches(parse_json(part), "any", metadata) for part in asked["written"]]
    wrong, differs = [], False
    for part, our, their in zip(parts, ours[1:], answers[1:], strict=True):
        counts["tests"] += 1
        if our == their:
            counts["tests, the same"] += 1
            continue
        differs, why = True, reasons(part, metadata)
        if not why:
            wrong.append(f"{part} of {metadata}: ours {our}, theirs {their}")
        else:
            counts[why[0]] += 1
    counts["filters"] += 1
    if ours[0] == answers[0]:
        counts["filters, the same"] += 1
    elif not differs:
        wrong.append(f"{written} of {metadata}: ours {ours[0]}, theirs {answers[0]}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--venv", type=Path, help="kept for the next run; default: a temporary one")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        answer_all()
        return 0

    from bitsift.cluster.bench.machine import write_result

    asked = list(questions(arguments.pairs, arguments.seed))
    with tempfile.TemporaryDirectory() as folder:
        python = environment(arguments.venv or Path(folder))
        sent = json.dumps([{k: v for k, v in one.items() if k != "written"} for one in asked])
        command = [str(python), __file__, "--answer"]
        done = subprocess.run(command, input=sent, capture_output=True, text=True, timeout=1_800)
    if done.returncode:
        print(done.stderr[-2_000:], file=sys.stderr)
        return 1
    counts: dict[str, Counter[str]] = {"haystack": Counter(), "llama_index": Counter()}
    wrong: list[str] = []
    for one, answers in zip(asked, json.loads(done.stdout), strict=True):
        wrong += compared(one, answers, counts[one["framework"]])
    for framework, counted in counts.items():
        print(framework, json.dumps(counted, indent=1, ensure_ascii=False))
    print(f"{len(wrong)} differences that no rule explains")
    for line in wrong[:20]:
        print(" ", line)
    named = ("haystack-ai=", "llama-index-core=")
    versions = [pin for pin in PINS.read_text().split() if pin.startswith(named)]
    found = {"versions": versions, "seed": arguments.seed, "unexplained": len(wrong)}
    write_result(RESULT, {**found, **counts})
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
