"""Figures of a run: learning curves and distributions of returns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

COLORS = {"student": "#1f77b4", "expert": "#ff7f0e", "random": "#7f7f7f"}


def learning_curve(rows: Sequence[Mapping[str, float]], path: Path, *, expert_return: float | None, title: str) -> None:
    """Plot loss, action accuracy (or error) and selection-seed return over training steps.

    Args:
        rows: the rows of `LearningCurve`.
        expert_return: the expert's mean return on selection seeds; None if it is not known.
    """

    def series(name: str) -> tuple[list[float], list[float]]:
        points = [(row["step"], row[name]) for row in rows if name in row]
        return [x for x, _ in points], [y for _, y in points]

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss, actions, returns = figure.subplots(1, 3)
    loss.plot(*series("train/loss"), color="0.7", label="training batch")
    loss.plot(*series("val/loss"), color=COLORS["student"], marker="o", markersize=3, label="validation")
    positive = all(row[name] > 0 for row in rows for name in ("train/loss", "val/loss") if name in row)
    loss.set(ylabel="loss", yscale="log" if positive else "linear")  # a density's may be negative
    loss.legend(frameon=False)
    measure = "error" if any("val/action_error" in row for row in rows) else "accuracy"
    actions.plot(*series(f"val/action_{measure}"), color=COLORS["student"], marker="o", markersize=3)
    actions.set(ylabel=f"action {measure} (validation)")
    steps, means = series("rollout/return_mean")
    returns.plot(steps, means, color=COLORS["student"], marker="o", markersize=3, label="student")
    if expert_return is not None:
        returns.axhline(expert_return, color=COLORS["expert"], linestyle="--", label="expert (other selection seeds)")
    returns.set(ylabel="mean return (selection seeds)")
    returns.legend(loc="best", framealpha=0.8)
    for axes in (loss, actions, returns):
        axes.set(xlabel="training step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, format="png")


def return_distribution(
    returns: Mapping[str, np.ndarray], path: Path, *, success_return: float | None, title: str
) -> None:
    """Plot histograms and cumulative distributions of episode returns by policy.

    Args:
        returns: (E,) by policy name.
        success_return: marked by a line, unless None.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    histogram, cumulative = figure.subplots(1, 2)
    low = min(np.percentile(values, 0.5) for values in returns.values())
    high = max(values.max() for values in returns.values())
    if low == high:
        low, high = low - 1.0, high + 1.0
    bins = np.linspace(low, high, 60)
    for name, values in returns.items():
        style: dict[str, Any] = {"color": COLORS[name], "label": f"{name}: mean {values.mean():.1f}"}
        histogram.hist(np.clip(values, low, high), bins=bins, histtype="stepfilled", alpha=0.45, **style)
        share = np.arange(1, len(values) + 1) / len(values)
        line = "-" if name == "student" else "--"  # keeps the student visible where the lines coincide
        cumulative.step(np.sort(values), share, where="post", linestyle=line, **style)
    histogram.set(ylabel="episodes")
    cumulative.set(ylabel="share of episodes at or below", xlim=(low, high))
    for axes in (histogram, cumulative):
        if success_return is not None:
            axes.axvline(success_return, color="0.3", linestyle=":", label="success")
        axes.set(xlabel="return of an episode (test seeds)")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    cumulative.legend(frameon=False, loc="upper left")
    figure.suptitle(title)
    figure.savefig(path, format="png")
