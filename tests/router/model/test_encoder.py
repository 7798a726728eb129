"""The encoder on real models: the packaged MiniLM, and a small one made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsift.errors import FormatMismatch, InvalidRequest, Unavailable
from bitsift.router.description import ModelSpec
from bitsift.router.model.compiled import CompiledModel, Graph
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.loading import load_model, spec_of
from bitsift.router.model.location import model_location
from bitsift.router.model.prompts import Prompts
from bitsift.shard_worker.codes import bad_rows
from tests.tiny_model import (
    DOCUMENT_PROMPT,
    QUERY_PROMPT,
    build_static_model,
    build_tiny_model,
)

TEXTS = [
    "spider",
    "a small animal with eight legs",
    "🕷️ عنكبوت 蜘蛛",
    "words " * 400,
    "The quick brown fox jumps over the lazy dog. " * 3,
]


@pytest.fixture(autouse=True)
def nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test meets models that no process has compiled before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def by_torch(location: str | Path) -> Any:
    """The model as sentence-transformers has it."""
    return load_model("", model_location(str(location)), None)


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return Encoder.load("minilm")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


def test_the_compiled_model_agrees_with_sentence_transformers(minilm: Encoder) -> None:
    assert minilm.backend == "openvino"
    theirs = by_torch("minilm").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose((minilm.encode_documents(TEXTS) * theirs).sum(1), 1, atol=1e-4)
    np.testing.assert_allclose((minilm.encode_queries(TEXTS) * theirs).sum(1), 1, atol=1e-4)


def test_vectors_come_back_in_the_order_of_the_texts(minilm: Encoder) -> None:
    texts = [("word " * (1 + i * 7 % 40)) + str(i) for i in range(70)]
    together = minilm.encode_documents(texts)
    for place in (0, 13, 69):
        alone = minilm.encode_documents([texts[place]])[0]
        assert together[place] @ alone == pytest.approx(1, abs=1e-4)


def test_vectors_are_unit_and_float32(minilm: Encoder) -> None:
    vectors = minilm.encode_queries(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert minilm.encode_queries([]).shape == (0, 384)


def test_a_text_far_over_the_token_limit_is_cut_not_hung_on(minilm: Encoder) -> None:
    ordinary = "a sentence of ordinary words about spiders and their webs. " * 60
    enormous = ordinary + "and more words " * 2_000_000
    one, other = minilm.encode_documents([ordinary, enormous])
    assert one @ other == pytest.approx(1, abs=1e-4)


def test_prompts_of_the_model_stand_before_queries_and_documents(tiny_folder: Path) -> None:
    encoder = Encoder.load(str(tiny_folder), backend="torch")
    assert encoder.spec.dimension == 1024
    assert (encoder.spec.query_prompt, encoder.spec.document_prompt) == (
        QUERY_PROMPT,
        DOCUMENT_PROMPT,
    )
    model = by_torch(tiny_folder)
    model.prompts = {"query": QUERY_PROMPT, "document": DOCUMENT_PROMPT}
    for ours, theirs in [
        (encoder.encode_queries(TEXTS), model.encode_query(TEXTS)),
        (encoder.encode_documents(TEXTS), model.encode_document(TEXTS)),
    ]:
        np.testing.assert_allclose((ours * theirs).sum(1), 1, atol=1e-4)
    assert (encoder.encode_queries(["a"]) @ encoder.encode_documents(["a"]).T).item() < 0.9999


def test_another_state_of_the_model_is_refused(minilm: Encoder) -> None:
    data = minilm.spec.to_json() | {"revision": "0123456789abcdef"}
    with pytest.raises(FormatMismatch, match="revision was '0123456789abcdef'"):
        Encoder.load("minilm", backend="torch", expected=ModelSpec.from_json(data))


def test_an_unknown_model_or_backend_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequest, match="'no/such-model' cannot be loaded"):
        Encoder.load("no/such-model")
    with pytest.raises(InvalidRequest, match="backend 'magic'"):
        Encoder.load("minilm", backend="magic")


@pytest.mark.parametrize("value", [np.nan, 0.0, np.inf])
def test_a_text_without_a_direction_has_no_vector_and_others_have_theirs(
    tiny_folder: Path, value: float
) -> None:
    encoder = Encoder.load(str(tiny_folder), backend="torch")
    embed = encoder._embed["document"]
    encoder._embed["document"] = lambda texts: np.array(
        [np.full(1024, value) if text == "bad" else vector
         for text, vector in zip(texts, embed(texts), strict=True)]
    )  # fmt: skip
    found = encoder.encode_documents(["a", "bad", "b"])
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(np.linalg.norm(found[[0, 2]], axis=1), 1, atol=1e-5)


BLANK = ["", " ", "\u200b", "\u00ad", "\x00", "\u0301", "\u0301\u0302", "\ufeff", "\u200d\u200c",
         "\u2060", "\u202e", "\ufe0f", "\ufffd\ufffd", "\u3164", "\u2800", "\u115f",
         "\u180e"]  # fmt: skip


def test_a_text_of_which_nothing_is_left_has_no_vector(minilm: Encoder) -> None:
    texts = [*BLANK, "a\u200b", "?", "\u0301a", "5"]
    for found in (minilm.encode_queries(texts), minilm.encode_documents(texts)):
        assert bad_rows(found).tolist() == [True] * len(BLANK) + [False] * 4


def test_a_static_model_knows_some_words_and_is_served_without_ours(tmp_path: Path) -> None:
    static = Encoder.load(str(build_static_model(tmp_path, ["katze", "hund"])))
    static.warm_up()
    found = static.encode_queries(["katze", "xyzzy", "hund xyzzy", "\u200b"])
    assert bad_rows(found).tolist() == [False, True, False, True]


def test_a_model_that_returns_another_width_is_named(tiny_folder: Path) -> None:
    encoder = Encoder.load(str(tiny_folder), backend="torch")
    encoder._embed["document"] = lambda texts: np.ones((len(texts), 7))
    with pytest.raises(Unavailable, match=r"shape \(1, 7\)"):
        encoder.encode_documents(["a"])


def test_a_model_of_another_kind_runs_in_torch_and_says_why(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsift.router.model.compiled._SUPPORTED", {"Transformer"})
    encoder = Encoder.load(str(tiny_folder))
    assert encoder.backend.startswith("torch (cpu")
    assert encoder.backend_reason == "its modules are Transformer, Pooling, Normalize"
    with pytest.raises(Unavailable, match="does not run in OpenVINO"):
        Encoder.load(str(tiny_folder), backend="openvino")


def test_a_compiled_model_that_disagrees_with_torch_is_given_up(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self, tokens):  # type: ignore[no-untyped-def]
        return np.random.default_rng(0).standard_normal((len(tokens["input_ids"]), 1024))

    monkeypatch.setattr("bitsift.router.model.compiled.CompiledModel.__call__", wrong)
    encoder = Encoder.load(str(tiny_folder))
    assert encoder.backend.startswith("torch (cpu")
    assert "cosine to torch" in str(encoder.backend_reason)


@pytest.mark.parametrize("cosine", [0.9997, 0.9])
def test_a_kind_of_text_is_encoded_in_bf16_only_where_that_agrees_well_enough(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, cosine: float
) -> None:
    """0.9997 is enough for documents, not for queries."""

    def turned(self, tokens, encode=CompiledModel.__call__):  # type: ignore[no-untyped-def]
        exact = encode(self, tokens)
        if not self.is_bf16:
            return exact
        aside = np.roll(exact, 1, axis=1)
        aside -= (aside * exact).sum(1, keepdims=True) * exact
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        return cosine * exact + np.sqrt(1 - cosine**2) * aside

    def marked(self, precision, compile_as=Graph.compile):  # type: ignore[no-untyped-def]
        compiled = compile_as(self, "f32" if precision == "f32" else "bf16")
        compiled.is_bf16 = precision == "bf16"
        return compiled

    monkeypatch.setattr("bitsift.router.model.compiled.Graph.has_bf16", lambda graph: True)
    monkeypatch.setattr("bitsift.router.model.compiled.Graph.compile", marked)
    monkeypatch.setattr("bitsift.router.model.compiled.CompiledModel.__call__", turned)
    encoder = Encoder.load(str(tiny_folder))
    assert encoder.backend == "openvino"
    assert "each query is encoded in f32, not bf16: its cosine to torch is 0." in str(
        encoder.backend_reason
    )
    assert ("each document is encoded in f32" in str(encoder.backend_reason)) == (cosine == 0.9)
    theirs = by_torch(tiny_folder).encode_query(TEXTS)
    np.testing.assert_allclose((encoder.encode_queries(TEXTS) * theirs).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(("error", "precision"), [(0.0, "bf16"), (0.1, "f32")])
def test_torch_encodes_documents_in_bf16_where_the_cpu_has_it_and_it_agrees(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, error: float, precision: str
) -> None:
    import torch

    used = []

    def spy(embed):  # type: ignore[no-untyped-def]
        def faster(texts):  # type: ignore[no-untyped-def]
            used.append(len(texts))
            with torch.autocast("cpu", torch.bfloat16):
                return embed(texts) + error

        return faster

    monkeypatch.setattr("bitsift.router.model.compiled._SUPPORTED", {"Transformer"})
    monkeypatch.setattr("bitsift.router.model.runtime._torch_has_bf16", lambda: True)
    monkeypatch.setattr("bitsift.router.model.runtime._with_autocast", spy)
    encoder = Encoder.load(str(tiny_folder))
    checked = len(used)
    assert checked == 1
    theirs = by_torch(tiny_folder).encode_document(TEXTS)
    np.testing.assert_allclose((encoder.encode_documents(TEXTS) * theirs).sum(1), 1, atol=5e-4)
    encoder.encode_queries(TEXTS)
    if precision == "bf16":
        assert encoder.backend == "torch (cpu, documents in bf16)"
        assert used[checked:] == [len(TEXTS)]
    else:
        assert encoder.backend == "torch (cpu)"
        assert "each document is encoded in f32, not bf16" in str(encoder.backend_reason)
        assert used[checked:] == []


def test_prompts_are_put_before_compiled_queries_and_documents(tiny_folder: Path) -> None:
    encoder = Encoder.load(str(tiny_folder), backend="openvino")
    model = by_torch(tiny_folder)
    model.prompts = {"query": QUERY_PROMPT, "document": DOCUMENT_PROMPT}
    for ours, theirs in [
        (encoder.encode_queries(TEXTS), model.encode_query(TEXTS)),
        (encoder.encode_documents(TEXTS), model.encode_document(TEXTS)),
    ]:
        np.testing.assert_allclose((ours * theirs).sum(1), 1, atol=5e-4)


def with_prompts(tiny_folder: Path, folder: Path, prompts: dict[str, str]) -> str:
    """A copy of the model that saved these prompts."""
    shutil.copytree(tiny_folder, folder)
    settings = folder / "config_sentence_transformers.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"prompts": prompts}))
    return str(folder)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_the_words_of_e5_are_heard(tiny_folder: Path, tmp_path: Path, backend: str) -> None:
    saved = {"query": QUERY_PROMPT, "passage": DOCUMENT_PROMPT}
    name = with_prompts(tiny_folder, tmp_path / "e5", saved)
    encoder = Encoder.load(name, backend=backend)
    assert encoder.spec.document_prompt == DOCUMENT_PROMPT
    theirs = by_torch(name).encode(TEXTS, prompt=DOCUMENT_PROMPT)
    np.testing.assert_allclose((encoder.encode_documents(TEXTS) * theirs).sum(1), 1, atol=5e-4)


def test_an_index_keeps_the_prompts_that_it_was_built_with(
    tiny_folder: Path, tmp_path: Path
) -> None:
    saved = {"query": QUERY_PROMPT, "passage": DOCUMENT_PROMPT}
    name = with_prompts(tiny_folder, tmp_path / "e5", saved)
    said = Encoder.load(name, backend="torch", prompts=Prompts("q: ", ""))
    assert (said.spec.query_prompt, said.spec.document_prompt) == ("q: ", "")
    again = Encoder.load(name, backend="torch", expected=said.spec)
    assert again.spec == said.spec
    plain = by_torch(name).encode(TEXTS, prompt="")
    np.testing.assert_allclose((again.encode_documents(TEXTS) * plain).sum(1), 1, atol=1e-4)
    asked = by_torch(name).encode(TEXTS, prompt="q: ")
    np.testing.assert_allclose((again.encode_queries(TEXTS) * asked).sum(1), 1, atol=1e-4)


def test_damaged_weights_are_reported_with_the_models_name(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "damaged"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InvalidRequest, match=r"damaged' cannot be loaded"):
        Encoder.load(str(folder))


def test_a_tokenizer_without_a_limit_gives_no_limit(tiny_folder: Path) -> None:
    model = by_torch(tiny_folder)
    model.tokenizer.model_max_length = 10**30
    assert spec_of("unlimited", model).max_tokens is None


def test_queries_between_documents_of_many_shapes_stay_right(minilm: Encoder) -> None:
    """OpenVINO corrupts the heap when calls that share memory and calls that copy are mixed."""
    texts = [("word " * (i * 13 % 60)) + str(i) for i in range(120)]
    first = minilm.encode_documents(texts)
    for some in range(0, 120, 30):
        minilm.encode_queries(texts[some : some + 7])
        again = minilm.encode_documents(texts[some : some + 30])
        np.testing.assert_allclose((again * first[some : some + 30]).sum(1), 1, atol=5e-4)
