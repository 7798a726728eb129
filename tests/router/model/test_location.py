"""Where a model is loaded from, without loading one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsift.errors import InvalidRequest
from bitsift.router.model.location import model_location


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache of this test alone, and a hub that must not be asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("SENTENCE_TRANSFORMERS_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_hub_names_of_the_installed_model_mean_it(name: str, empty_cache: Path) -> None:
    assert model_location(name) == model_location("minilm")
    assert (Path(model_location(name)) / "modules.json").is_file()
    (empty_cache / "models--sentence-transformers--all-MiniLM-L6-v2").mkdir(parents=True)
    assert model_location(name) == name
    Path(name).mkdir(parents=True)
    assert model_location(name) == name


@pytest.mark.parametrize("name", ["/no/such/model", "./none", "~/none-here", "a/b/c", "../x"])
def test_a_path_where_nothing_is_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the hub is not asked
    with pytest.raises(InvalidRequest, match=r"cannot be loaded: /.* is no folder.*minilm"):
        model_location(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InvalidRequest, match="is a file"):
        model_location("model.safetensors")


def test_a_hub_name_offline_names_the_installed_model(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequest, match=r"HF_HUB_OFFLINE forbids.*minilm, which is installed"):
        model_location("some/model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert model_location("some/model") == "some/model"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (empty_cache / "models--some--model").mkdir(parents=True)
    assert model_location("some/model") == "some/model"


@pytest.mark.parametrize("name", ["some/model@", "@abc", "some/model@a@"])
def test_a_name_without_one_of_its_parts_is_none(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the hub is not asked
    with pytest.raises(InvalidRequest, match="it is no NAME and no NAME@COMMIT"):
        model_location(name)


def test_a_state_offline_must_be_in_the_cache(empty_cache: Path) -> None:
    cached = empty_cache / "models--some--model"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "v1").write_text("abc")
    (cached / "refs" / "refs" / "pr").mkdir(parents=True)
    (cached / "refs" / "refs" / "pr" / "1").write_text("abc")
    for there in ("some/model", "some/model@abc", "some/model@v1", "some/model@refs/pr/1"):
        assert model_location(there) == there
    with pytest.raises(InvalidRequest, match="some/model@v2.*not in the hub's cache"):
        model_location("some/model@v2")
    with pytest.raises(InvalidRequest, match="HF_HUB_OFFLINE"):
        model_location("all-MiniLM-L6-v2@abc")  # the installed one may be another state


def test_a_folder_may_have_an_at_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "models@home").mkdir()
    assert model_location("models@home") == "models@home"


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(InvalidRequest, match="is a variable not set"):
        model_location("")
