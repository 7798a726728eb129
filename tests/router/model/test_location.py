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
