"""What may be said of a table, and what is refused."""

import pytest

from bitsift.cluster.sources.dialect import Layout, checked_character, checked_layout


@pytest.mark.parametrize(
    ("said", "character"),
    [(";", ";"), ("tab", "\t"), ("\\t", "\t"), ("Pipe", "|"), ("none", ""), ("\\x01", "\x01"),
     ("\\", "\\"), ("¦", "¦"), (" ", " ")],
)  # fmt: skip
def test_characters_may_be_said_by_name(said: str, character: str) -> None:
    assert checked_character(said) == character


@pytest.mark.parametrize("said", ["||", "", "\n", "\\n", "\\xzz", "tabs"])
def test_what_is_not_one_character_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="is not one character"):
        checked_character(said)


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (Layout(delimiter="none"), "delimiter: it is one character"),
        (Layout(delimiter=",", quote=","), "have to be different"),
        (Layout(delimiter="\\", escape="\\"), "have to be different"),
        (Layout(encoding="utf-88"), "did you mean utf-8?"),
        (Layout(columns=("id,,text",)), "each needs a name of its own"),
        (Layout(columns=("id", "id")), "each needs a name of its own"),
    ],
)
def test_what_cannot_be_is_refused(layout: Layout, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("?", r"\?")):
        checked_layout(layout)


def test_columns_may_be_said_at_once_and_a_doubled_quote_is_no_escape() -> None:
    assert checked_layout(Layout(columns=("id, text", "title"))).columns == ("id", "text", "title")
    assert checked_layout(Layout(quote='"', escape='"')).escape == ""
