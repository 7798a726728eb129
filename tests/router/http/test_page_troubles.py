"""The page when its server, a shard of it or a search fails, in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.keys import Keys

from tests.pages import Page, opened

pytestmark = pytest.mark.needs("chromium", "chromedriver")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened(tmp_path_factory.mktemp("troubles")) as found:
        yield found


def ids(page: Page) -> list[str]:
    return list(page.run("return [...document.querySelectorAll('.hit')].map(e => e.dataset.hit)"))


def test_hits_stay_while_the_server_is_away_and_the_header_says_so(page: Page) -> None:
    page.open("/?q=number+7")
    page.answered("number 7")
    page.until(lambda: "2 shards ready" in page.find("#cluster").text)
    before = ids(page)
    page.go_offline(is_offline=True)
    page.until(lambda: "not reached" in page.find("#cluster").text)  # without a keystroke
    assert ids(page) == before
    page.type("number 8")
    page.until(lambda: page.find("#notice").is_displayed())
    assert "cannot be reached" in page.find("#notice").text
    assert ids(page) == before
    assert "number 7" in page.find("#status").text
    page.until(lambda: float(page.find("#results").value_of_css_property("opacity")) < 0.6)
    page.go_offline(is_offline=False)
    page.answered("number 8")
    assert not page.find("#notice").is_displayed()
    page.until(lambda: "2 shards ready" in page.find("#cluster").text)


def test_a_partial_answer_says_which_shard_in_plain_words_and_heals(page: Page) -> None:
    page.open("/?q=number+7")
    page.answered("number 7")
    whole = ids(page)
    page.site.second.is_away = True
    page.ask("number 9")
    page.until(lambda: page.find("#notice").is_displayed())
    said = page.find("#notice").text
    assert "1 of 2 shards answered" in said
    assert "Shard 1 cannot be reached" in said
    assert "SYSTEM_ERROR" not in page.browser.page_source
    page.until(lambda: "1 of 2 shards ready" in page.find("#cluster").text)
    page.ask("number 7")
    partial = ids(page)
    assert partial != whole
    page.run("window.kept = document.querySelector('.hit')")
    assert partial[0] in whole
    page.site.second.is_away = False
    page.until(lambda: ids(page) == whole)
    assert page.run("return window.kept.isConnected")  # it may be being read
    page.until(lambda: not page.find("#notice").is_displayed())
    page.until(lambda: page.find("#cluster").text == "2 shards ready")


def test_a_search_that_cannot_be_taken_says_what_to_change(page: Page) -> None:
    page.open("/?q=number+7")
    page.answered("number 7")
    page.find("#options-toggle").click()
    page.find("#filter").send_keys("number < <", Keys.ENTER)
    page.until(lambda: page.find("#notice").is_displayed())
    assert "filter: character 10" in page.find("#notice").text
    assert page.find("#notice").get_attribute("role") == "alert"
    assert page.every("#notice button") == []
    assert len(ids(page)) == 10
    page.find("#filter").send_keys(Keys.BACKSPACE, "3", Keys.ENTER)
    page.until(lambda: sorted(ids(page)) == ["0", "1", "2"])
    assert not page.find("#notice").is_displayed()


def test_the_facts_follow_what_is_written(page: Page) -> None:
    page.open("/?q=number+7")
    page.answered("number 7")
    page.until(lambda: page.find("[data-fact=documents]").text == "200")
    assert "32× smaller" in page.find("#memory").text
    page.site.add({"id": "new", "text": "a new text"})
    page.until(lambda: page.find("[data-fact=documents]").text == "201")
    assert "32× smaller" in page.find("#memory").text
    page.site.delete("3")  # its bits stay until compaction, its mark is a bit
    page.until(lambda: page.find("[data-fact=documents]").text == "200")
    assert "32× smaller" in page.find("#memory").text
