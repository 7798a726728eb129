"""From files to answers: the real command line, real Ray, real HTTP, a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import numpy as np
import pytest

from bitsift import Client
from tests.browser import chromium
from tests.commands import COMMAND, answering, bitsift, in_process, wait_until

XQUAD = Path(__file__).parents[1] / "data" / "xquad_en"


def documents(folder: Path = XQUAD) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]


def served(index: Path, *options: str) -> contextlib.AbstractContextManager[tuple[str, Popen[str]]]:
    """`bitsift serve`."""
    return answering([*COMMAND, "serve", index, "--port", "0", "--json", *options])


@pytest.fixture(scope="module")
def index(xquad_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = json.loads((xquad_index.parent / "report.json").read_text())
    assert report["documents"] == 1_180
    assert (report["rejects"], report["replaced"]) == (2, 1)
    return Path(shutil.copytree(xquad_index, tmp_path_factory.mktemp("xquad") / "index"))


@pytest.fixture(scope="module")
def source(xquad_index: Path) -> Path:
    return xquad_index.parent / "corpus.jsonl"


@pytest.fixture(scope="module")
def gateway(index: Path) -> Iterator[str]:
    with served(index, "--shadow-share", "1", "--shadow-cpu", "1") as (url, _):
        yield url


def test_bad_records_are_listed_with_file_line_and_reason(index: Path) -> None:
    rejects = [json.loads(line) for line in (index / "rejects.jsonl").read_text().splitlines()]
    by_line = {reject["line"]: reject for reject in rejects}
    assert sorted(by_line) == [11, 12]
    assert all(reject["file"].endswith("corpus.jsonl") for reject in rejects)
    assert "broken JSON" in by_line[11]["reason"]


def test_a_second_run_leaves_a_finished_index_untouched(index: Path, source: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in index.rglob("*") if path.is_file()}
    again = in_process("index", source, "--out", index, "--shards", 2, "--json")
    assert json.loads(again)["already_complete"] is True
    after = {path: path.stat().st_mtime_ns for path in index.rglob("*") if path.is_file()}
    assert after == before


def test_another_request_for_the_same_index_is_refused(index: Path, source: Path) -> None:
    other = bitsift("index", source, "--out", index, "--shards", 3, check=False)
    assert other.returncode == 2
    assert "shards was 2, now 3" in other.stderr


def test_the_command_line_answers_from_the_folder_and_from_the_cluster_alike(
    index: Path, gateway: str, tmp_path: Path
) -> None:
    question = "How many points did the Panthers defense surrender?"
    by_url = json.loads(bitsift("search", question, "--url", gateway, "--json").stdout)
    assert by_url["hits"][0]["id"] == "en-0-0-0"
    locked = bitsift("search", question, "--index", index, check=False)
    assert locked.returncode == 1
    assert "is open in another process" in locked.stderr
    text = bitsift("search", question, "--url", gateway, "--explain").stdout
    assert "308 points" in text
    assert "Hamming #" in text
    status = json.loads(bitsift("status", "--url", gateway, "--json").stdout)
    assert [shard["state"] for shard in status["cluster"]["shards"]] == ["READY", "READY"]
    assert status["cluster"]["encoder"]["backend"] == "openvino"


def test_a_documents_own_text_finds_it_first(gateway: str) -> None:
    every = documents()[::20]
    with Client(gateway) as client:
        answers = client.search_many(
            [document["text"] for document in every], top_k=3, timeout_ms=60_000
        )
    for document, answer in zip(every, answers, strict=True):
        assert answer.hits[0].text == document["text"]
        assert not answer.partial


def test_answers_agree_with_exact_fp32_search(gateway: str) -> None:
    from bitsift.router.model.encoder import Encoder

    encoder = Encoder.load("minilm")
    corpus = documents()
    vectors = encoder.encode_documents([document["text"] for document in corpus])
    lines = (XQUAD / "queries.jsonl").read_text().splitlines()[::12]
    queries = [json.loads(line)["text"] for line in lines]
    exact = np.argsort(-(encoder.encode_queries(queries) @ vectors.T), axis=1)[:, :10]
    with Client(gateway) as client:
        answers = client.search_many(queries, timeout_ms=60_000)
    found = [
        len({corpus[i]["_id"] for i in row} & {hit.id for hit in answer.hits})
        for row, answer in zip(exact, answers, strict=True)
    ]
    assert np.mean(found) / 10 >= 0.985


def test_a_live_search_is_asked_again_and_its_recall_told(gateway: str) -> None:
    text, until = documents()[40]["text"], time.monotonic() + 60
    with Client(gateway) as client:
        while not (shadow := client.index()["shadow"])["estimates"]:
            client.search(text)
            assert time.monotonic() < until, shadow
            time.sleep(0.5)
    assert (shadow["share"], shadow["cpu"]) == (1, 1)
    (estimate,) = shadow["estimates"]
    assert (estimate["mode"], estimate["plan"]) == ("auto", "unfiltered")
    assert estimate["recall_at_10"]["mean"] >= 0.9
    assert estimate["rank_biased_overlap"]["mean"] >= 0.9


def test_the_shard_processes_take_little_more_memory_than_their_bits(gateway: str) -> None:
    shards = httpx.get(f"{gateway}/v1/cluster").json()["shards"]
    assert sum(shard["bits_bytes"] for shard in shards) == 1_180 * 48


@pytest.mark.needs("chromium", "chromedriver")
def test_the_page_answers_as_one_types(gateway: str, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    with chromium(tmp_path) as browser:
        browser.get(f"{gateway}/")
        question = "Who won the NFL interceptions lead?"
        field = browser.find_element(By.ID, "query")
        field.send_keys(question)
        wait = WebDriverWait(browser, 20)
        state = "return [document.body.dataset.state, document.body.dataset.query]"
        wait.until(lambda b: b.execute_script(state) == ["done", question])
        texts = browser.execute_script(
            "return [...document.querySelectorAll('[data-hit-text]')].map(e => e.textContent)"
        )
        expected = httpx.post(f"{gateway}/v1/search", json={"query": question}).json()
        assert texts[0] == expected["hits"][0]["text"]
        assert len(texts) == 10
        browser.find_element(By.ID, "explain-toggle").click()
        wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, ".steps [data-stage=hamming]"))
        assert "32× smaller" in browser.find_element(By.ID, "memory").text
        field.send_keys(Keys.ESCAPE)
        wait.until(lambda b: b.execute_script(state)[0] == "empty")
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []


def test_a_killed_shard_process_is_restarted_and_named_meanwhile(index: Path, gateway: str) -> None:
    shard = httpx.get(f"{gateway}/v1/cluster").json()["shards"][1]
    os.kill(shard["pid"], signal.SIGKILL)

    def ask() -> dict[str, Any]:
        return dict(
            httpx.post(f"{gateway}/v1/search", json={"query": "a", "timeout_ms": 2_000}).json()
        )

    first = ask()
    if first["partial"]:
        assert first["coverage"]["failures"][0]["shard"] == 1
    assert wait_until(lambda: not ask()["partial"], 60)
    again = httpx.get(f"{gateway}/v1/cluster").json()["shards"][1]
    assert again["pid"] != shard["pid"]
    assert again["documents"] == shard["documents"]


def test_wrong_usage_is_told_apart_from_failure(tmp_path: Path) -> None:
    assert bitsift("--help").returncode == 0
    assert bitsift("search", "a", check=False).returncode == 2
    assert (
        bitsift("index", tmp_path / "none.jsonl", "--out", tmp_path / "i", check=False).returncode
        == 2
    )
    assert bitsift("serve", tmp_path, check=False).returncode == 1
    assert bitsift("search", "a", "--url", "http://127.0.0.1:9", check=False).returncode == 1
