"""A module of the product is short enough to be read at once."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("bitsift", "cluster", "router", "shard_worker")
LINES_MAX = 400


def too_long(root: Path) -> list[str]:
    """The modules below ``root`` that are, with their lines."""
    counted = {
        path.relative_to(root): len(path.read_text().splitlines())
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    assert counted
    return [f"{path}: {lines} lines" for path, lines in counted.items() if lines > LINES_MAX]


def test_no_module_of_the_product_has_over_400_lines() -> None:
    assert too_long(ROOT) == []


def test_a_longer_one_is_found(tmp_path: Path) -> None:
    (tmp_path / "router" / "http").mkdir(parents=True)
    (tmp_path / "router" / "http" / "fits.py").write_text("pass\n" * LINES_MAX)
    (tmp_path / "router" / "http" / "long.py").write_text("pass\n" * (LINES_MAX + 1))
    assert too_long(tmp_path) == ["router/http/long.py: 401 lines"]
