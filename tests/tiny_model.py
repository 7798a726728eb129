"""A small sentence-transformers model made on the spot: random weights, any width, no download."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

QUERY_PROMPT = "query: "
DOCUMENT_PROMPT = "passage: "
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


_MADE = Path(os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()) / "tiny-models"
"""Each is made once for all processes of a run of the tests: torch takes seconds to import."""


def build_tiny_model(folder: Path, dimension: int = 1024) -> Path:
    """A one-layer BERT of ``dimension``, mean pooling, with prompts; the same on every call."""
    made = _MADE / str(dimension)
    if not made.exists():
        _MADE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_MADE) as aside:
            _make(Path(aside), dimension)
            with contextlib.suppress(OSError):  # another process was sooner
                os.rename(Path(aside, "model"), made)
    return Path(shutil.copytree(made, folder / "model"))


def _make(folder: Path, dimension: int) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,:?!'-"]
    words += [*_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(words), hidden_size=dimension, num_hidden_layers=1,
        num_attention_heads=8, intermediate_size=64, max_position_embeddings=128,
    )  # fmt: skip
    bert = folder / "bert"
    BertModel(config).save_pretrained(bert)
    BertTokenizer(vocab={word: place for place, word in enumerate(words)}).save_pretrained(bert)
    transformer = Transformer(str(bert), max_seq_length=64)
    modules = [transformer, Pooling(dimension, "mean"), Normalize()]
    prompts = {"query": QUERY_PROMPT, "document": DOCUMENT_PROMPT}
    model = SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    model.save(str(folder / "model"))


def build_static_model(folder: Path, known: Sequence[str], dimension: int = 64) -> Path:
    """A static model (a vector a word, their mean) that knows the words ``known``: of a text
    without any it makes zeros.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {word: place for place, word in enumerate(["[UNK]", *known])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    torch.manual_seed(7)
    weights = torch.randn(len(words), dimension)
    weights[0] = 0.0
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)],
                                device="cpu")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    model.save(str(folder))
    return folder
