"""Recall over time of each engine, one panel for each case, as an SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = ("plain", "1% new", "0.01% new")
OURS = "bitsift_"


def plot(result: dict[str, Any], path: Path) -> None:
    """The line of an engine goes through its settings from the fastest on; ours are thick."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "bitsift"  # equal results make equal files
    cases = [case for case in PANELS if result["curves"].get(case)]
    figure = Figure(figsize=(5 * len(cases) + 2, 5), layout="constrained")
    (panels,) = figure.subplots(1, len(cases), sharey=True, squeeze=False)
    names = list(result["engines"])
    for axes, case in zip(panels, cases, strict=True):
        for number, name in enumerate(names):
            points = result["curves"][case].get(name, [])
            places = sorted((it["p50_ms"], it["recall"]) for it in points)
            width, mark = (2.5, "o") if name.startswith(OURS) else (1, ".")
            axes.plot(
                [ms for ms, _ in places], [recall for _, recall in places],
                color=f"C{number % 10}", linestyle="-" if number < 10 else "--",
                linewidth=width, marker=mark, label=name.replace("_", " "),
            )  # fmt: skip
        axes.axhline(result["recall_min"], color="grey", linewidth=0.5)
        axes.set(
            xscale="log", xlabel="p50, ms", title=case if case == "plain" else f"{case} filter"
        )
        axes.grid(which="both", linewidth=0.2)
    panels[0].set(ylabel="recall@10 against fp32", ylim=(None, 1.005))
    panels[0].legend(fontsize=7)
    machine, threads = result["machine"], result["threads"]
    figure.suptitle(
        f"{result['dataset']}, {result['rows']:,} x {result['dim']:,}, "
        f"{threads} thread{'s' if threads > 1 else ''}, {machine['processor']}, "
        f"load {machine['load_average']:g} ({result['measured'][:10]})",
        fontsize=10,
    )
    figure.savefig(path, metadata={"Date": None})
