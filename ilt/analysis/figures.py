"""Figures of a run: learning curves and distributions of returns."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from ilt.evaluation.figure_style import COLORS, DASHES, Draw, is_narrow, legend_below, new_figure, steps_axis
from ilt.tracking.reading import reading
from ilt.tracking.records import RunRecord

Curve = Mapping[str, Mapping[int, float]]
"""Values by training step, by metric."""

POLICIES = {"student": "student", "expert": "expert", "random": "random policy"}
"""The policies that a run may be scored with, and what figures call them."""

_N_BINS = 50


def figures_of_run(run: RunRecord) -> dict[str, Draw]:
    """Return the functions that draw a finished run's figures, by name.

    Raise UnreadableFileError if the config or the results lack what the figures need.
    """
    with reading(run.path / "config.yaml"):
        n_episodes = int(run.config["callbacks"]["rollout"]["n_episodes"]) if run.is_scored else 0
    with reading(run.path / "results.json"):
        results = {"student": run.results, **run.results["policies"]}
        intervals = {name: tuple(map(float, results[name]["return_mean_interval"])) for name in run.policies}
    returns = {name: run.episodes[f"{name}_return"] for name in run.policies}
    references = {name: float(returns[name].mean()) for name in run.policies if name != "student"}
    success_return = run.config["env"].get("success_return")
    drawn = partial(learning_curve, run.curve, references=references, n_episodes=n_episodes)
    figures: dict[str, Draw] = {"learning_curve": drawn}
    if run.is_scored:
        figures["return_distribution"] = partial(
            return_distribution, returns, intervals=intervals, success_return=success_return
        )
    return figures


def learning_curve(curve: Curve, width: float, *, references: Mapping[str, float], n_episodes: int) -> Figure:
    """Plot return, loss and action accuracy (or error) over training.

    Losses, accuracies and errors that do not vary are left out. Raise ValueError if there is nothing to plot.

    Args:
        width: in inches.
        references: mean returns of `expert` (if there is one) and `random` on test seeds.
        n_episodes: how many selection seeds the returns are means over.
    """
    panels: list[Callable[[Axes], None]] = []
    if "rollout/return_mean" in curve:
        panels.append(partial(_returns, curve, references, n_episodes))
    if _varies(curve, "train/loss") or _varies(curve, "val/loss"):
        panels.append(partial(_loss, curve))
    panels += [partial(_actions, curve, name) for name in ("accuracy", "error") if _varies(curve, f"val/action_{name}")]
    if not panels:
        raise ValueError("it has no returns, and no other metric that varies")
    rows, columns = (len(panels), 1) if is_narrow(width) else (1, len(panels))
    figure = new_figure(width, 0.3 + 1.8 * rows if rows > 1 else 2.4)
    for draw, axes in zip(panels, figure.subplots(rows, columns, squeeze=False).flat, strict=True):
        draw(axes)
        steps_axis(axes)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            legend_below(axes)
    return figure


def _varies(curve: Curve, name: str) -> bool:
    return len(set(curve.get(name, {}).values())) > 1


def _line(axes: Axes, values: Mapping[int, float], color: str, label: str) -> None:
    marker = "o" if len(values) < 30 else ""
    axes.plot(list(values), list(values.values()), color=COLORS[color], marker=marker, label=label)


def _returns(curve: Curve, references: Mapping[str, float], n_episodes: int, axes: Axes) -> None:
    """Plot mean returns with their interval. The references keep the axis from magnifying noise."""
    means, deviations = curve["rollout/return_mean"], curve.get("rollout/return_std", {})
    _line(axes, means, "student", f"student ({n_episodes} selection seeds)")
    if n_episodes > 1 and deviations:
        shared = [step for step in means if step in deviations]
        middle = np.array([means[step] for step in shared])
        error = 1.96 * np.array([deviations[step] for step in shared]) / n_episodes**0.5
        area: dict[str, Any] = {"color": COLORS["student"], "alpha": 0.2, "linewidth": 0}
        axes.fill_between(shared, middle - error, middle + error, label="95 % interval (± 1.96 s.e.)", **area)
    for name, value in references.items():
        axes.axhline(value, color=COLORS[name], linestyle=DASHES[name], label=f"{POLICIES[name]} (test seeds)")
    axes.set(title="Return over training", ylabel="mean return")


def _loss(curve: Curve, axes: Axes) -> None:
    for name, color, label in (("train", "training", "training batches"), ("val", "student", "validation")):
        if values := curve.get(f"{name}/loss"):
            _line(axes, values, color, label)
    low, high = axes.dataLim.intervaly
    if 0 < 10 * low < high:  # the loss of a density may be negative
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    elif low > 0:
        axes.set_ylim(0, 1.05 * high)
    axes.set(title="Loss", ylabel="loss")


def _actions(curve: Curve, measure: str, axes: Axes) -> None:
    values = curve[f"val/action_{measure}"]
    _line(axes, values, "student", "validation")
    if measure == "accuracy":
        axes.set_ylim(min(0.8, *values.values()) - 0.01, 1.005)
    else:
        axes.set_ylim(0, 1.05 * max(values.values()))
    axes.set(title=f"Action {measure}", ylabel=f"validation {measure}")


def return_distribution(
    returns: Mapping[str, np.ndarray],
    width: float,
    *,
    intervals: Mapping[str, tuple[float, ...]],
    success_return: float | None,
) -> Figure:
    """Plot histograms and cumulative distributions of episode returns by policy.

    Args:
        returns: (E,), by policy: student, expert (if there is one) and random.
        width: in inches.
        intervals: 95 % intervals of their means, by policy.
        success_return: marked by a line, unless None.
    """
    rows, columns = (2, 1) if is_narrow(width) else (1, 2)
    figure = new_figure(width, 4.6 if rows > 1 else 2.7)
    histogram, cumulative = figure.subplots(rows, columns, sharex=True)
    low = min(np.percentile(values, 0.5) for values in returns.values())
    high = max(values.max() for values in returns.values())
    if low == high:
        low, high = low - 1.0, high + 1.0
    bins = np.linspace(low, high, _N_BINS).tolist()
    for name, values in returns.items():
        line: dict[str, Any] = {"color": COLORS[name], "linestyle": DASHES[name]}
        clipped = np.clip(values, low, high)
        histogram.hist(clipped, bins=bins, histtype="stepfilled", color=COLORS[name], alpha=0.12, linewidth=0)
        histogram.hist(clipped, bins=bins, histtype="step", linewidth=1.1, **line)
        numbers = "{:.1f} ({:.1f} … {:.1f})".format(values.mean(), *intervals[name]).replace("-", "−")
        cumulative.ecdf(values, label=f"{POLICIES[name]}: {numbers}", **line)
    count = f"{len(next(iter(returns.values()))):,} test episodes"
    below = " (lower ones in the first bin)" if any(values.min() < low for values in returns.values()) else ""
    histogram.set(title=f"Returns of {count}", ylabel="episodes", xlabel=f"return{below}")
    cumulative.set(title="Cumulative distribution", ylabel="share at or below", xlabel="return", ylim=(0, 1.02))
    margin = (high - low) / 50
    for axes in (histogram, cumulative):
        axes.set(xlim=(low - margin, high + margin))
        axes.tick_params(labelbottom=True)
        if success_return is not None:
            axes.axvline(success_return, color="0.3", linestyle=(0, (1, 3)), linewidth=0.9, label="success threshold")
    figure.legend(
        *cumulative.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=1 if is_narrow(width) else 2,
        title="mean return (95 % bootstrap interval)",
    )
    return figure
