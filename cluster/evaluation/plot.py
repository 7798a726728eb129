"""An evaluation as a picture: recall@10 and nDCG@10 of every stage, PNG or SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitsift.cluster.maintenance.aside import require_new
from bitsift.errors import InvalidRequest

ENDINGS = (".png", ".svg")


def check_plot_path(path: Path) -> None:
    """Refuse what cannot be drawn before an hour of measuring. Raises InvalidRequest."""
    if path.suffix.lower() not in ENDINGS:
        raise InvalidRequest(f"{path} ends in none of {', '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise InvalidRequest(f"{path.parent} is not a folder")
    require_new(path)


def plot_stages(result: dict[str, Any], path: Path) -> None:
    """Draw ``Evaluation.to_json()``; without a display, equal results making equal files."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "bitsift"
    stages = result["stages"]
    figure = Figure(figsize=(10, 1.5 + 0.35 * len(stages)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, measure in zip(axes, ("recall@10", "ndcg@10"), strict=True):
        values = [stages[name].get(measure, 1.0) for name in stages]
        axis.barh(list(stages), values, color="#457b9d")
        for place, value in enumerate(values):
            axis.text(value, place, f" {value:.4f}", va="center", fontsize=8)
        axis.set_xlim(min(values) * 0.8, max(values) * 1.06)
        axis.set_xlabel(measure)
    axes[0].invert_yaxis()
    axes[1].axvline(stages["fp32"]["ndcg@10"], color="black", linewidth=1, linestyle=":")
    figure.suptitle(
        f"{result['dataset']}: {result['documents']:,} documents, {result['queries']:,} queries, "
        f"{result['model']}, shards: {result['shards']}",
        fontsize=10,
    )
    ending = path.suffix.lower().removeprefix(".")
    with path.open("xb") as file:
        figure.savefig(file, format=ending, metadata={"Date": None} if ending == "svg" else None)
