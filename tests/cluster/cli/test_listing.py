"""bitsift count and list against a real gateway in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bitsift.client import Client
from bitsift.cluster.cli.console import TEXT_CHARACTERS_MAX
from bitsift.cluster.cli.main import app
from bitsift.errors import InvalidRequest, Unavailable
from tests.gateways import running_empty

DOCUMENTS = [{"id": f"d{n}", "text": f"text {n}\nof many", "metadata": {"n": n}} for n in range(12)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_empty(tmp_path_factory.mktemp("cli"), 64) as running:
        with Client(running.url) as client:
            long = {"id": "long", "title": "a [bold] title", "text": "word " * 10_000}
            assert client.add([*DOCUMENTS, long]).created == 13
        yield running.url


def bitsift(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def objects(text: str) -> Iterator[dict[str, Any]]:
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        found, at = decoder.raw_decode(text, at)
        at += 1
        yield found


def test_documents_are_counted(url: str) -> None:
    assert bitsift("count", "--url", url).output == "13\n"
    assert bitsift("count", "--filter", "n >= 10", "--url", url).output == "2\n"
    counted = bitsift("count", "--filter", '{"n": 3}', "--url", url, "--json").stdout
    assert json.loads(counted) == {"count": 1, "facets": None}
    lines = bitsift(
        "count", "--facets", "n", "--facet-limit", "2", "--url", url
    ).output.splitlines()
    assert lines == ["13", "n: 0 (1), 1 (1)"]
    listed = bitsift("list", "--sort", "n:desc", "--limit", "2", "--url", url, "--json").stdout
    assert [it["metadata"]["n"] for it in json.loads(listed)["documents"]] == [11, 10]


def test_a_page_is_listed_and_its_cursor_leads_to_the_next(url: str) -> None:
    said = ["list", "--filter", "n exists", "--include", "title", "--json", "--url", url]
    first = json.loads(bitsift(*said, "--limit", 7).stdout)
    assert (first["count"], len(first["documents"])) == (12, 7)
    assert {document["text"] for document in first["documents"]} == {""}
    second = json.loads(bitsift(*said, "--limit", 7, "--cursor", first["cursor"]).stdout)
    ids = [document["id"] for page in (first, second) for document in page["documents"]]
    assert sorted(ids) == sorted(str(document["id"]) for document in DOCUMENTS)
    assert second["cursor"] is None


def test_all_pages_come_one_after_the_other(url: str) -> None:
    said = bitsift("list", "--all", "--limit", 5, "--json", "--url", url)
    pages = list(objects(said.stdout))
    assert len(pages) >= 3
    assert sum(len(page["documents"]) for page in pages) == 13
    text = bitsift("list", "--all", "--limit", 5, "--url", url).output
    lines = text.splitlines()
    assert len(lines) == 14
    assert "d3  text 3 of many" in lines
    assert lines[-1] == "13 in all"
    (long,) = [line for line in lines if line.startswith("long")]
    assert long.startswith("long  a [bold] title  word word")
    assert len(long) == len("long  a [bold] title  ") + TEXT_CHARACTERS_MAX


def test_a_page_that_is_not_the_last_says_how_to_go_on(url: str) -> None:
    *_, count, more = bitsift("list", "--limit", 1, "--url", url).output.splitlines()
    assert count == "13 in all"
    _, option, cursor = more.split()
    rest = bitsift("list", option, cursor, "--url", url).output.splitlines()
    assert len(rest) == 13


@pytest.mark.parametrize("wrong", [["--filter", "n => 1"], ["--limit", "0"], ["--cursor", "x"]])
def test_a_wrong_option_is_refused(url: str, wrong: list[str]) -> None:
    done = bitsift("list", *wrong, "--url", url)
    assert isinstance(done.exception, InvalidRequest) or done.exit_code == 2, done.output


def test_a_gateway_that_is_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsift.client.retries.ATTEMPTS_MAX", 1)  # test_retries.py has those
    for command in ("count", "list"):
        done = bitsift(command, "--url", "http://127.0.0.1:1")
        assert isinstance(done.exception, Unavailable)
