"""The search page in a real Chromium, and a server of it whose shards may fail."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from bitsift.errors import BitsiftError, ShardUnavailable
from bitsift.router.indexes import Indexes, Served
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.types import Candidates, Query, ShardStatus
from tests.browser import chromium
from tests.fakes import HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
TEXTS = [f"a text about number {i}. " + "And more is said of it. " * 20 for i in range(200)]
WAIT_S = 20


class FallibleLink(LocalLink):
    """A shard in this process that can be away, for the reason that Ray would give."""

    is_away = False

    def _check(self) -> None:
        if self.is_away:
            raise ShardUnavailable("shard 1 cannot be reached (The actor 7f3c died: SYSTEM_ERROR)")

    async def search(
        self, queries: Sequence[Query], timeout_s: float
    ) -> Sequence[Candidates | BitsiftError]:
        self._check()
        return await super().search(queries, timeout_s)

    async def status(self) -> ShardStatus:
        self._check()
        return await super().status()


class Site:
    """A gateway over two shards with ``TEXTS``, of which the second may be away; and the index
    `other` of ten texts in one shard.
    """

    def __init__(self, folder: Path) -> None:
        units = HashEncoder(DIMENSION).encode_documents(TEXTS)
        self.shards, calibration = make_shards(folder, units, DIMENSION, 2, TEXTS)
        self.second = FallibleLink(self.shards[1])
        links = [LocalLink(self.shards[0]), self.second]
        service, writer = make_service(links, calibration), make_writer(links, calibration)
        indexes = Indexes(Served("test", service, writer))
        more, calibration = make_shards(folder / "other", units[:10], DIMENSION, 1, TEXTS)
        alone = [LocalLink(more[0])]
        other = make_service(alone, calibration), make_writer(alone, calibration)
        indexes.place([Served("other", *other)], {}, {"alias": "other"})
        self.shards += more
        self.gateway = Running(service, writer, indexes=indexes)
        self.url = self.gateway.url

    def add(self, *documents: dict[str, Any]) -> None:
        answer = httpx.post(f"{self.url}/v1/documents", json={"documents": documents})
        assert answer.json()["rejected"] == 0, answer.text

    def delete(self, *ids: str) -> None:
        answer = httpx.post(f"{self.url}/v1/documents/delete", json={"ids": ids})
        assert answer.json()["deleted"] == len(ids), answer.text

    def close(self) -> None:
        self.gateway.stop()
        for shard in self.shards:
            shard.close()


class Page:
    """What a reader sees and does."""

    def __init__(self, browser: webdriver.Chrome, site: Site) -> None:
        self.browser, self.site = browser, site
        redrawn = [StaleElementReferenceException, NoSuchElementException]
        self._wait = WebDriverWait(browser, WAIT_S, ignored_exceptions=redrawn)

    def open(self, path: str = "/") -> None:
        self.browser.get(self.site.url + path)

    def until(self, holds: Callable[[], Any]) -> Any:
        return self._wait.until(lambda _: holds())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def every(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    @property
    def field(self) -> WebElement:
        return self.find("#query")

    @property
    def focused(self) -> WebElement:
        return self.browser.switch_to.active_element

    def answered(self, query: str) -> None:
        state = "return [document.body.dataset.state, document.body.dataset.query]"
        self.until(lambda: self.run(state) == ["done", query])

    def type(self, text: str, *more: str) -> None:
        """Instead of what the field has, as a reader replaces it."""
        self.run("arguments[0].select()", self.field)
        self.field.send_keys(text, *more)

    def ask(self, text: str) -> None:
        """A question, and Enter."""
        self.type(text, "\ue007")
        self.answered(text)

    def requests(self, path: str) -> list[dict[str, Any]]:
        """What the browser noted of the requests that ended in ``path``."""
        script = (
            "return performance.getEntriesByType('resource').filter(e => e.name.endsWith("
            "arguments[0])).map(e => ({start: e.startTime, end: e.responseEnd, "
            "bytes: e.decodedBodySize}))"
        )
        return list(self.run(script, path))

    def is_wider_than_its_window(self) -> bool:
        return bool(self.run("return document.documentElement.scrollWidth > innerWidth"))

    def go_offline(self, *, is_offline: bool) -> None:
        """No request reaches the server."""
        self.browser.execute_cdp_cmd("Network.enable", {})
        self.browser.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": is_offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
        )

    def resize(self, width: int, height: int, scheme: str = "light") -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        dark = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Page]:
    """A page and the site that serves it."""
    site = Site(folder / "index")
    try:
        with chromium(folder / "profile") as browser:
            yield Page(browser, site)
    finally:
        site.close()
