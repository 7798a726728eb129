"""Which files, which fields, which vectors: the plan, and the errors that say what to change."""

import gzip
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import orjson
import pytest

from bitsift.cluster.sources import files
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import (
    LISTED_MAX,
    REPORTED_MAX,
    Compression,
    Fields,
    Format,
    PassedOver,
    SourceFile,
    SourcePlan,
)
from bitsift.cluster.sources.readers import read_documents
from bitsift.errors import InvalidRequest


def write_lines(path: Path, rows: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def write_npy(path: Path, rows: int, width: int = 4) -> Path:
    np.save(path, np.ones((rows, width), dtype=np.float32))
    return path


DOCUMENT = {"_id": "1", "title": "t", "text": "words"}


def names(plan_files: tuple[SourceFile, ...]) -> list[str]:
    return [file.name for file in plan_files]


def test_the_order_of_files_does_not_depend_on_the_order_of_arguments(tmp_path: Path) -> None:
    paths = [write_lines(tmp_path / name, [DOCUMENT]) for name in ("b.jsonl", "a.jsonl", "c.jsonl")]
    forward, backward = plan_sources(paths), plan_sources(paths[::-1])
    assert forward == backward
    assert names(forward.files) == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert [file.index for file in forward.files] == [0, 1, 2]


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [DOCUMENT])
    assert names(plan_sources([path, tmp_path, str(path)]).files) == ["a.jsonl"]


def test_a_relative_path_is_planned_as_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(tmp_path / "a.jsonl", [DOCUMENT])
    monkeypatch.chdir(tmp_path)
    assert plan_sources(["a.jsonl"]).files[0].path == str(tmp_path / "a.jsonl")


def test_a_plan_survives_pickling(tmp_path: Path) -> None:
    plan = plan_sources([write_lines(tmp_path / "a.jsonl", [DOCUMENT])])
    assert pickle.loads(pickle.dumps(plan)) == plan


def passed_over(plan: SourcePlan, folder: Path) -> dict[str, str]:
    return {item.path.removeprefix(f"{folder}/"): item.reason for item in plan.passed_over}


def test_a_folder_gives_all_supported_files_below_it_and_lists_the_others(tmp_path: Path) -> None:
    write_lines(tmp_path / "deep" / "er" / "a.jsonl", [DOCUMENT])
    write_lines(tmp_path / ".hidden" / "b.jsonl", [DOCUMENT])
    write_lines(tmp_path / "_temporary" / "0" / "b.jsonl", [DOCUMENT])
    write_lines(tmp_path / ".c.jsonl", [DOCUMENT])
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / "picture.png").write_bytes(b"png")
    (tmp_path / "d.zip").write_bytes(b"PK")
    (tmp_path / "linked").symlink_to(tmp_path / "deep")
    (tmp_path / "broken.jsonl").symlink_to(tmp_path / "nowhere")
    plan = plan_sources([tmp_path])
    assert names(plan.files) == ["deep/er/a.jsonl"]
    hidden = "its name begins with . or _"
    assert passed_over(plan, tmp_path) == {
        ".c.jsonl": hidden,
        ".hidden": hidden,
        "_SUCCESS": hidden,
        "_temporary": hidden,
        "broken.jsonl": "neither a file nor a folder, or a link to nothing",
        "d.zip": "unsupported ending: an archive: unpack it first",
        "linked": "a link to a folder: name the folder itself",
        "picture.png": "unsupported ending",
    }


def test_json_files_that_hold_records_are_read_whatever_their_layout(tmp_path: Path) -> None:
    """inputs.md B4: they were passed over without a word."""
    (tmp_path / "a.json").write_text('[\n  {"text": "1"},\n  {"text": "2"}\n]')
    write_lines(tmp_path / "b.jsonl", [DOCUMENT])
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(b'{"text": "4"}\n{"text": "5"}\n'))
    (tmp_path / "d.json").write_text('{"text": "6",\n "more": {}}')
    (tmp_path / "e.jsonl").write_text('[{"text": "7"},\n {"text": "8"}]')
    (tmp_path / "package.json").write_text('{"name": "n", "version": 1}')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "none.json").write_text("[]")
    plan = plan_sources([tmp_path])
    tables = [table for file in plan.files for table in read_documents(file)]
    texts = [text for table in tables for text in table["text"].to_pylist()]
    assert texts == ["1", "2", "words", "4", "5", "6", "7", "8"]
    assert passed_over(plan, tmp_path) == {
        "list.json": "no JSON object in it",
        "none.json": "an empty JSON file",
        "package.json": "one JSON object without a text, so no record; its fields: name, version",
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_objects_of_several_lines_are_read_in_json_lines_too(tmp_path: Path, newline: str) -> None:
    objects = [json.dumps({"id": n, "text": "words", "n": {"m": n}}, indent=2) for n in (1, 2)]
    content = "\n".join(objects).replace("\n", newline)
    (tmp_path / "a.jsonl").write_text(content, newline="")
    (file,) = plan_sources([tmp_path / "a.jsonl"]).files
    rows = [row for table in read_documents(file) for row in table.to_pylist()]
    assert [(row["id"], row["metadata"]) for row in rows] == [
        ("1", '{"n":{"m":1}}'),
        ("2", '{"n":{"m":2}}'),
    ]


def test_a_json_file_that_is_named_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "n", "version": 1}')
    with pytest.raises(InvalidRequest, match=r"no field called text.*found: name, version"):
        plan_sources([tmp_path / "package.json"])


def test_texts_beside_tables_are_passed_over_and_texts_alone_are_read(tmp_path: Path) -> None:
    """inputs.md E17: the README and the licence of a dataset's repository became documents."""
    for name in ("README.md", "LICENSE.txt", "requirements.txt"):
        (tmp_path / name).write_text("words")
    assert len(plan_sources([tmp_path]).files) == 3
    (tmp_path / "data").mkdir()
    write_lines(tmp_path / "data" / "train.jsonl", [DOCUMENT])
    plan = plan_sources([tmp_path])
    assert names(plan.files) == ["data/train.jsonl"]
    listed = passed_over(plan, tmp_path)
    assert sorted(listed) == ["LICENSE.txt", "README.md", "requirements.txt"]
    assert set(listed.values()) == {
        "a text file beside tables: name it, or a folder of texts alone, to index it"
    }
    plan = plan_sources([tmp_path, tmp_path / "README.md"])
    assert names(plan.files) == ["README.md", "data/train.jsonl"]
    assert sorted(passed_over(plan, tmp_path)) == ["LICENSE.txt", "requirements.txt"]


def test_what_is_passed_over_is_said_with_its_reason_up_to_so_many_lines(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [DOCUMENT])
    assert plan_sources([tmp_path]).passed_over_said == ""
    for number in range(LISTED_MAX + 1):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    first, *lines, last = plan_sources([tmp_path]).passed_over_said.split("\n")
    assert first == f"passed over: {LISTED_MAX + 1}"
    assert lines[0] == f"  {tmp_path}/00.png: unsupported ending"
    assert len(lines) == LISTED_MAX
    assert last == "  and 1 others: unsupported ending"


def test_a_report_has_so_many_files_that_are_passed_over_at_most() -> None:
    passed = tuple(PassedOver(str(number), "why") for number in range(REPORTED_MAX + 1))
    listed = SourcePlan((), Fields(), None, passed).passed_over_listed
    assert len(listed) == REPORTED_MAX
    assert listed[0] == {"path": "0", "reason": "why"}


def test_notes_on_many_files_are_as_many_lines_at_most(tmp_path: Path) -> None:
    for number in range(LISTED_MAX + 2):
        row = {"text": "words", "emb": [0.5] * 32}
        write_lines(tmp_path / f"{number}.jsonl", [row])
    *notes, last = plan_sources([tmp_path]).notes
    assert len(notes) == LISTED_MAX
    assert last == "and 2 other files alike"


def test_a_folder_that_cannot_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(folder: str, onerror: Callable[[OSError], None]) -> Iterator[None]:
        onerror(PermissionError(13, "Permission denied", f"{folder}/closed"))
        yield from ()

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(InvalidRequest, match=r"cannot list .*/closed: Permission denied"):
        plan_sources([tmp_path])


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_beir_folder_gives_its_corpus_only(tmp_path: Path, ending: str) -> None:
    for name in ("corpus.jsonl", "queries.jsonl"):
        content = orjson.dumps(DOCUMENT)
        path = tmp_path / "nested" / "set" / (name + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if ending else content)
    qrels = tmp_path / "nested" / "set" / "qrels" / "test.tsv"
    qrels.parent.mkdir()
    qrels.write_text("query-id\tcorpus-id\tscore\n")
    write_lines(tmp_path / "other.jsonl", [DOCUMENT])
    assert names(plan_sources([tmp_path / "nested" / "set"]).files) == [f"corpus.jsonl{ending}"]
    expected = [f"nested/set/corpus.jsonl{ending}", "other.jsonl"]
    assert names(plan_sources([tmp_path]).files) == expected


def test_a_beir_folder_with_both_corpora_gives_the_unpacked_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "corpus.jsonl", [DOCUMENT])
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(orjson.dumps(DOCUMENT)))
    assert names(plan_sources([tmp_path]).files) == ["corpus.jsonl"]


def test_equal_names_in_two_folders_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "readme.md").write_text("words")
    found = names(plan_sources([tmp_path / "one", tmp_path / "two"]).files)
    assert len(set(found)) == 2
    assert all(name.endswith("/readme.md") for name in found)


@pytest.mark.parametrize(
    ("name", "kind", "compression"),
    [
        ("a.jsonl", Format.JSON_LINES, Compression.NONE),
        ("a.NDJSON.GZ", Format.JSON_LINES, Compression.GZIP),
        ("a.md", Format.MARKDOWN, Compression.NONE),
        ("a.txt", Format.TEXT, Compression.NONE),
    ],
)
def test_the_ending_says_format_and_compression(
    tmp_path: Path, name: str, kind: Format, compression: Compression
) -> None:
    content = orjson.dumps(DOCUMENT)
    packed = gzip.compress(content) if compression else content
    (tmp_path / name).write_bytes(packed)
    file = plan_sources([tmp_path / name]).files[0]
    assert (file.format, file.compression) == (kind, compression)


def test_a_missing_path_says_what_a_source_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere does not exist; a source is \.jsonl"):
        plan_sources([tmp_path / "nowhere"])


def test_no_path_at_all_says_what_a_source_is() -> None:
    with pytest.raises(InvalidRequest, match=r"no source given; a source is \.jsonl"):
        plan_sources([])


def test_a_load_has_so_many_source_files_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FILES_MAX", 2)
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text('{"id": "1", "text": "words"}')
    assert len(plan_sources([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]).files) == 2
    with pytest.raises(InvalidRequest, match="3 source files are too many; at most 2"):
        plan_sources([tmp_path])


def test_an_empty_folder_says_what_is_supported(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"png")
    with pytest.raises(InvalidRequest, match=r"no file to read \(.*picture.png: .*\.parquet"):
        plan_sources([tmp_path])


@pytest.mark.parametrize("name", ["a.png", "a", "a.gz"])
def test_an_unsupported_ending_says_what_is_supported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(InvalidRequest, match=r"unsupported ending; supported: \.jsonl"):
        plan_sources([tmp_path / name])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("a.faiss", "numpy.save"),
        ("a.usearch", "numpy.save"),
        ("a.pkl", "may run code"),
        ("a.PT", "may run code"),
        ("a.xlsx", "as CSV"),
        ("a.zip", "unpack it"),
        ("a.tar.gz", "unpack it"),
        ("a.jsonl.lz4", "use gzip"),
        ("a.pdf", "extract its text"),
    ],
)
def test_a_file_that_is_not_read_says_what_to_do(tmp_path: Path, name: str, hint: str) -> None:
    """inputs.md H30."""
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InvalidRequest, match=rf"{name} has an unsupported ending: .*{hint}"):
        plan_sources([tmp_path / name])


@pytest.mark.parametrize("name", ["a.parquet.gz", "a.npy.zst"])
def test_what_must_be_seekable_is_refused_while_compressed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InvalidRequest, match="unpack it first"):
        plan_sources([tmp_path / name])


def test_an_empty_text_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it named this folder
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    with pytest.raises(InvalidRequest, match="a source is an empty text: is a variable not set"):
        plan_sources([""])


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.npy", "a.npz", "a.safetensors"])
def test_a_pointer_of_git_lfs_says_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InvalidRequest, match="a pointer of Git LFS .* run git lfs pull"):
        plan_sources([tmp_path / name])


def test_something_that_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(
        InvalidRequest, match="neither a file nor a folder: pipe it into the source -"
    ):
        plan_sources([tmp_path / "pipe.jsonl"])


@pytest.mark.parametrize("content", [b"not parquet", b"", b"PAR1PAR1"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InvalidRequest, match="not a readable parquet file"):
        plan_sources([tmp_path / "a.parquet"])


def test_a_lone_npy_file_gives_its_rows_and_width(tmp_path: Path) -> None:
    plan = plan_sources([write_npy(tmp_path / "v.npy", rows=7, width=5)])
    assert (plan.expected_width, plan.files[0].records) == (5, 7)


def test_npy_files_of_two_widths_are_refused_with_both(tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy", rows=2, width=8)
    write_npy(tmp_path / "b.npy", rows=2, width=16)
    with pytest.raises(InvalidRequest, match=r"of 8 numbers.*of 16: an index has one width"):
        plan_sources([tmp_path])


@pytest.mark.parametrize(
    "matrix", [np.ones(4, "f4"), np.ones((2, 2, 2), "f4"), np.ones((2, 4), "i4")]
)
def test_an_npy_file_of_another_shape_or_type_is_refused(
    tmp_path: Path, matrix: np.ndarray
) -> None:
    np.save(tmp_path / "v.npy", matrix)
    with pytest.raises(InvalidRequest, match=r"expected float16, bfloat16, float32 or float64 of"):
        plan_sources([tmp_path / "v.npy"])


def test_an_npy_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_npy(tmp_path / "v.npy", rows=100)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidRequest, match="not a readable npy file"):
        plan_sources([path])


def test_a_pickle_in_an_npy_file_is_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidRequest, match="not a readable npy file"):
        plan_sources([tmp_path / "v.npy"])


@pytest.mark.parametrize("broken", [b"", b"{broken\n\n"])
def test_vectors_for_another_number_of_records_are_refused_with_both_counts(
    tmp_path: Path, broken: bytes
) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(broken + (orjson.dumps(DOCUMENT) + b"\n") * 2))
    records = 3 if broken else 2
    vectors = write_npy(tmp_path / "v.npy", rows=5)
    with pytest.raises(InvalidRequest, match=f"v.npy has 5 rows and .* has {records} records"):
        plan_sources([path], vectors=vectors)
    good = write_npy(tmp_path / "w.npy", rows=records)
    assert plan_sources([path], vectors=good).files[0].vectors == str(good)


def test_several_npy_files_go_with_the_files_of_their_stems(tmp_path: Path) -> None:
    for stem in "ab":
        write_lines(tmp_path / f"{stem}.jsonl", [DOCUMENT])
    matrices = [write_npy(tmp_path / f"{stem}.npy", rows=1) for stem in "ba"]
    plan = plan_sources([tmp_path], vectors=matrices)
    assert [file.vectors for file in plan.files] == [str(tmp_path / f"{s}.npy") for s in "ab"]
    with pytest.raises(InvalidRequest, match=r"2 npy files .* for 1 source files, and 1 go"):
        plan_sources([tmp_path / "a.jsonl"], vectors=matrices)


def test_vectors_come_from_one_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x", "v": [1.0, 2.0]}\n')
    np.save(tmp_path / "v.npy", np.ones((1, 2), dtype=np.float32))
    with pytest.raises(InvalidRequest, match="both say where the vectors are: give one"):
        plan_sources([tmp_path / "a.jsonl"], Fields(vector="v"), tmp_path / "v.npy")


def test_an_npy_file_beside_its_source_must_be_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [DOCUMENT])
    write_npy(tmp_path / "a.npy", rows=1)
    with pytest.raises(InvalidRequest, match=r"lies next to .*a\.jsonl: name it with --vectors"):
        plan_sources([tmp_path])


def test_sources_with_and_without_vectors_do_not_mix(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [DOCUMENT])
    write_npy(tmp_path / "v.npy", rows=1)
    with pytest.raises(InvalidRequest, match=r"v\.npy comes with vectors and .*a\.jsonl does not"):
        plan_sources([tmp_path])


def test_a_source_behind_a_url_is_read_through_fsspec() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/corpus.jsonl", orjson.dumps(DOCUMENT))
    memory.pipe("/bucket/queries.jsonl", orjson.dumps(DOCUMENT))
    memory.pipe("/bucket/_temporary/0/corpus.jsonl", orjson.dumps(DOCUMENT))
    memory.pipe("/bucket/.git/config", b"x")
    plan = plan_sources(["memory://bucket"])
    assert [file.path for file in plan.files] == ["memory:///bucket/corpus.jsonl"]
    assert [item.path.removeprefix("memory:///bucket/") for item in plan.passed_over] == [
        ".git",
        "_temporary",
        "queries.jsonl",
    ]
    assert plan_sources(["memory://bucket/queries.jsonl"]).files[0].size_bytes > 0


def test_a_url_without_a_driver_says_which_package_is_missing() -> None:
    with pytest.raises(InvalidRequest, match="s3fs"):
        plan_sources(["s3://bucket/corpus.jsonl"])


def test_a_url_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="does not exist"):
        plan_sources(["memory://nowhere/at/all.jsonl"])


def test_the_fingerprint_changes_when_a_file_grows(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [DOCUMENT])
    before = plan_sources([path]).fingerprint
    assert plan_sources([path]).fingerprint == before
    write_lines(path, [DOCUMENT, DOCUMENT])
    assert plan_sources([path]).fingerprint != before
