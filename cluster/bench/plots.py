"""Results as pictures (SVG): each figure with its target; the memory and times of a large index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

GREEN, RED, GREY = "#2a9d5c", "#d1495b", "#8d99ae"
MEMORY_KINDS = {"anonymous": "#457b9d", "shared": "#a8dadc", "bits": "#1d3557"}
WAY_COLOURS = {"exact": "#1d3557", "approximate": "#e9a03b", "auto": "#2a9d8f", "recall": "#b5838d"}


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure that needs no display, and its axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "bitsift"  # equal results make equal files
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)


def _save(figure: Any, result: dict[str, Any], path: Path) -> None:
    machine = result["machine"]
    figure.suptitle(
        f"{result['rows']:,} x {result['dimension']:,} on {machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']:.0f} GiB ({result['measured'][:10]})",
        fontsize=10,
    )
    figure.savefig(path, metadata={"Date": None})


def plot_bars(result: dict[str, Any], path: Path) -> None:
    """How far each figure is on the good side of its bar, on a logarithmic scale."""
    bars = {key: bar for key, bar in result["bars"].items() if bar["value"] > 0}
    margins = [_margin(bar) for bar in bars.values()]
    figure, axes = _figure(1, 1, (8, 1.2 + 0.35 * len(bars)))
    colours = [GREEN if bar["met"] else RED for bar in bars.values()]
    axes.barh(list(bars), [margin - 1 for margin in margins], left=1, color=colours)
    for place, (margin, bar) in enumerate(zip(margins, bars.values(), strict=True)):
        label = f"{bar['value']:,.4g} ({bar['bar']})"
        axes.text(max(margin, 1) * 1.04, place, label, va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(min([0.5, *margins]) * 0.9, max([2.0, *margins]) * 3)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("times better than the bar (left of 1: missed)")
    _save(figure, result, path)


def _margin(bar: dict[str, Any]) -> float:
    ratio = float(bar["value"] / bar["limit"])
    return ratio if bar["at_least"] else 1 / ratio


def plot_large(result: dict[str, Any], path: Path) -> None:
    """Memory of all processes over the run, and p50 and p99 of each way to search."""
    figure, (memory, times) = _figure(1, 2, (12, 4.5))
    _plot_memory(memory, result)
    _plot_times(times, result.get("serve", {}))
    _save(figure, result, path)


def _plot_memory(axes: Any, result: dict[str, Any]) -> None:
    series = result["memory"]["series"]
    minutes = [sample["s"] / 60 for sample in series]
    stacks = [[sample[kind] / 1e9 for sample in series] for kind in MEMORY_KINDS]
    axes.stackplot(minutes, *stacks, labels=list(MEMORY_KINDS), colors=MEMORY_KINDS.values())
    pages = [sample["store_pages"] / 1e9 for sample in series]
    axes.plot(minutes, pages, color=GREY, linewidth=1, label="LMDB pages (reclaimable)")
    axes.axhline(8, color=RED, linewidth=1, linestyle="--")
    before = "start"
    for minute, sample in zip(minutes, series, strict=True):
        if sample["phase"] != before:
            before = sample["phase"]
            axes.axvline(minute, color=GREY, linewidth=0.5)
            axes.text(minute, 8.1, before, fontsize=7, rotation=30)
    axes.set(xlabel="minutes", ylabel="GB of RAM, all processes", ylim=(0, 10))
    axes.legend(loc="lower center", fontsize=7)


def _short(value: float) -> str:
    """Three digits, never in powers of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plot_times(axes: Any, served: dict[str, Any]) -> None:
    """Bars reach to p50, lines on to p99."""
    names = [name for name in served if isinstance(served[name], dict) and "p50_ms" in served[name]]
    names.sort()
    for place, name in enumerate(names):
        p50, p99 = served[name]["p50_ms"], served[name]["p99_ms"]
        axes.barh(place, p50, color=WAY_COLOURS[name.split("_")[0]])
        axes.plot([p50, p99], [place, place], color="black", linewidth=1)
        axes.text(p99 * 1.1, place, f"{_short(p50)} / {_short(p99)}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.4)
    axes.set_xlabel("ms over HTTP, p50 / p99")
