"""What a build says of texts that the model reads in part."""

from pathlib import Path

import pytest

from bitsift.cluster.cli.index_reports import print_report

REPORT = {
    **dict.fromkeys(("documents", "rejects", "merged", "replaced", "bits_bytes"), 0),
    **{"disk_bytes": 0, "float32_bytes": 0, "seconds": 1.0, "already_complete": False},
    **{"cut": 2, "encoded": 3, "max_tokens": 256},
}


@pytest.mark.parametrize(
    ("is_chunked", "advice"),
    [(False, "--chunk indexes it, too."), (True, "Shorter titles leave room for the passages.")],
)
def test_what_helps_against_texts_that_are_cut(
    capsys: pytest.CaptureFixture[str], is_chunked: bool, advice: str
) -> None:
    print_report("i", Path("rejects.jsonl"), REPORT, is_chunked=is_chunked)
    said = capsys.readouterr().out
    assert "2 of 3 encoded texts are longer than the 256 tokens" in said
    assert advice in said
