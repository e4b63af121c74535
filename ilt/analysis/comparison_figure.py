"""The figure of a comparison: mean return of each policy with its confidence interval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def comparison_figure(
    metrics: Mapping[str, Mapping[str, Any]], path: Path, *, reference: str, random: str, title: str
) -> None:
    """Plot one panel per subset, one row per policy: mean return, 95 % interval, and a tick per run if several.

    Args:
        metrics: by subset and policy, as `compare_policies` makes them.
        reference: marked by a dashed line.
        random: left out; its low return would squeeze the others together.
    """
    names = [name for name in next(iter(metrics.values())) if name != random] or [random]
    figure = Figure(figsize=(1.6 + 4.2 * len(metrics), 1.2 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for axes, (subset, by_policy) in zip(panels, metrics.items(), strict=True):
        for place, name in enumerate(names):
            numbers, color = by_policy[name], "#ff7f0e" if name == reference else "#1f77b4"
            runs = [run["return_mean"] for run in numbers.get("by_run", [])]
            axes.plot(numbers["return_mean_interval"], [place] * 2, color=color, linewidth=2, alpha=0.6)
            axes.plot(runs, [place] * len(runs), "|", color="0.3", markersize=9)
            axes.plot(numbers["return_mean"], place, "o", color=color, markersize=6)
        axes.axvline(by_policy[reference]["return_mean"], color="#ff7f0e", linestyle="--", linewidth=1)
        axes.set(xlabel="mean return", ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names)
        axes.set_title(subset, fontsize=10)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, format="png")
