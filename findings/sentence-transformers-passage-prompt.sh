#!/usr/bin/env bash
# Package: sentence-transformers 6.2.0 with torch 2.13.0 (from PyPI). Bitsift is not used. Linux.
#
# Behaviour: a model that saves the prompts {"query": "query: ", "passage": "passage: "}, the words of the E5 family, gets an empty
# prompt "document" when it is loaded. `encode_document` looks for "document", "passage" and "corpus" in this order and takes the
# first that is there, the empty one, so documents are encoded without "passage: ". Queries get theirs, and nothing is logged.
#
# Output seen: the prompts after loading have "document": ""; encode_document("spider") is the vector of "spider", not that of
# "passage: spider"; encode_query("spider") is the vector of "query: spider".
#
# One would have guessed: that encode_document uses the passage prompt that the model was saved with, as its own docstring says.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
  torch==2.13.0 sentence-transformers==6.2.0 transformers==5.23.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys

import numpy as np
import sentence_transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

words = ["[UNK]", "query", "passage", ":", "spider"]
tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
weights = np.random.default_rng(0).standard_normal((len(words), 8)).astype(np.float32)
module = StaticEmbedding(tokenizer, embedding_weights=weights)
SentenceTransformer(modules=[module], prompts={"query": "query: ", "passage": "passage: "}).save("model")

model = SentenceTransformer("model", device="cpu")
plain, passage, query = model.encode(["spider", "passage: spider", "query: spider"], prompt="")
document = model.encode_document("spider")
asked = model.encode_query("spider")
found = {
    "prompts": model.prompts,
    "document is plain": bool(np.allclose(document, plain)),
    "document is passage": bool(np.allclose(document, passage)),
    "query is query": bool(np.allclose(asked, query)),
}
print(f"sentence-transformers {sentence_transformers.__version__}: {found}")
expected = [model.prompts.get("document") == "", True, False, True]
sys.exit([expected[0], *list(found.values())[1:]] != expected)
PYTHON
