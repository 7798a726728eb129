"""An index that is created empty is served at once, filled while it answers, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from bitsift import BitsiftError, Client
from tests.commands import COMMAND, answering, bitsift, in_process

XQUAD = Path(__file__).parents[1] / "data" / "xquad_en"


def test_an_empty_index_of_a_model_answers_and_is_filled_with_texts(tmp_path: Path) -> None:
    index, backup, source = (tmp_path / name for name in ("index", "backup", "new.jsonl"))
    lines = (XQUAD / "corpus.jsonl").read_text().splitlines()[:300]
    source.write_text("".join(line.replace('"_id"', '"id"') + "\n" for line in lines))
    made = json.loads(in_process("create", index, "--model", "minilm", "--shards", 2, "--json"))
    assert (made["model"], made["dimension"], made["shards"]) == ("minilm", 384, 2)
    again = bitsift("create", index, "--model", "minilm", "--shards", 2, check=False)
    assert again.returncode == 2
    assert "is an index already" in again.stderr
    with (
        answering(
            [*COMMAND, "serve", index, "--port", "0", "--json", "--backup-root", tmp_path]
        ) as (url, _),
        Client(url) as client,
    ):
        empty = client.search("Who won the game?")
        assert (list(empty.hits), empty.partial, empty.coverage.answered) == ([], False, 2)
        assert client.index()["documents"] == 0
        assert httpx.get(f"{url}/readyz").is_success
        in_process("backup", "--url", url, backup)
        assert "300 created" in in_process("add", source, "--url", url)
        hits = client.search("How many points did the Panthers defense surrender?").hits
        assert hits[0].id == "en-0-0-0"
    status = json.loads(in_process("status", "--index", index, "--json"))
    assert status["index"]["documents"] == 300
    assert "300 rows in 2 shards are sound" in in_process("verify", index)
    in_process("restore", backup, tmp_path / "restored")
    assert "0 rows in 2 shards are sound" in in_process("verify", tmp_path / "restored")
    other = bitsift("eval", XQUAD, "--index", tmp_path / "restored", check=False)
    assert other.returncode == 2
    assert "has 0 documents" in other.stderr


@pytest.mark.long  # in process: tests/cluster/ingest/test_create.py, maintenance/test_reshard.py
def test_an_empty_index_of_vectors_is_filled_as_a_stream_and_calibrated_anew(
    tmp_path: Path,
) -> None:
    index, new = tmp_path / "index", tmp_path / "new"
    bitsift("create", index, "--dimensions", 64, "--shards", 2)
    vectors = np.random.default_rng(0).standard_normal((1_200, 64)).round(4)
    with (
        answering([*COMMAND, "serve", index, "--port", "0", "--json"]) as (url, _),
        Client(url) as client,
    ):
        assert not client.search(vector=vectors[0].tolist()).hits
        with pytest.raises(BitsiftError, match="vector"):
            client.search("a text, and no model")
        (refused,) = client.add([{"id": "narrow", "vector": [1.0] * 63}]).results
        assert refused.status == "rejected"
        assert "64" in str(refused.error)
        lines = "".join(
            json.dumps({"id": str(row), "vector": vector.tolist()}) + "\n"
            for row, vector in enumerate(vectors)
        )
        streamed = httpx.post(
            f"{url}/v1/documents?results=errors", content=lines.encode(), timeout=60,
            headers={"content-type": "application/x-ndjson"},
        )  # fmt: skip
        assert json.loads(streamed.text.splitlines()[-1])["totals"]["created"] == 1_200
        assert client.search(vector=vectors[7].tolist(), top_k=1).hits[0].id == "7"
    made = bitsift("reshard", index, "--shards", 2, "--out", new, "--recalibrate").stdout
    assert "1,200 documents" in made
    assert "1,200 rows in 2 shards are sound" in bitsift("verify", new).stdout
    early = bitsift("reshard", new, "--shards", 2, "--out", index, "--recalibrate", check=False)
    assert early.returncode == 2
