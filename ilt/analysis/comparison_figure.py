"""The figure of a comparison: mean return of each policy with its confidence interval."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from ilt.evaluation.comparison import ALL
from ilt.evaluation.figure_style import COLORS, is_narrow, new_figure, widen


def comparison_figure(comparison: Mapping[str, Any], width: float) -> Figure:
    """Plot one panel per subset, one row per policy: mean return, 95 % interval, and a tick for each of several runs.

    The random policy is left out, because its low return would squeeze the others together.

    Args:
        comparison: the content of `comparison.json`.
        width: in inches.
    """
    metrics, reference = comparison["metrics"], comparison["reference"]
    names = [name for name in metrics[ALL] if name != "random"] or ["random"]
    rows, columns = (len(metrics), 1) if is_narrow(width) else (-(-len(metrics) // 3), min(len(metrics), 3))
    figure = new_figure(width, rows * (0.55 + 0.17 * len(names)) + 0.45)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes, (subset, by_policy) in zip(panels, metrics.items(), strict=False):
        for place, name in enumerate(names):
            numbers, color = by_policy[name], COLORS["expert" if name == reference else "student"]
            runs = [run["return_mean"] for run in numbers.get("by_run", [])]
            axes.plot(numbers["return_mean_interval"], [place] * 2, color=color, linewidth=2.5, alpha=0.4)
            axes.plot(runs, [place] * len(runs), "|", color="0.3", markersize=5, markeredgewidth=0.7)
            axes.plot(numbers["return_mean"], place, "o", color=color, markersize=3.5)
        axes.axvline(by_policy[reference]["return_mean"], color=COLORS["expert"], linestyle="--", linewidth=0.8)
        widen(axes)
        axes.set(ylim=(len(names) - 0.5, -0.5))
        axes.set_title(f"{subset} (n = {by_policy[reference]['n_episodes']:,})")
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    for axes in panels[max(len(metrics) - columns, 0) : len(metrics)]:
        axes.set(xlabel="mean return")
    some = {"linestyle": "", "color": COLORS["student"]}
    panels[0].plot([], [], marker="o", markersize=3.5, label="mean", **some)
    interval = _interval(metrics[ALL], "\n" if is_narrow(width) else " ")
    panels[0].plot([], [], color=COLORS["student"], linewidth=2.5, alpha=0.4, label=interval)
    if any("by_run" in numbers for numbers in metrics[ALL].values()):
        panels[0].plot([], [], "|", color="0.3", markersize=5, label="single runs")
    panels[0].plot([], [], color=COLORS["expert"], linestyle="--", linewidth=0.8, label=reference.replace("_", " "))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if is_narrow(width) else len(labels))
    return figure


def _interval(by_policy: Mapping[str, Mapping[str, Any]], separator: str) -> str:
    """Return the intervals' label. They are over runs for policies that have several runs."""
    several = {"by_run" in numbers for name, numbers in by_policy.items() if name != "random"}
    kinds = {True: "over runs and episodes", False: "bootstrap over episodes"}
    return f"95 % interval ({f'{separator}or '.join(kinds[each] for each in sorted(several))})"
