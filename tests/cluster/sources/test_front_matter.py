"""What a text file says about itself in its first lines."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.sources.front_matter import split_front_matter
from tests.source_files import read

HEADER = """---
# a comment
title: "A: title"
date: 2020-01-02
draft: false
weight: 7
ratio: 1.50
tags: [a, 'b c', 3]
authors:
  - Ann   # who wrote it
  - Bo
aliases: []
empty:
layout: post # plain
---

# Heading

Words.
"""


def test_fields_of_front_matter_are_metadata_and_its_title_the_title(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(HEADER)
    (row,) = read(tmp_path)
    assert (row["id"], row["title"]) == ("a.md", "A: title")
    assert row["text"] == "# Heading\n\nWords.\n"
    assert orjson.loads(row["metadata"]) == {
        "date": "2020-01-02",
        "draft": False,
        "weight": 7,
        "ratio": 1.5,
        "tags": ["a", "b c", 3],
        "authors": ["Ann", "Bo"],
        "aliases": [],
        "empty": None,
        "layout": "post",
    }


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("+++\ntitle = 'T'\n[more]\nn = [1, 2]\n+++\nwords", {"title": "T", "more": {"n": [1, 2]}}),
        ("---\na: 1\n...\nwords", {"a": 1}),
        ("---\r\na: b\r\n---\r\nwords", {"a": "b"}),
        ("---\na: 'it''s'\n---\nwords", {"a": "it's"}),
    ],
)
def test_the_header_is_taken_out_of_the_text(text: str, fields: dict[str, Any]) -> None:
    assert split_front_matter(text) == (fields, "words")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("---\na: 1\nnested:\n  b: 2\n---\nwords", {"a": 1}),
        ("---\na: |\n  lines\n---\nwords", {}),
        ("---\na: 1\nlist:\n  - b: 2\n---\nwords", {"a": 1}),
        ("---\na: *alias\n---\nwords", {}),
        ("+++\nnot toml\n+++\nwords", {}),
        ("---\nno end", {}),
        ("---\nwords\n---\nmore", {}),
        ("words\n---\na: 1\n---\n", {}),
        ("", {}),
    ],
)
def test_what_is_not_understood_stays_in_the_text(text: str, fields: dict[str, Any]) -> None:
    assert split_front_matter(text) == (fields, text)


def test_a_title_that_is_no_string_is_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("---\ntitle: [a]\nid: 5\ntext: b\n---\n# One\n")
    (row,) = read(tmp_path)
    assert (row["id"], row["title"], row["text"]) == ("a.md", "One", "# One\n")
    assert orjson.loads(row["metadata"]) == {"title": ["a"], "id": 5, "text": "b"}


@given(st.text(alphabet="-+ab: \n[],'\"#|", max_size=60))
def test_no_text_loses_a_word(text: str) -> None:
    fields, rest = split_front_matter(f"---\n{text}")
    assert rest == f"---\n{text}" or (fields and text.endswith(rest))
