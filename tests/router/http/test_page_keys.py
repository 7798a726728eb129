"""The page in front of a server with keys, in a real Chromium."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from bitsift.router.http.access import AccessSettings
from bitsift.router.http.keys import RECHECK_S, Key, Scope, key_file_bytes, new_key
from bitsift.router.shards.local import LocalLink
from tests.browser import chromium
from tests.fakes import HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running

pytestmark = pytest.mark.needs("chromium", "chromedriver")
WAIT_S = 20


class Guarded:
    """Thirty documents behind a gateway with one key for reading."""

    def __init__(self, folder: Path) -> None:
        texts = [f"a text about number {i}" for i in range(30)]
        units = HashEncoder(64).encode_documents(texts)
        self.shards, calibration = make_shards(folder, units, 64, 2, texts)
        links = [LocalLink(shard) for shard in self.shards]
        self.path = folder / "keys.json"
        key, self.text = new_key("page", Scope.READ, None)
        self.keep(key)
        self.gateway = Running(
            make_service(links, calibration),
            make_writer(links, calibration),
            AccessSettings(keys=self.path),
        )

    def keep(self, *keys: Key) -> None:
        aside = self.path.with_name("aside")
        aside.write_bytes(key_file_bytes(keys))
        aside.chmod(0o600)
        aside.replace(self.path)

    def close(self) -> None:
        self.gateway.stop()
        for shard in self.shards:
            shard.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    found = Guarded(tmp_path / "index")
    yield found
    found.close()


def hits(browser: webdriver.Chrome) -> list[str]:
    return [found.text for found in browser.find_elements(By.CSS_SELECTOR, "[data-hit-text]")]


def test_the_page_asks_for_a_key_uses_it_and_forgets_it(guarded: Guarded, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as browser:
        wait = WebDriverWait(browser, WAIT_S)
        browser.get(f"{guarded.gateway.url}/?q=a+text+about+number+7")
        gate = browser.find_element(By.ID, "gate")
        wait.until(lambda _: gate.is_displayed())
        field = browser.find_element(By.ID, "key")
        assert field.accessible_name == "API key"
        assert browser.find_element(By.TAG_NAME, "h1").is_displayed()

        unknown = new_key("", Scope.READ, None)[1]
        field.send_keys(unknown, Keys.ENTER)
        problem = browser.find_element(By.ID, "key-problem")
        wait.until(lambda _: "unknown" in problem.text)
        assert field.get_attribute("aria-invalid") == "true"
        assert browser.execute_script("return sessionStorage.length") == 0

        field.send_keys(guarded.text, Keys.ENTER)
        wait.until(lambda _: hits(browser))
        assert hits(browser)[0] == "a text about number 7"
        assert not gate.is_displayed()
        wait.until(lambda _: browser.find_element(By.ID, "facts").is_displayed())

        kept = browser.execute_script("return [Object.values(sessionStorage), localStorage.length]")
        assert kept == [[guarded.text], 0]
        assert guarded.text not in browser.current_url + browser.page_source
        curl = browser.find_element(By.ID, "curl").get_attribute("textContent")
        assert "$BITSIFT_API_KEY" in (curl or "")
        browser.refresh()
        wait.until(lambda _: hits(browser))  # the tab still has it
        assert not browser.find_element(By.ID, "gate").is_displayed()

        browser.find_element(By.ID, "forget").click()
        wait.until(lambda _: browser.find_element(By.ID, "gate").is_displayed())
        assert browser.execute_script("return sessionStorage.length") == 0
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert [entry for entry in severe if "401" not in entry["message"]] == []


def test_a_key_revoked_while_the_page_is_open_is_asked_for_again(
    guarded: Guarded, tmp_path: Path
) -> None:
    with chromium(tmp_path / "profile") as browser:
        wait = WebDriverWait(browser, WAIT_S)
        browser.get(guarded.gateway.url)
        field = browser.find_element(By.ID, "key")
        wait.until(lambda _: browser.switch_to.active_element == field)
        field.send_keys(guarded.text, Keys.ENTER)
        welcome = browser.find_element(By.ID, "welcome")
        wait.until(lambda _: welcome.is_displayed() and "30 texts" in welcome.text)
        guarded.keep()
        time.sleep(RECHECK_S)  # the server looks at the file once in so long
        browser.find_element(By.ID, "query").send_keys("number 3")
        wait.until(lambda _: browser.find_element(By.ID, "gate").is_displayed())
        assert "revoked" in browser.find_element(By.ID, "key-problem").text
        assert hits(browser) == []
        assert browser.switch_to.active_element.get_attribute("id") == "query"  # still being typed


def test_a_key_that_may_only_read_adds_no_file(guarded: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "more.jsonl"
    file.write_text('{"id": "m", "text": "more"}\n')
    with chromium(tmp_path / "profile") as browser:
        wait = WebDriverWait(browser, WAIT_S)
        browser.get(f"{guarded.gateway.url}/")
        wait.until(lambda _: browser.find_element(By.ID, "gate").is_displayed())
        browser.find_element(By.ID, "key").send_keys(guarded.text, Keys.ENTER)
        wait.until(lambda _: browser.find_element(By.ID, "facts").is_displayed())
        browser.find_element(By.ID, "add-toggle").click()
        browser.find_element(By.ID, "add-file").send_keys(str(file))
        browser.find_element(By.ID, "add-submit").click()
        said = browser.find_element(By.ID, "add-said")
        wait.until(lambda _: "The key does not allow this" in said.text)
        assert "write" in said.text
        writing, text = new_key("page", Scope.WRITE, None)
        guarded.keep(writing)
        header = {"authorization": f"Bearer {guarded.text}"}
        index = f"{guarded.gateway.url}/v1/index"
        wait.until(lambda _: httpx.get(index, headers=header).status_code == 401)  # it was revoked
        browser.find_element(By.ID, "add-submit").click()
        wait.until(lambda _: browser.find_element(By.ID, "gate").is_displayed())
        browser.find_element(By.ID, "key").send_keys(text, Keys.ENTER)
        wait.until(lambda _: not browser.find_element(By.ID, "gate").is_displayed())
        browser.find_element(By.ID, "add-submit").click()
        wait.until(lambda _: said.text == "1 record: 1 created.")
