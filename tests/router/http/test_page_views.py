"""What the page shows, where it is in the address and in the history, in a real Chromium."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from bitsift.options import DEPTH_MAX, QUERY_CHARACTERS_MAX, Mode
from tests.pages import TEXTS, Page, opened

HAS_URL = "url+=+'https://example.org/'"
pytestmark = pytest.mark.needs("chromium", "chromedriver")
HARD = {
    "id": "hard/../id?#%\u202e",
    "title": "title " * 40 + "\u0301" * 100 + " title" * 200,
    "text": "needle " + "haystack \u202e" * 40_000,
    "metadata": {f"field{i}": f"value {i} " + "\u0336" * 200 for i in range(9)}
    | {
        "url": "https://example.org/",
        "bad": "javascript:alert(1)",
        "deep": {"a": [1, {"b": None}]},
    },
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened(tmp_path_factory.mktemp("views")) as found:
        found.site.add(HARD, {"id": "..", "title": "", "text": "an id of two dots"})
        yield found
        severe = [e for e in found.browser.get_log("browser") if e["level"] == "SEVERE"]
        assert severe == []


def parameters(page: Page) -> dict[str, str]:
    url = urlsplit(page.browser.current_url)
    return {name: values[0] for name, values in parse_qs(url.query or url.fragment).items()}


def headings(page: Page) -> list[str]:
    script = (
        "return [...document.querySelectorAll('h1')].filter(e => e.checkVisibility())"
        ".map(e => e.textContent)"
    )
    return list(page.run(script))


def test_each_question_typed_and_settled_has_one_entry_of_the_history(page: Page) -> None:
    page.open()
    page.until(lambda: page.find("#welcome").is_displayed())
    assert len(headings(page)) == 1
    entries = page.run("return history.length")
    page.ask("number 7")
    page.ask("number 8")
    page.type("number 8 an", Keys.BACKSPACE, Keys.BACKSPACE, Keys.BACKSPACE)  # nothing new
    page.type("number 9")
    page.answered("number 9")
    assert page.run("return history.length") == entries + 3
    assert len(headings(page)) == 1
    for query in ("number 8", "number 7"):
        page.browser.back()
        page.answered(query)
        assert page.field.get_attribute("value") == query
        assert page.browser.title == f"{query} · Bitsift"
    page.browser.back()
    page.until(lambda: page.find("#welcome").is_displayed())
    page.browser.forward()
    page.answered("number 7")


def test_a_question_typed_and_taken_back_leaves_no_entry(page: Page) -> None:
    page.open("/?q=number+6")
    page.ask("number 7")
    page.ask("number 8")
    page.field.send_keys("x", Keys.BACKSPACE, Keys.ENTER)
    page.until(lambda: page.run("return navigation.canGoForward"))
    page.answered("number 8")
    page.browser.back()
    page.answered("number 7")


def test_options_are_in_the_address_and_come_back_with_it(page: Page) -> None:
    page.open("/?q=number+7")
    page.answered("number 7")
    page.find("#more").click()
    page.until(lambda: len(page.every(".hit")) == 20)
    page.find("#options-toggle").click()
    page.find("#mode").send_keys("exact")
    page.until(lambda: parameters(page).get("mode") == "exact")
    page.find("#filter").send_keys("number < 15", Keys.ENTER)
    page.until(lambda: len(page.every(".hit")) == 15)
    assert "15 pass the filter" in page.find("#status").text
    page.find("#explain-toggle").click()
    page.until(lambda: len(page.every(".steps")) == 15)
    wanted = {"q": "number 7", "top_k": "20", "mode": "exact", "explain": "1"}
    wanted["filter"] = "number < 15"
    assert parameters(page) == wanted
    said = page.find("#curl").get_attribute("textContent") or ""
    assert '"mode":"exact"' in said

    link = page.browser.current_url
    for again in (page.browser.refresh, lambda: page.browser.get(link)):
        again()
        page.until(lambda: len(page.every(".steps")) == 15)
        assert page.find("#mode").get_attribute("value") == "exact"
        assert page.find("#count").get_attribute("value") == "20"
        assert page.find("#filter").get_attribute("value") == "number < 15"
        assert parameters(page) == wanted

    page.open("/?q=number+7&top_k=37&mode=nonsense&explain=yes")
    page.until(lambda: len(page.every(".hit")) == 37)
    assert page.find("#count").get_attribute("value") == "37"
    assert page.find("#mode").get_attribute("value") == "auto"
    options = [one.get_attribute("value") for one in page.every("#mode option")]
    assert options == [mode.value for mode in Mode]
    page.open("/?q=number+7&top_k=1001")
    page.until(lambda: len(page.every(".hit")) == 10)


def test_a_document_has_an_address_and_back_leads_to_the_same_place(page: Page) -> None:
    page.open("/?q=number+7&top_k=50")
    page.until(lambda: len(page.every(".hit")) == 50)
    hit = page.every(".hit")[30]
    page.run("arguments[0].scrollIntoView({block: 'center'})", hit)
    key, before = hit.get_attribute("data-hit"), page.run("return scrollY")
    searched = len(page.requests("/v1/search"))
    hit.find_element(By.CSS_SELECTOR, "h2 a").click()
    page.until(lambda: page.find("#document h1").is_displayed())
    assert headings(page) == [f"title {key}"]
    assert page.find("[data-document-text]").text == TEXTS[int(key or "")].strip()
    assert parameters(page)["document"] == key
    assert page.run("return scrollY") == 0
    page.browser.back()
    page.until(lambda: page.find("#results").is_displayed())
    assert page.run("return scrollY") == before
    assert page.focused.get_attribute("data-open") == key
    assert len(page.requests("/v1/search")) == searched  # the answer was still there
    assert page.browser.title == "number 7 · Bitsift"

    page.browser.forward()
    page.until(lambda: page.find("#document h1").is_displayed())
    page.browser.refresh()
    page.until(lambda: page.find("#document h1").is_displayed())
    page.focused.send_keys(Keys.ESCAPE)
    page.until(lambda: len(page.every(".hit")) == 50)
    page.until(lambda: page.run("return scrollY") == before)  # after a reload, too


def test_a_document_is_shown_whole_with_all_metadata_and_hits_are_short(page: Page) -> None:
    page.open("/?q=an+id+of+two+dots")
    page.answered("an id of two dots")
    page.find("h2 a").click()
    page.until(lambda: page.find("#document h1").is_displayed())
    assert page.find("[data-document-text]").text == "an id of two dots"
    assert page.find("#document").text.split("\n")[:3] == ["← Back to the hits", "..", "Metadata"]

    page.open("/?q=x&filter=" + HAS_URL)
    page.answered("x")
    (sent,) = page.requests("/v1/search")
    assert sent["bytes"] < 20_000  # of 360,000
    hit = page.find(".hit")
    heading = hit.find_element(By.TAG_NAME, "h2")
    assert heading.size["height"] < 80
    links = [a.get_attribute("href") for a in hit.find_elements(By.CSS_SELECTOR, ".meta a")]
    assert not any("javascript" in (href or "") for href in links)
    hit.find_element(By.CSS_SELECTOR, "h2 a").click()
    page.until(lambda: page.find("#document h1").is_displayed())
    shown = page.run("return document.querySelector('[data-document-text]').textContent")
    assert shown == HARD["text"]
    fields = page.run(
        "return [...document.querySelectorAll('[data-field]')]"
        ".map(e => [e.dataset.field, e.querySelector('dd').textContent])"
    )
    metadata = HARD["metadata"]
    assert isinstance(metadata, dict)
    for name, value in metadata.items():
        said = dict(fields)[name]
        assert (json.loads(said) if isinstance(value, dict) else said) == value
    assert dict(fields)["id"] == HARD["id"]
    assert [a.get_attribute("href") for a in page.every("#fields a")] == ["https://example.org/"]
    assert parameters(page)["document"] == HARD["id"]

    page.open("/?document=nobody")
    page.until(lambda: "no such document" in page.find("#notice").text)
    assert len(headings(page)) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_runs_over_its_neighbours(page: Page, width: int, scheme: str) -> None:
    page.resize(width, 900, scheme)
    hard = "/?document=hard%2F..%2Fid%3F%23%25%E2%80%AE"
    for path in ("/", "/?q=x&filter=" + HAS_URL + "&explain=1&mode=exact", "/?q=number+7", hard):
        page.open(path)
        page.until(lambda: page.run("return document.body.dataset.state") in ("done", "empty"))
        assert not page.is_wider_than_its_window(), path
    style = (
        "const style = getComputedStyle(document.querySelector(arguments[0]));"
        "return [style.overflowX, style.unicodeBidi]"
    )
    assert page.run(style, "#document h1") == ["clip", "isolate"]


def test_show_less_leaves_what_follows_where_it_is(page: Page) -> None:
    page.resize(1200, 500)
    page.open("/?q=number+7")
    page.answered("number 7")
    button = page.every("#results button[aria-expanded=false]:not([hidden])")[4]
    page.run("arguments[0].scrollIntoView({block: 'center'})", button)
    for said in ("Show less", "Show more"):
        top = page.run("return arguments[0].getBoundingClientRect().top", button)
        button.click()
        assert button.text == said
    assert page.run("return arguments[0].getBoundingClientRect().top", button) == pytest.approx(
        top, abs=1
    )


def test_the_keys_lead_through_the_hits(page: Page) -> None:
    page.open("/?q=number+7")
    page.answered("number 7")
    ids = [one.get_attribute("data-hit") for one in page.every(".hit")]
    page.field.send_keys(Keys.ARROW_DOWN)
    for key in [*ids, ids[-1]]:
        assert page.focused.get_attribute("data-open") == key
        page.focused.send_keys(Keys.ARROW_DOWN)
    page.focused.send_keys(Keys.ARROW_UP)
    assert page.focused.get_attribute("data-open") == ids[-2]
    outline = "const s = getComputedStyle(document.activeElement); return s.outlineStyle"
    assert page.run(outline) == "solid"
    page.focused.send_keys(Keys.ENTER)
    page.until(lambda: page.find("#document h1").is_displayed())
    page.focused.send_keys(Keys.ESCAPE)
    page.until(lambda: page.focused.get_attribute("data-open") == ids[-2])
    page.focused.send_keys(Keys.ESCAPE)
    assert page.focused == page.field
    page.field.send_keys(Keys.ARROW_DOWN)
    page.focused.send_keys(Keys.ARROW_UP)
    assert page.focused == page.field
    assert page.field.get_attribute("value") == "number 7"


def test_the_longest_question_is_taken_and_a_longer_one_is_counted(page: Page) -> None:
    longest = "\u00e9" * (QUERY_CHARACTERS_MAX - 1) + "\U0001f600"
    paste = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new InputEvent('input'))"
    page.open()
    page.run(paste, page.field, longest)
    page.answered(longest)
    page.browser.refresh()  # its address is longer than a server reads
    page.answered(longest)
    page.run(paste, page.field, longest + "abc")
    page.until(lambda: "3 too many" in page.find("#notice").text)
    assert page.every("#notice button") == []
    assert len(page.every(".hit")) == 10
    assert page.field.get_attribute("value") == longest + "abc"


def test_one_search_is_in_flight_at_a_time(page: Page) -> None:
    page.open()
    page.field.send_keys("a question typed letter by letter")
    page.answered("a question typed letter by letter")
    spans = page.requests("/v1/search")
    assert all(one["end"] <= after["start"] for one, after in itertools.pairwise(spans))


def test_another_index_of_the_server_can_be_chosen(page: Page) -> None:
    page.open("/?q=number+7&top_k=20")
    page.until(lambda: len(page.every(".hit")) == 20)
    page.find("#options-toggle").click()
    page.until(lambda: page.find("#index").is_displayed())
    page.find("#index").send_keys("other")
    page.until(lambda: len(page.every(".hit")) == 10)
    page.until(lambda: page.find("[data-fact=documents]").text == "10")
    assert "/v1/indexes/other/search" in (page.find("#curl").get_attribute("textContent") or "")
    page.find("h2 a").click()
    page.until(lambda: page.find("#document h1").is_displayed())
    page.open("/?index=alias&q=number+7")
    page.until(lambda: len(page.every(".hit")) == 10)
    page.until(lambda: page.find("#index").get_attribute("value") == "alias")
    page.open("/?q=number+7&top_k=20")
    page.until(lambda: len(page.every(".hit")) == 20)


def test_an_index_that_there_is_not_is_named_and_others_are_offered(page: Page) -> None:
    page.open("/?index=nope&q=number+7")
    page.until(lambda: "no such index" in page.find("#notice").text)
    assert page.every("#notice button") == []
    page.until(lambda: page.find("#index").is_displayed())
    page.find("#index").send_keys("other")
    page.until(lambda: len(page.every(".hit")) == 10)
    assert not page.find("#notice").is_displayed()
    page.browser.get_log("browser")  # the 404s that were meant


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf"]), max_size=20).map(str.strip)
VIEWS = st.fixed_dictionaries(
    {
        "query": WORDS | WORDS.map(lambda word: word * 2_000),
        "count": st.integers(1, DEPTH_MAX),
        "mode": st.sampled_from([mode.value for mode in Mode]),
        "filter": WORDS,
        "explain": st.booleans(),
        "index": WORDS,
        "id": WORDS.map(lambda word: word or None),
    }
)
ROUND_TRIP = """
const [views, done] = arguments;
import("./static/address.js").then(({ fromAddress, toAddress }) => {
  const addresses = views.map((view) => toAddress(view, document.baseURI));
  done(addresses.map((href) => [new URL(href).search.length, fromAddress(href)]));
});
"""


@given(views=st.lists(VIEWS, min_size=20, max_size=40))
@settings(max_examples=10)
def test_an_address_says_all_of_a_view(page: Page, views: list[dict[str, Any]]) -> None:
    found = page.browser.execute_async_script(ROUND_TRIP, views)
    for view, (size, back) in zip(views, found, strict=True):
        assert back == view
        assert size <= 8_001  # what a server has to read


@given(
    parts=st.lists(
        st.sampled_from(["\n", " ", "word", "\U0001f600" * 9_999, "x" * 30_001]), max_size=12
    )
)
@settings(max_examples=20)
def test_a_text_is_laid_out_in_pieces_that_are_the_whole(page: Page, parts: list[str]) -> None:
    script = (
        "const [text, done] = arguments;"
        "import('./static/view.js').then(({ pieces }) => done(pieces(text)))"
    )
    pieces = page.browser.execute_async_script(script, "".join(parts))
    assert "".join(pieces) == "".join(parts)
    assert max(map(len, pieces)) <= 20_000
