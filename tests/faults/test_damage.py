"""Files that are short, empty, damaged, old, of others, or too new."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import uuid
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bitsift.errors import ChecksumMismatch, Corrupt, FormatMismatch
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.bits.lists import LISTS_FILE
from bitsift.shard_worker.layout import SHARD_FILE
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.packing import ROW
from bitsift.shard_worker.types import Document, Query, ShardIdentity
from tests.crash.documents import CALIBRATION, IDENTITY, codes_of, upserts, vectors_of
from tests.crash.server import contents
from tests.faults import flips
from tests.faults.support import new_shard, open_shard, there
from tests.writing import written

TEXTS = {str(i): f"text of {i}" for i in range(300)}
MODES = (Mode.EXACT, Mode.APPROXIMATE, Mode.EXHAUSTIVE)


@pytest.fixture
def filled(folder: Path) -> Path:
    """A closed shard of 300 documents, some of them replaced, with lists and later rows."""
    shard = open_shard(folder)
    written(shard, upserts({name: f"old {name}" for name in TEXTS}))
    shard.train()
    written(shard, upserts(TEXTS))
    shard.save_bits()
    shard.close()
    return folder


def answers(shard: Shard) -> list[tuple[list[int], bytes]]:
    """Of some questions in every mode."""
    found = []
    for mode in MODES:
        queries = [
            Query(SearchOptions(vector=vector, candidates=40, mode=mode, nprobe=1 << 19))
            for vector in vectors_of(["a", "b"])
        ]
        found += [(part.rows.tolist(), part.codes.tobytes()) for part in shard.search(queries)]
    return found


def data_file(folder: Path) -> Path:
    return folder / "store-00000" / "data.mdb"


def flip(path: Path, at: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_8_a_truncated_data_file_is_refused_before_it_is_mapped(filled: Path, share: float) -> None:
    path = data_file(filled)
    kept = int(share * flips._written_bytes(path))
    with path.open("r+b") as file:
        file.truncate(kept)
    with pytest.raises(Corrupt, match="restore it from a backup") as refused:
        open_shard(filled)
    assert str(path) in refused.value.message
    assert path.stat().st_size == kept, "touched"


@pytest.mark.parametrize("what", ["empty", "missing", "another empty shard's"])
def test_9_an_empty_data_file_is_refused_and_never_served_as_empty(
    filled: Path, tmp_path: Path, what: str
) -> None:
    path = data_file(filled)
    if what == "empty":
        path.write_bytes(b"")
    elif what == "missing":
        path.unlink()
    else:
        Shard.create(tmp_path / "other", IDENTITY)  # as if someone had begun anew
        shutil.copy(data_file(tmp_path / "other"), path)
    with pytest.raises(Corrupt, match=str(path) if what != "another empty shard's" else "lost"):
        open_shard(filled)
    assert path.exists() == (what != "missing")


@pytest.mark.parametrize("where", ["code", "text"])
def test_10_a_flipped_bit_in_a_row_is_an_error_of_that_row_and_never_an_answer(
    filled: Path, where: str
) -> None:
    names = ["0", "9", "150", "299"]
    with contextlib.closing(open_shard(filled)) as shard:
        rows = [shard._current.store.find(name) for name in names]
        with shard._current.store._env.begin() as txn:
            documents = shard._current.store._databases["documents"]
            parts = [bytes(txn.get(ROW.pack(row), b"", documents))[8:] for row in rows]
    if where == "code":
        parts = [codes_of([TEXTS[name]]).tobytes() for name in names]
    data = data_file(filled).read_bytes()
    for part in parts:
        found = [at for at in range(len(data)) if data.startswith(part, at)]
        assert found
        for at in found:  # free pages may hold it as well
            flip(data_file(filled), at + len(part) // 2, 3)
    with contextlib.closing(open_shard(filled)) as shard:
        for mode in (Mode.EXACT, Mode.EXHAUSTIVE):
            for name in names:
                (found_now,) = shard.search(
                    [
                        Query(
                            SearchOptions(
                                vector=vectors_of([TEXTS[name]])[0], candidates=300, mode=mode
                            )
                        )
                    ]
                )
                if where == "code":
                    assert (len(found_now), found_now.corrupt) == (296, 4)
                got = shard.documents(found_now.origin, found_now.rows.tolist())
                errors = Counter(type(it) for it in got if not isinstance(it, Document))
                assert errors == ({} if where == "code" else {ChecksumMismatch: 4})
                whole = [it for it in got if isinstance(it, Document)]
                assert all(it.text == TEXTS[it.id] for it in whole)
                assert len(whole) == 296 and not {it.id for it in whole} & set(names)
        assert shard.status().corrupt_rows_seen == 4
        if where == "text":
            for name in names:
                with pytest.raises(ChecksumMismatch, match="row"):
                    shard.document(name)


@pytest.mark.parametrize("name", ["bits-00000.bits", LISTS_FILE])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "head"])
def test_11_damaged_bits_are_made_anew_and_the_reason_is_logged(
    filled: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(open_shard(filled)) as shard:
        expected = answers(shard)
    path = filled / name
    size = path.stat().st_size
    if damage in ("flip", "head"):
        flip(path, size // 2 if damage == "flip" else 12)
    else:
        with path.open("r+b") as file:
            file.truncate(size // 2 if damage == "truncate" else 0)
    with caplog.at_level(logging.INFO), contextlib.closing(open_shard(filled)) as shard:
        assert answers(shard) == expected
        assert str(path) in caplog.text
        shard.save_bits()


def test_12_a_snapshot_that_is_older_than_the_store_is_brought_up_to_date(
    filled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(open_shard(filled)) as shard:
        written(shard, upserts({f"later {i}": f"later {i}" for i in range(200)}))
        written(shard, Delete(list(TEXTS)[:50]))
        expected, texts = answers(shard), contents(shard)
    with caplog.at_level(logging.INFO), contextlib.closing(open_shard(filled)) as shard:
        assert "is older than the store" in caplog.text
        assert (answers(shard), contents(shard)) == (expected, texts)
    for path in filled.glob("bits-*"):
        path.unlink()
    with contextlib.closing(open_shard(filled)) as shard:
        assert (answers(shard), contents(shard)) == (expected, texts)


@pytest.mark.parametrize("what", ["the directory", "the data file"])
@pytest.mark.parametrize("other", ["shard", "index"])
def test_13_what_belongs_to_another_shard_or_index_is_refused_with_both_names(
    tmp_path: Path, what: str, other: str
) -> None:
    third = ShardIdentity(str(uuid.UUID(int=1)), 3, 8, 64, 64)
    fifth = dataclasses.replace(third, shard=5)
    if other == "index":
        fifth = dataclasses.replace(third, index_uuid=str(uuid.UUID(int=2)))
    for name, identity in (("third", third), ("fifth", fifth)):
        Shard.create(tmp_path / name, identity)
        with contextlib.closing(Shard(tmp_path / name, CALIBRATION, identity)) as shard:
            written(shard, upserts({"a": name}))
    if what == "the directory":
        shutil.rmtree(tmp_path / "fifth")
        shutil.copytree(tmp_path / "third", tmp_path / "fifth")
    else:
        shutil.copy(data_file(tmp_path / "third"), data_file(tmp_path / "fifth"))
    with pytest.raises(FormatMismatch) as refused:
        Shard(tmp_path / "fifth", CALIBRATION, fifth)
    for identity in (third, fifth):
        assert f"shard {identity.shard} of" in refused.value.message
        assert identity.index_uuid in refused.value.message
    with contextlib.closing(Shard(tmp_path / "third", CALIBRATION, third)) as shard:
        assert shard.document("a").text == "third"


@pytest.mark.parametrize("newer", ["shard.json", "LMDB"])
def test_15_a_newer_format_is_refused_and_the_files_stay_as_they_are(
    filled: Path, newer: str
) -> None:
    if newer == "LMDB":
        for page in (0, 4096):
            flip(data_file(filled), page + 20, 1)  # version 1 becomes 3
    else:
        facts = json.loads((filled / SHARD_FILE).read_text())
        (filled / SHARD_FILE).write_text(json.dumps({**facts, "format_version": "3.0"}))
    before = digests(filled)
    with pytest.raises(FormatMismatch, match="version [23]"):
        open_shard(filled)
    assert digests(filled) == before


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("lock")
    }


@pytest.mark.parametrize(
    ("anywhere", "in_structure"), [(20, 10), pytest.param(120, 60, marks=pytest.mark.long)]
)
def test_no_flipped_bit_changes_an_answer_without_a_word(
    tmp_path: Path, anywhere: int, in_structure: int
) -> None:
    index, copy, documents = tmp_path / "index", tmp_path / "copy", 400
    flips.build_index(index, documents)
    expected = json.loads(json.dumps(flips.ask(index, documents)))
    every = list(flips.structure(index))
    chosen = np.random.default_rng(3).choice(len(every), in_structure, replace=False)
    tried = [*flips.places(index, anywhere, seed=2), *(every[at] for at in chosen)]
    outcomes = {flip: flips.classify(index, copy, flip, documents, expected) for flip in tried}
    words = Counter(outcome.split(":", 1)[0] for outcome in outcomes.values())
    assert words[flips.SILENT] == 0, outcomes
    assert words[flips.REFUSED] + words[flips.REPORTED] > 5, "no flip hit anything"
    assert not [it for it in outcomes.values() if "unexpectedly" in it]
    assert flips.differing(expected, {**expected, "exact 0": expected["exact 1"]})[0] == ["exact 0"]


def test_a_fresh_shard_is_no_damage(tmp_path: Path) -> None:
    new_shard(tmp_path / "s").close()
    assert there(tmp_path / "s") == {}
