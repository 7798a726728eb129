#!/usr/bin/env bash
# Package: transformers 5.23.0 with tokenizers 0.23.3 (from PyPI). Bitsift is not used. Linux.
#
# Behaviour: how a fast tokenizer was called last is part of what `save_pretrained` writes. After a call with truncation=True,
# max_length=6, padding="max_length" (any encoding of a batch is such a call), tokenizer.json has "truncation" to 6 tokens and
# "padding" to 6. A program that reads the file with the tokenizers library, as serving engines do, cuts every text at 6 tokens and
# pads every short one, without a word. transformers itself loads the same file and cuts nothing: it sets both anew at each call. A
# plain call before saving removes them again.
#
# Output seen: a text of 12 words and two marks has 14 tokens; from the file that was saved after the call the tokenizers library
# makes 6 of it, and 6 of a text of one word; transformers makes 14 from the same file.
#
# One would have guessed: that arguments of a call end with it, and that a saved tokenizer is the same whatever it was used for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys

import tokenizers
import transformers
from transformers import BertTokenizerFast

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
tokenizer = BertTokenizerFast(vocab={word: at for at, word in enumerate(words)})
text = "a b c " * 4


def saved(folder: str) -> tuple[int, int, int]:
    """Tokens of the text and of one word by the tokenizers library, and of the text by transformers."""
    tokenizer.save_pretrained(folder)
    raw = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    again = BertTokenizerFast.from_pretrained(folder)
    return len(raw.encode(text).ids), len(raw.encode("a").ids), len(again(text)["input_ids"])


fresh = saved("fresh")
tokenizer([text], truncation=True, max_length=6, padding="max_length")
used = saved("used")
tokenizer([text])
plain = saved("plain")
print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}: "
      f"fresh {fresh}, after a call that cuts {used}, after a plain call {plain}")
sys.exit((fresh, used, plain) != ((14, 3, 14), (6, 6, 14), (14, 3, 14)))
PYTHON
