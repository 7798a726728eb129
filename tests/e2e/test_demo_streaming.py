"""The demo answers from what is loaded: the real command on a smaller corpus, killed midway.

It listens where `serve` and `index` do: test_ports.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from bitsift.cluster.ingest.worker import LOADING_NICE
from bitsift.cluster.manifest import read_complete
from tests.browser import chromium
from tests.commands import DEMO, answering, bitsift, family, wait_until
from tests.e2e.sockets import documented, kind, listening, sockets

WORDS = 12_000
LOAD_S = 120


def corpus(path: Path) -> Path:
    with path.open("w") as file:
        for i in range(WORDS):
            file.write(json.dumps({"id": f"w{i}", "text": f"the word for {i} things"}) + "\n")
    return path


def facts(url: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/v1/index").raise_for_status().json())


def first_hit(url: str, text: str) -> str | None:
    answer = httpx.post(f"{url}/v1/search", json={"query": text}).raise_for_status().json()
    assert answer["partial"] is False
    return answer["hits"][0]["text"] if answer["hits"] else None


def niceness(title: str, session: int) -> set[int]:
    """Of all threads of the processes of a session whose title holds this."""
    found = set()
    for process in psutil.process_iter(["pid", "cmdline"]):
        with contextlib.suppress(OSError, psutil.Error):  # ended meanwhile
            command = " ".join(process.info["cmdline"] or ())  # None: it has just ended
            if title in command and os.getsid(process.pid) == session:
                threads = [thread.id for thread in process.threads()]
                found |= {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
    return found


@pytest.mark.needs("chromium", "chromedriver")
def test_the_demo_answers_while_it_loads_is_killed_and_goes_on(tmp_path: Path) -> None:
    words, index = corpus(tmp_path / "words.jsonl"), tmp_path / "index"
    command = [sys.executable, "-c", DEMO, words, "demo", "--index", index, "--port", 0, "--json"]
    with answering(command) as (url, process):
        sockets_of: set[str] = set()

        def has_loaded_some() -> object:
            sockets_of.update(listening(process.pid))
            return facts(url)["documents"]

        early = facts(url)
        assert early["loading"] == {"done": early["documents"], "total": WORDS}
        assert wait_until(has_loaded_some, LOAD_S)
        found = first_hit(url, "the word for 17 things")
        assert niceness("IndexWorker", process.pid) == {LOADING_NICE}
        assert niceness("RouterActor", process.pid) == {0}
        assert LOADING_NICE not in niceness("ShardActor", process.pid)
        ports = {port: kind(owner) for owner, _, port in sockets(process.pid)}
        killed = facts(url)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        assert wait_until(lambda: not family(process.pid))
    assert found is not None  # it answered from the part that is there
    assert ports[httpx.URL(url).port or 0] == "RouterActor"
    assert {"ray worker", "ShardActor", "WriterActor"} <= sockets_of <= set(documented())
    assert 0 < killed["loading"]["done"] == killed["documents"] < WORDS
    unfinished = bitsift("search", "a word", "--index", index, check=False)
    assert unfinished.returncode == 1
    assert "has not finished" in unfinished.stderr

    with answering(command) as (url, _):
        assert facts(url)["documents"] >= killed["documents"]  # at once
        assert facts(url)["loading"] is not None
        watch_the_page(url, tmp_path / "profile")
        whole = facts(url)
        assert (whole["documents"], whole["loading"]) == (WORDS, None)
        for text in (f"the word for {i} things" for i in (17, WORDS // 2, WORDS - 1)):
            assert first_hit(url, text) == text
    report = read_complete(index)
    assert report is not None
    assert (report.documents, report.rejects) == (WORDS, 0)
    assert 0 < report.encoded <= WORDS - killed["documents"]  # nothing was stored twice


def watch_the_page(url: str, profile: Path) -> None:
    """Opened while the index is loading: progress is shown, and gone at the end; no reload."""
    with chromium(profile) as browser:
        browser.get(f"{url}/")
        browser.execute_script("window.sameDocument = true")
        wait = WebDriverWait(browser, LOAD_S)
        wait.until(
            lambda b: f"of {WORDS:,} texts are loaded" in b.find_element(By.ID, "loading").text
        )
        example = browser.find_element(By.CSS_SELECTOR, "[data-example]")
        bar = browser.find_element(By.TAG_NAME, "progress")
        before = float(str(bar.get_property("value")))
        wait.until(lambda _: float(str(bar.get_property("value"))) > before)
        example.click()  # the very element that was there before: progress replaces nothing
        state = "return document.body.dataset.state"
        wait.until(lambda b: b.execute_script(state) == "done")
        assert browser.find_elements(By.CSS_SELECTOR, "[data-hit-text]")
        wait.until(lambda b: not b.find_element(By.ID, "loading").is_displayed())
        notice = browser.find_element(By.ID, "notice")
        wait.until(lambda _: f"All {WORDS:,} texts are loaded" in notice.text)
        notice.find_element(By.TAG_NAME, "button").click()
        wait.until(lambda _: not notice.is_displayed())
        assert browser.execute_script("return window.sameDocument") is True
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
