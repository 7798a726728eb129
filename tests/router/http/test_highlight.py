"""Highlights over HTTP: the sentence that is nearest by the same model, by brute force."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from bitsift.checked import checked_search
from bitsift.client import Client
from bitsift.cluster.cli import main as cli
from bitsift.errors import InvalidRequest
from bitsift.options import HIGHLIGHTED_MAX
from bitsift.router import highlight
from bitsift.router.sentences import sentences
from tests.fakes import HashEncoder
from tests.served_documents import DIMENSION, Served, serving

QUERY = "a question"
TEXTS = {
    "none": "",
    "blank": " \n\t",
    "one": "  A single sentence. ",
    "few": "First \U0001f600 one. The second, with ä! A third?",
    "many": " ".join(f"Sentence number {number}." for number in range(300)),
    "long": "x" * 20_000,
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("highlight")) as running:
        with Client(running.running.url) as client:
            vector = [1.0] * DIMENSION  # of a blank text the model makes none
            added = client.add(
                [
                    {"id": key, "text": text} | ({} if text.strip() else {"vector": vector})
                    for key, text in TEXTS.items()
                ]
            )
            assert added.created == len(TEXTS)
        yield running


def nearest(text: str, most: int) -> dict[str, Any] | None:
    spans = highlight.passages(text[: highlight.CHARACTERS_MAX], most)
    if not spans:
        return None
    encoder = HashEncoder(DIMENSION)
    (query,) = encoder.encode_queries([QUERY])
    units = encoder.encode_documents([text[start:end] for start, end in spans])
    start, end = spans[int(np.argmax(units @ query))]
    return {"text": text[start:end], "start": start, "end": end}


def test_so_many_characters_of_each_text_are_returned_and_highlights_are_of_the_whole(
    served: Served,
) -> None:
    whole = {hit["id"]: hit for hit in served.search(highlight=True)["hits"]}
    for hit in served.search(highlight=True, text_characters=7)["hits"]:
        assert hit["text"] == TEXTS[hit["id"]][:7]  # code points: the emoji is one
        assert hit["highlight"] == whole[hit["id"]]["highlight"]
    assert all(
        hit["text"] is None for hit in served.search(text_characters=7, include=["title"])["hits"]
    )


def test_the_nearest_sentence_of_each_text_is_said(served: Served) -> None:
    hits = served.search(highlight=True)["hits"]
    assert {hit["id"] for hit in hits} == TEXTS.keys()
    for hit in hits:
        expected = nearest(TEXTS[hit["id"]], highlight.PASSAGES_MAX // len(hits))
        assert hit["highlight"] == expected, hit["id"]
        assert hit["text"] == TEXTS[hit["id"]]
    assert len(sentences(TEXTS["few"])) == 3
    assert all(hit["highlight"] is None for hit in served.search()["hits"])


def test_the_text_need_not_be_included_and_other_options_go_with_it(served: Served) -> None:
    whole = {hit["id"]: hit["highlight"] for hit in served.search(highlight=True)["hits"]}
    several: list[dict[str, Any]] = [{"include": []}, {"include": ["title"], "explain": True}]
    for options in (*several, {"mode": "exact"}):
        for hit in served.search(highlight=True, **options)["hits"]:
            assert hit["highlight"] == whole[hit["id"]]
            if "include" in options:
                assert hit["text"] is None
                assert hit["metadata"] is None
    grouped = served.search(highlight=True, include=[], group_by="n")["hits"]
    assert {hit["id"]: hit["highlight"] for hit in grouped} == whole
    few = served.search(highlight=True, include=[], top_k=3)
    rest = served.search(highlight=True, include=[], top_k=3, cursor=few["cursor"])
    assert [hit["id"] for hit in (*few["hits"], *rest["hits"])] == list(whole)


def test_passages_of_a_search_are_as_many_as_it_may_have(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = list[str]()
    encoder: Any = served.running.service.encoder
    encode = encoder.encode_documents

    def noted(texts: Sequence[str]) -> Any:
        encoded.extend(texts)
        return encode(texts)

    monkeypatch.setattr(encoder, "encode_documents", noted)
    monkeypatch.setattr(highlight, "PASSAGES_MAX", 24)
    monkeypatch.setattr(highlight, "CHARACTERS_MAX", 3_000)
    hits = served.search(highlight=True)["hits"]
    assert 7 <= len(encoded) <= 24
    assert all(len(text) <= 3_000 for text in encoded)
    for hit in hits:
        assert hit["highlight"] == nearest(TEXTS[hit["id"]], 24 // len(hits))


def test_where_the_model_has_no_time_hits_come_without(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Any = served.running.service.encoder
    ended = threading.Event()

    def slow(texts: Sequence[str]) -> Any:
        assert ended.wait(30), texts
        return encoder.encode_queries(texts)

    monkeypatch.setattr(encoder, "encode_documents", slow)
    answer = served.search(highlight=True, timeout_ms=400)
    ended.set()
    assert len(answer["hits"]) == len(TEXTS)
    assert all(hit["highlight"] is None for hit in answer["hits"])


def test_queries_of_others_take_turns_with_the_sentences(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a text is read for highlights, another query waits for one batch, not for all."""
    encoder: Any = served.running.service.encoder
    order, encode = list[str](), encoder.encode_documents
    first, go_on = threading.Event(), threading.Event()
    encode_queries = encoder.encode_queries

    def documents(texts: Sequence[str]) -> Any:
        order.append("sentences")
        first.set()
        assert go_on.wait(30)
        return encode(texts)

    def queries(texts: Sequence[str]) -> Any:
        order.append("query")
        return encode_queries(texts)

    monkeypatch.setattr(encoder, "encode_documents", documents)
    monkeypatch.setattr(encoder, "encode_queries", queries)
    monkeypatch.setattr(highlight, "PASSAGES_MAX", 1_000)
    long = threading.Thread(target=lambda: served.search(highlight=True))
    long.start()
    assert first.wait(30)
    other = threading.Thread(
        target=lambda: httpx.post(
            f"{served.running.url}/v1/search", json={"query": "another"}, timeout=60
        )
    )
    other.start()
    vectors = served.running.service.query_vectors
    for _ in range(3_000):
        if vectors._thread._work_queue.qsize():
            break
        threading.Event().wait(0.01)
    go_on.set()
    other.join(60)
    long.join(60)
    assert order[:3] == ["query", "sentences", "query"] or order[:2] == ["sentences", "query"]
    assert order.count("sentences") > 2


def test_the_command_line_shows_the_sentence(served: Served) -> None:
    arguments = ["search", QUERY, "--highlight", "--url", served.running.url]
    run = CliRunner().invoke(cli.app, arguments)
    expected = nearest(TEXTS["few"], highlight.PASSAGES_MAX // len(TEXTS))
    assert expected is not None
    assert f"  {expected['text']}\n" in run.output
    assert TEXTS["few"] not in run.output


def test_without_a_text_as_query_or_for_too_many_hits_it_is_refused() -> None:
    checked_search({"query": "a", "highlight": True, "top_k": HIGHLIGHTED_MAX})
    for body, said in (
        ({"vector": [0.5] * 4}, "highlight: there is nothing to be near to"),
        ({"like": ["a"]}, "highlight: there is nothing to be near to"),
        ({"query": "a", "top_k": HIGHLIGHTED_MAX + 1}, "highlight is for 100 hits at most"),
        ({"queries": ["a"] * 11}, "highlight is for 100 hits at most"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            checked_search({"highlight": True, **body})


def test_the_highlights_of_a_batch_are_counted_together(served: Served) -> None:
    searches = [{"query": "a", "highlight": True, "top_k": 60}] * 2
    url = f"{served.running.url}/v1/search/batch"
    answer = httpx.post(url, json={"searches": searches}, timeout=60)
    assert answer.status_code == 422
    assert "120 hits with highlight of all searches together" in answer.json()["detail"]
