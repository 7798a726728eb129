"""The page takes files: in a real Chromium, read by the readers of `bitsift index`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bitsift.router.http import file_routes
from tests.pages import Page, opened

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium", "chromedriver")]
DROP = """
const lines = Array.from({length: 60000}, (_, n) => `{"id": "d${n}", "text": "dropped ${n}"}`);
const data = new DataTransfer();
data.items.add(new File([lines.join("\\n")], "dropped.jsonl"));
const event = new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
document.body.dispatchEvent(event);
if (!event.defaultPrevented) throw new Error("the browser would open the file");
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened(tmp_path_factory.mktemp("upload")) as page:
        yield page


def choose(page: Page, file: Path, path: str = "/") -> None:
    page.open(path)
    page.find("#add-toggle").click()
    page.find("#add-file").send_keys(str(file))


def ended(page: Page) -> str:
    """What is said when nothing is under way any more."""
    page.until(lambda: page.find("#add-submit").text == "Add" and page.find("#add-said").text)
    return page.find("#add-said").text


def problems(page: Page) -> list[str]:
    return [item.text for item in page.every("#add-problems li")]


def test_a_table_is_added_and_what_is_no_document_has_its_line(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "spiders.csv"
    file.write_text("id;title;text\ns1;;eight legs\ns2;;\ns3;web;it catches flies\n")
    page.open("/?q=eight+legs")
    page.answered("eight legs")
    page.until(lambda: "200" in page.find("#facts").text)
    assert page.find("#add").is_displayed() is False
    page.find("#add-toggle").click()
    assert page.find("#add-toggle").get_attribute("aria-expanded") == "true"
    page.find("#add-file").send_keys(str(file))
    page.find("#add-submit").click()
    assert ended(page) == "3 records: 2 created, 1 rejected."
    said = problems(page)
    assert said[0] == "spiders.csv: found delimiter ; (delimiter)"
    assert said[1].startswith("line 3: ")
    page.until(lambda: "202" in page.find("#facts").text)  # the facts and the hits follow
    page.until(lambda: page.every('[data-hit="s1"]'))
    page.find("#add-submit").click()
    page.until(lambda: "2 unchanged" in ended(page))


def test_fields_that_are_named_are_used(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "named.jsonl"
    file.write_text('{"key": "n1", "inhalt": "sechs Beine", "kopf": "Insekt"}\n')
    choose(page, file)
    for name, value in (("text", "inhalt"), ("title", "kopf"), ("id", "key")):
        page.find(f"#add-{name}").send_keys(value)
    page.find("#add-submit").click()
    assert ended(page) == "1 record: 1 created."
    found = httpx.get(f"{page.site.url}/v1/documents/n1").json()
    assert (found["title"], found["text"]) == ("Insekt", "sechs Beine")


def test_a_file_goes_to_the_index_that_is_shown(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "more.jsonl"
    file.write_text('{"id": "o1", "text": "of the other index"}\n')
    choose(page, file, "/?index=other")
    page.find("#add-submit").click()
    assert ended(page) == "1 record: 1 created."
    of_other = f"{page.site.url}/v1/indexes/other/documents/o1"
    assert httpx.get(of_other).json()["text"] == "of the other index"
    assert httpx.get(f"{page.site.url}/v1/documents/o1").status_code == 404


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("picture.png", "x", "has an unsupported ending"),
        ("noname", "x", "does not say the format"),
        ("empty.jsonl", "", "There are no documents in it."),
        ("table.csv", "a,b\n1,2\n", "text_field"),
    ],
)
def test_a_file_that_cannot_be_taken_says_why(
    page: Page, tmp_path: Path, name: str, text: str, reason: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    choose(page, file)
    page.find("#add-submit").click()
    assert reason in ended(page)


def test_a_file_that_is_too_large_says_what_takes_it(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_routes, "FILE_BYTES_MAX", 100)
    file = tmp_path / "large.jsonl"
    file.write_text('{"id": "l1", "text": "a line"}\n' * 100)
    choose(page, file)
    page.find("#add-submit").click()
    assert "bitsift add" in ended(page)


def test_only_some_problems_are_shown(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text('{"id": "p", "text": "good"}\n' + "{broken\n" * 30)
    choose(page, file)
    page.find("#add-submit").click()
    assert "30 rejected" in ended(page)
    assert len(problems(page)) == 21
    assert problems(page)[-1] == "… and more"


def test_a_file_can_be_dropped_on_the_page_and_stopped(page: Page, tmp_path: Path) -> None:
    page.open("/")
    page.run(DROP)
    assert page.find("#add").is_displayed()
    assert page.focused == page.find("#add-submit")
    page.find("#add-submit").click()
    page.until(lambda: "created so far" in page.find("#add-said").text)
    page.find("#add-submit").click()
    assert ended(page).startswith("Stopped. Until then: ")


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_the_form_is_no_wider_than_its_window(page: Page, tmp_path: Path, width: int) -> None:
    file = tmp_path / f"{'long' * 40}.jsonl"
    file.write_text('{"id": "w", "text": "wide"}\n' + "{broken" + "x" * 300 + "\n")
    page.resize(width, 800)
    choose(page, file)
    page.find("#add-submit").click()
    ended(page)
    assert not page.is_wider_than_its_window()
