"""A model that was compiled before: the same vectors without torch, and loaded anew when it is not
the same any more.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsift.errors import FormatMismatch
from bitsift.router.model import kept
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.kept import MODELS_MAX, Kept, key_of
from bitsift.router.model.loading import load_model
from bitsift.router.model.prompts import AS_SAVED, Prompts
from bitsift.router.model.runtime import TOKENIZED_TEXTS
from tests.tiny_model import build_tiny_model

TEXTS = [*TOKENIZED_TEXTS, *(f"word {n} " * (n + 1) for n in range(40))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), 32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bitsift" / "models"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that sentence-transformers loads from now on."""
    names: list[str] = []

    def counted(name: str, location: str, threads: int | None, *, only_here: bool) -> Any:
        names.append(name)
        return load_model(name, location, threads, only_here=only_here)

    monkeypatch.setattr("bitsift.router.model.encoder.load_model", counted)
    return names


def test_a_later_process_makes_the_same_vectors_without_torch(
    folder: Path, tmp_path: Path, cache: Path
) -> None:
    first = Encoder.load(str(folder))
    expected = tmp_path / "expected.npz"
    np.savez(expected, q=first.encode_queries(TEXTS), d=first.encode_documents(TEXTS))
    code = f"""
import sys, numpy as np
from bitsift.router.model.encoder import Encoder
from tests.router.model.test_kept import TEXTS
encoder = Encoder.load({str(folder)!r})
with np.load({str(expected)!r}) as first:
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), first["q"], atol=1e-6)
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), first["d"], atol=1e-6)
print(encoder.backend, encoder.prompts_said, encoder.tokens.counts(["a b", ""]).tolist(), sep=";")
print(*sorted({{"torch", "transformers", "sentence_transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, check=True, timeout=120,
                          stdout=subprocess.PIPE)  # fmt: skip
    said, loaded, *_ = done.stdout.split("\n")
    assert said == ";".join(
        [first.backend, first.prompts_said, str(first.tokens.counts(["a b", ""]).tolist())]
    )
    assert loaded == ""


def test_it_is_the_same_model_by_another_name(folder: Path, loads: list[str]) -> None:
    first, again = Encoder.load(str(folder)), Encoder.load(f"{folder}/.")
    assert loads == [str(folder)]
    assert again.spec.to_json() == first.spec.to_json() | {"name": f"{folder}/."}


def test_other_prompts_are_other_vectors(folder: Path, loads: list[str]) -> None:
    for _ in range(2):
        for prompts in (AS_SAVED, Prompts("ask: ", "")):
            found = Encoder.load(str(folder), prompts=prompts)
            assert found.spec.query_prompt == (prompts.query or "query: ")
    assert len(loads) == 2
    with_prompt, without = (
        Encoder.load(str(folder), prompts=prompts).encode_documents(["text"])
        for prompts in (AS_SAVED, Prompts("ask: ", ""))
    )
    assert (with_prompt * without).sum() < 0.9999


def test_an_index_that_was_built_with_another_state_is_refused(folder: Path) -> None:
    Encoder.load(str(folder))
    spec = Encoder.load(str(folder)).spec
    other = type(spec).from_json(spec.to_json() | {"revision": "0123456789abcdef"})
    with pytest.raises(FormatMismatch, match="revision was '0123456789abcdef'"):
        Encoder.load(str(folder), expected=other)


def test_whatever_changes_in_the_folder_it_is_loaded_anew(
    folder: Path, tmp_path: Path, loads: list[str]
) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    Encoder.load(str(changed))
    weights = changed / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0x40
    weights.write_bytes(content)
    again = Encoder.load(str(changed))
    settings = changed / "sentence_bert_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_seq_length": 8}))
    shorter = Encoder.load(str(changed))
    assert len(loads) == 3
    assert len({e.spec.revision for e in (Encoder.load(str(folder)), again)}) == 2
    assert (again.spec.max_tokens, shorter.spec.max_tokens) == (64, 8)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "graph"])
def test_what_is_damaged_is_made_again(
    folder: Path, cache: Path, loads: list[str], damage: str
) -> None:
    first = Encoder.load(str(folder)).encode_queries(TEXTS)
    for file in cache.iterdir():
        content = file.read_bytes()
        if damage == "flip":
            file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
        elif damage != "graph":
            file.write_bytes(content[: 0 if damage == "empty" else len(content) // 2])
    if damage == "graph":
        for graph in (cache.parent / "graphs").glob("*/graph.bin"):
            graph.unlink()
    np.testing.assert_allclose(Encoder.load(str(folder)).encode_queries(TEXTS), first, atol=1e-6)
    assert len(loads) == 2
    Encoder.load(str(folder))
    assert len(loads) == 2


def test_one_that_disagrees_with_torch_is_loaded_anew(
    folder: Path, cache: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Encoder.load(str(folder))
    checked = Kept.checked.fget  # type: ignore[attr-defined]
    turned = property(lambda it: {kind: -rows for kind, rows in checked(it).items()})
    monkeypatch.setattr(Kept, "checked", turned)
    Encoder.load(str(folder))
    assert len(loads) == 2


def test_torch_is_used_where_it_is_asked_for_or_may_have_a_gpu(
    folder: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Encoder.load(str(folder))
    assert Encoder.load(str(folder), backend="torch").backend == "torch (cpu)"
    assert len(loads) == 2
    assert key_of(str(folder), AS_SAVED) is not None
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.13.0")
    monkeypatch.setattr(kept, "_DEVICES", {"": (str(folder),)})
    assert key_of(str(folder), AS_SAVED) is None
    monkeypatch.setattr(kept, "_DEVICES", {"": (str(folder / "nvidia"),)})
    assert key_of(str(folder), AS_SAVED) is not None


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of a model "some/model" in the cache of a hub that must not be asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("SENTENCE_TRANSFORMERS_HOME", raising=False)
    model, sha = tmp_path / "hub" / "models--some--model", "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(sha)
    return Path(shutil.copytree(folder, model / "snapshots" / sha))


def test_a_model_of_the_hub_that_is_here_is_remembered_while_the_hub_is_not_asked(
    hub: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(name: str, _: str, threads: int | None, *, only_here: bool) -> Any:
        """sentence-transformers would ask the hub's cache by paths of its own."""
        loads.append(name)
        return load_model(name, str(hub), threads, only_here=only_here)

    monkeypatch.setattr("bitsift.router.model.encoder.load_model", counted)
    first = Encoder.load("some/model")
    assert Encoder.load("some/model").spec == first.spec
    assert len(loads) == 1
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    Encoder.load("some/model")  # of a new index: the hub may have another state
    assert len(loads) == 2
    assert Encoder.load("some/model", expected=first.spec).spec == first.spec
    assert len(loads) == 2
    other = type(first.spec).from_json(first.spec.to_json() | {"revision": "0123456789abcdef"})
    with pytest.raises(FormatMismatch):  # once the hub was asked for it
        Encoder.load("some/model", expected=other)
    assert len(loads) == 3


def test_a_model_that_is_not_here_has_no_key(hub: Path) -> None:
    assert key_of("some/model", AS_SAVED) is not None
    assert key_of("another/model", AS_SAVED) is None


def test_where_nothing_can_be_kept_it_costs_time_only(
    folder: Path, cache: Path, loads: list[str]
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    for times in (1, 2):
        Encoder.load(str(folder))
        assert len(loads) == times


def test_the_least_recently_used_are_forgotten(folder: Path, cache: Path) -> None:
    Encoder.load(str(folder))
    newest = {path.name for path in cache.iterdir()}
    for number in range(MODELS_MAX):
        older = cache / f"{number:032x}"
        older.write_bytes(b"")
        os.utime(older, (number, number))
    Encoder.load(str(folder), prompts=Prompts("one more: ", None))
    left = {path.name for path in cache.iterdir()}
    assert len(left) == MODELS_MAX
    assert newest <= left
    assert f"{0:032x}" not in left


def test_what_an_index_was_made_by_is_remembered_for_its_servers(
    folder: Path, loads: list[str]
) -> None:
    made = Encoder.load(str(folder)).spec
    assert Encoder.load(str(folder), expected=made).spec == made
    assert len(loads) == 1
