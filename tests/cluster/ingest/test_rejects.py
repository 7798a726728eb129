"""The list of rejects, and which of them people are told."""

from pathlib import Path

import orjson

from bitsift.cluster.ingest.rejects import FirstReasons, first_reasons, list_rejects
from bitsift.cluster.sources.files import plan_sources


def test_the_first_three_reasons_are_of_different_kinds(tmp_path: Path) -> None:
    reasons = ["bad byte 3", "bad byte 1,234", "no 'a'", "no 'b'", "odd", "even"]
    rejects = [
        {"file": "f", "line": line, "reason": reason} for line, reason in enumerate(reasons, 1)
    ]
    lines = b"".join(orjson.dumps(reject) + b"\n" for reject in rejects)
    said = ["f, line 1: bad byte 3", "f, line 3: no 'a'", "f, line 5: odd"]
    found = FirstReasons()
    found.add_lines(lines)
    assert found.said == said
    assert str(found) == "; ".join(said)
    (tmp_path / "rejects.jsonl").write_bytes(lines)
    assert first_reasons(tmp_path / "rejects.jsonl") == said


def test_all_rejects_of_all_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": 5}\n{"text": "good"}\n' + b"{\n" * 5_000)
    (tmp_path / "b.csv").write_bytes(b'id,text\n1,a\n2,"b\n3\n')
    listed = tmp_path / "rejects"
    reasons = list_rejects(plan_sources([tmp_path / "a.jsonl", tmp_path / "b.csv"]), listed)
    rejects = [orjson.loads(line) for line in listed.read_bytes().splitlines()]
    places = [(Path(reject["file"]).name, reject["line"]) for reject in rejects]
    assert places == [("a.jsonl", n) for n in (1, *range(3, 5_003))] + [("b.csv", 3), ("b.csv", 4)]
    assert len(reasons.said) == 3
