"""Shards send scores instead of codes: bit for bit what the router would make of all codes."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitsift.options import Mode, SearchOptions
from bitsift.router.merge import merge
from bitsift.shard_worker.codes import normalize
from bitsift.shard_worker.types import Candidates, Query
from bitsift.shard_worker.wire.search import pack_candidates, unpack_candidates
from tests.fakes import make_shards

ROWS, QUERIES = 600, 40


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("mode", [Mode.EXACT, Mode.EXHAUSTIVE])
@pytest.mark.parametrize("dimension", [64, 1_024])
def test_scores_of_shards_are_those_of_one_product_over_all_gathered_codes(
    tmp_path: Path, shards: int, mode: Mode, dimension: int
) -> None:
    random = np.random.default_rng(shards)
    rows = random.standard_normal((ROWS, dimension)).astype(np.float32)
    rows[1::3] = rows[::3]  # equal documents: their scores must tie exactly, on any shard
    units = normalize(rows, dimension)
    made, calibration = make_shards(tmp_path, units, dimension, shards)
    with contextlib.ExitStack() as opened:
        for shard in made:
            opened.callback(shard.close)
        queries = normalize(random.standard_normal((QUERIES, dimension)).astype("f4"), dimension)
        for vector in queries:
            query = Query(SearchOptions(vector=vector, mode=mode, candidates=40))
            found = [shard.search([query])[0] for shard in made]
            sent = [unpack_candidates(pack_candidates([part]))[0] for part in found]
            received = [part for part in sent if isinstance(part, Candidates)]
            assert all(part.codes.size == 0 for part in received)
            scores = calibration.scores(vector, np.concatenate([part.codes for part in found]))
            cuts = np.cumsum([len(part) for part in found])[:-1]
            scored = [
                replace(part, scores=own)
                for part, own in zip(found, np.split(scores, cuts), strict=True)
            ]
            by_shards, by_router = merge(received, dimension), merge(scored, dimension)
            assert by_shards.scores.tobytes() == by_router.scores.tobytes()
            assert by_shards.rows.tolist() == by_router.rows.tolist()
            assert by_shards.shards.tolist() == by_router.shards.tolist()
