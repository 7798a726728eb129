"""Recall over time of each engine, one panel for each case, as an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = ("plain", "1% new", "0.01% new")
OURS = "bitsift_"


def plot(result: dict[str, Any], path: Path) -> None:
    """A point for each setting of an engine, and a line through those that none of its own is
    faster than at equal recall; ours are thick.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "bitsift"  # equal results make equal files
    cases = [case for case in PANELS if result["curves"].get(case)]
    figure = Figure(figsize=(5 * len(cases) + 2, 5), layout="constrained")
    (panels,) = figure.subplots(1, len(cases), sharey=True, squeeze=False)
    names = [name for name in result["engines"] if name in result["curves"][cases[0]]]
    for axes, case in zip(panels, cases, strict=True):
        for number, name in enumerate(names):
            points = result["curves"][case].get(name, [])
            width, mark = (2.5, "o") if name.startswith(OURS) else (1, ".")
            style: dict[str, Any] = {"color": f"C{number % 10}", "marker": mark}
            dashes = "-" if number < 10 else "--"
            axes.plot(*_places(points), linestyle="", alpha=0.4, **style)
            axes.plot(
                *_places(best(points)), linestyle=dashes, linewidth=width, label=name, **style
            )
        axes.axhline(result["recall_min"], color="grey", linewidth=0.5)
        axes.set(
            xscale="log", xlabel="p50, ms", title=case if case == "plain" else f"{case} filter"
        )
        axes.grid(which="both", linewidth=0.2)
    panels[0].set(ylabel="recall@10 against fp32", ylim=(None, 1.005))
    handles, labels = panels[0].get_legend_handles_labels()
    labels = [label.replace("_", " ") for label in labels]
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    machine, threads = result["machine"], result["threads"]
    figure.suptitle(
        f"{result['dataset']}, {result['rows']:,} x {result['dim']:,}, "
        f"{threads} thread{'s' if threads > 1 else ''}, {machine['processor']}, "
        f"load {machine['load_average']:g} ({result['measured'][:10]})",
        fontsize=10,
    )
    figure.savefig(path, metadata={"Date": None})


def best(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that no faster one equals in recall, from the fastest on."""
    found: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda it: (it["p50_ms"], -it["recall"])):
        if not found or point["recall"] > found[-1]["recall"]:
            found.append(point)
    return found


def _places(points: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [it["p50_ms"] for it in points], [it["recall"] for it in points]
