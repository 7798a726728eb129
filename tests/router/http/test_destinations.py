"""B3: where a backup over HTTP may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsift.errors import Forbidden, InvalidRequest
from bitsift.router.http.destinations import BackupRoot, destination


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "rootless").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path / "rootless")
    (tmp_path / "root" / "in").symlink_to(tmp_path / "root" / "inner")
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    return tmp_path / "root"


def test_without_a_root_nothing_may_be_written(tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="--backup-root"):
        destination(None, str(tmp_path))


@pytest.mark.parametrize(
    ("dest", "leads_to"),
    [
        ("{root}", ""),
        ("{root}/", ""),
        ("{root}/nightly", "nightly"),
        ("{root}/a/../b//c/.", "b/c"),
        ("{root}/in/x", "inner/x"),
        ("{root}/../root/x", "x"),
        ("{root}/../alias/x", "x"),
        ("file://{root}/x", "x"),
        ("{root}/with space", "with space"),
    ],
)
def test_what_lies_below_the_root_is_taken_in_its_one_form(
    root: Path, dest: str, leads_to: str
) -> None:
    for given in (str(root), f"file://{root}", str(root.parent / "alias")):
        assert destination(given, dest.format(root=root)) == str(root / leads_to).rstrip("/")


@pytest.mark.parametrize(
    "dest",
    ["/", "/etc", "/dev/shm/x", "{root}less", "{root}/..", "{root}/../rootless", "{root}/out/x",
     "{root}/a/../../x", "file:///etc", "s3://bucket/x", "/proc/self/root{root}/../rootless"],
)  # fmt: skip
def test_what_leads_out_of_the_root_is_forbidden(root: Path, dest: str) -> None:
    with pytest.raises(Forbidden, match="not below"):
        destination(str(root), dest.format(root=root))


@pytest.mark.parametrize(
    "dest",
    ["", "relative", "../up", "file://relative", "file://host/x", "webhdfs://127.0.0.1:1/x",
     "http://127.0.0.1/x", "memory://x", "local:///etc", "FILE:///etc", "github://a:b@/x",
     "zip://a.zip::file:///etc", "{root}/x::http://127.0.0.1/", "simplecache::s3://b/x",
     "s3://bucket/x::http://127.0.0.1/", "{root}/a\nb", "{root}/a\0b", "{root}/\ud800",
     "s3://", "s3:///x", "s3://bucket//x", "s3://bucket/../x", "s3://bucket/a/./x",
     "s3://bucket/x?versionId=1", "s3://bucket/x#y", "s3://bucket\\x"],
)  # fmt: skip
def test_what_is_malformed_or_of_another_scheme_is_refused(root: Path, dest: str) -> None:
    for given in (str(root), "s3://bucket/root"):
        with pytest.raises(InvalidRequest, match="dest"):
            destination(given, dest.format(root=root))


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_prefix_in_object_storage_is_a_root(scheme: str) -> None:
    root = f"{scheme}://bucket/backups/"
    for dest in ("bucket/backups", "bucket/backups/", "bucket/backups/mine"):
        assert destination(root, f"{scheme}://{dest}") == f"{scheme}://{dest.rstrip('/')}"
    for dest in ("bucket/backupsx", "bucket", "other/backups", "user:pw@bucket/backups"):
        with pytest.raises(Forbidden, match="not below"):
            destination(root, f"{scheme}://{dest}")
    with pytest.raises(Forbidden):
        destination(root, "/tmp/x")


def test_a_root_that_is_none_is_refused_at_the_start() -> None:
    for text in ("relative", "http://x", "memory://x", "s3://b/../x"):
        with pytest.raises(InvalidRequest, match="--backup-root"):
            BackupRoot.parse(text)
