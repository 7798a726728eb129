#!/usr/bin/env bash
# Packages: sentence-transformers 6.2.0, transformers 5.23.0, huggingface-hub 2.4.0 (from PyPI), torch 2.13.0. Bitsift is not used. Linux.
#
# Behaviour: a model that is named by its commit, and of which the cache has every file, is not loaded without the hub. Its tokenizer asks for two
# listings of the repository (for chat templates, and for all files), which no cache keeps. Where the hub cannot be reached, each is tried six times
# with pauses: the model loads in the end, without an error, but some 46 s later. With HF_HUB_OFFLINE=1 or local_files_only=True nothing is asked.
#
# Output seen: the hub up: loaded, 2 requests, both listings of the commit; the hub away: loaded after 46 s; with local_files_only: loaded in 0.2 s.
#
# One would have guessed: that a commit never changes, so a cache that has it whole needs no hub; and that a hub which is away costs a moment or an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
  torch==2.13.0 sentence-transformers==6.2.0 transformers==5.23.0 huggingface-hub==2.4.0
cd "$work"
cat > make.py <<'PYTHON'
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
torch.manual_seed(1)
BertModel(BertConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
                     intermediate_size=32, max_position_embeddings=64)).save_pretrained("bert")
BertTokenizer(vocab={word: at for at, word in enumerate(words)}).save_pretrained("bert")
SentenceTransformer(modules=[Transformer("bert"), Pooling(32, "mean")], device="cpu").save("model")
PYTHON
HF_HUB_OFFLINE=1 venv/bin/python make.py 2>/dev/null
cat > load.py <<'PYTHON'
import sys
import time

from sentence_transformers import SentenceTransformer

began = time.monotonic()
SentenceTransformer("some/model", revision="5" * 40, local_files_only=sys.argv[1] == "local", device="cpu")
print(round(time.monotonic() - began, 1))
PYTHON
venv/bin/python - <<'PYTHON'
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT, folder, asked = "5" * 40, pathlib.Path("model"), []


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        asked.append(self.path)
        path = self.path.partition("?")[0]
        file = re.fullmatch(r"/some/model/resolve/[^/]+/(.+)", path)
        data = None
        if file and (folder / file[1]).is_file():
            data = (folder / file[1]).read_bytes()
        elif path == f"/api/models/some/model/tree/{COMMIT}":
            data = json.dumps([{"type": "file", "path": str(one.relative_to(folder)), "oid": "0", "size": 1}
                               for one in folder.rglob("*") if one.is_file()]).encode()
        self.send_response(404 if data is None else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        if data is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if self.command == "GET" and data is not None:
            self.wfile.write(data)

    do_HEAD = do_GET


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_CACHE": "cache", "HF_HUB_DISABLE_TELEMETRY": "1"}
environment.pop("HF_HUB_OFFLINE", None)


def load(kind):
    done = subprocess.run([sys.executable, "load.py", kind], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


load("hub")  # fills the cache
asked.clear()
up_s, requests = load("hub"), [path.partition("?")[0] for path in asked]
server.shutdown()
server.server_close()
away_s, local_s = load("hub"), load("local")
print(f"every file cached, the hub up: {up_s} s, it was asked {requests}; the hub away: {away_s} s; local_files_only: {local_s} s")
listings = all(path.startswith(f"/api/models/some/model/tree/{COMMIT}") for path in requests)
sys.exit(not (len(requests) == 2 and listings and away_s > 20 and local_s < 10))
PYTHON
