"""No test waits without an end: what hangs is a failure that says where, not a run that is lost."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAITS = {"acquire", "communicate", "get", "join", "result", "wait"}
"""Methods of threads, processes, events, queues and futures that can wait for ever."""
NO_THREADS = ("tests/simulation/loop.py", "tests/simulation/world.py")
"""There a result is that of a task of the event loop which has ended."""
PROGRAMS = {"run", "call", "check_call", "check_output"}
"""Functions of subprocess that take ``timeout=``."""


def unbounded(source: str) -> Iterator[int]:
    """The lines of calls that may never return. What is awaited, the test that runs it bounds."""
    tree = ast.parse(source)
    awaited = {node.value for node in ast.walk(tree) if isinstance(node, ast.Await)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, named = node.func.attr, {keyword.arg for keyword in node.keywords}
        if name in WAITS and not node.args and not named and node not in awaited:
            yield node.lineno
        owner = node.func.value
        of_subprocess = isinstance(owner, ast.Name) and owner.id == "subprocess"
        if of_subprocess and name in PROGRAMS and not named & {"timeout", None}:
            yield node.lineno


def test_a_wait_of_a_test_has_an_end() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if str(path.relative_to(ROOT)) not in NO_THREADS
        for line in sorted(unbounded(path.read_text()))
    ]
    assert not found


def test_waits_without_an_end_are_seen() -> None:
    wrong = "thread.join()\nheld.wait()\nq.get()\nsubprocess.run(['a'], check=True)"
    right = (
        "thread.join(5)\nasync def a():\n await gate.wait()\n"
        "', '.join(names)\nsubprocess.run(['a'], timeout=5)\nsubprocess.run(['a'], **options)"
    )
    assert [*unbounded(wrong)] == [1, 2, 3, 4]
    assert [*unbounded(right)] == []
