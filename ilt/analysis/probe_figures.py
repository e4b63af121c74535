"""Figures of a student's internals: R² of probes, and attention weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ilt.analysis.probes import OBSERVATION, Score

LOWEST = -0.25  # lower values of R² are drawn here


def probe_figure(
    scores: Sequence[Score], path: Path, *, title: str, other: tuple[str, Sequence[Score]] | None = None
) -> None:
    """Plot R² over the steps since the start, one panel per quantity, one line per source of features.

    Args:
        other: name and scores of a second student, of which only the last source is drawn.
    """
    quantities = list(dict.fromkeys(score.quantity for score in scores))
    places = list(dict.fromkeys(score.source for score in scores))
    steps = sorted({score.step for score in [*scores, *(other[1] if other else [])]})
    n_columns = min(len(quantities), 4)
    n_rows = -(-len(quantities) // n_columns)
    figure = Figure(figsize=(max(3.2 * n_columns, 8.0), 2.8 * n_rows + 1.2), layout="constrained")
    panels = list(figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).flat)
    shades = colormaps["viridis_r"](np.linspace(0.15, 0.95, len(places) - 1))
    for axes, quantity in zip(panels, quantities, strict=False):
        for place, shade in zip(places, [None, *shades], strict=True):
            of_place = _of(scores, quantity, place)
            if place == OBSERVATION:
                _line(axes, of_place, steps, "-.", label=place, color="0.5", zorder=3)
            else:
                _line(axes, of_place, steps, "-", label=place, color=shade)
                error = 1.96 * np.array([score.error for score in of_place])
                x, r2 = [steps.index(score.step) for score in of_place], np.array([score.r2 for score in of_place])
                low = np.maximum(r2 - error, LOWEST)
                axes.fill_between(x, low, r2 + error, color=shade, alpha=0.15, linewidth=0)
        shuffled = [score._replace(r2=score.shuffled_r2) for score in _of(scores, quantity, places[-1])]
        _line(axes, shuffled, steps, "--", label=f"{places[-1]}, shuffled", color="C3")
        if other is not None:
            name, last = other[0], other[1][-1].source
            _line(axes, _of(other[1], quantity, last), steps, ":", label=f"{name}, {last}", color="black")
        axes.set(title=quantity, ylim=(LOWEST - 0.03, 1.03))
        axes.set_xticks(range(len(steps)), [str(step) for step in steps], fontsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(quantities) :]:
        axes.set_axis_off()
    for axes in panels[max(len(quantities) - n_columns, 0) : len(quantities)]:
        axes.set(xlabel="steps since the start")
    figure.supylabel("R² on held-out episodes", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title)
    figure.savefig(path, format="png")


def _of(scores: Sequence[Score], quantity: str, place: str) -> list[Score]:
    return [score for score in scores if (score.quantity, score.source) == (quantity, place)]


def _line(axes: Axes, scores: Sequence[Score], steps: Sequence[int], style: str, **options: Any) -> None:
    """Plot R² over steps, which are spaced evenly whatever their distance."""
    x, r2 = [steps.index(score.step) for score in scores], [max(score.r2, LOWEST) for score in scores]
    axes.plot(x, r2, style, marker="o", markersize=2.5, linewidth=1.4, **{"zorder": 2, **options})


def attention_figure(maps: Mapping[str, np.ndarray], path: Path, *, tokens_per_step: int, title: str) -> None:
    """Plot the current state token's attention over the window, one panel per map, one row per layer and head.

    Args:
        maps: (n_layer, n_head, T) by title.
        tokens_per_step: 2 if the window also holds action tokens.
    """
    n_layer, n_head, n_tokens = next(iter(maps.values())).shape
    n_rows = n_layer * n_head
    figure = Figure(figsize=(12, 1.8 + 0.28 * max(n_rows, 5)), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for axes, (moment, weights) in zip(panels, maps.items(), strict=True):
        n_tokens = weights.shape[2]
        left, half = -(n_tokens - 1) / tokens_per_step, 0.5 / tokens_per_step
        drawn = axes.imshow(
            np.ma.masked_equal(weights.reshape(n_rows, n_tokens), 0.0),
            extent=(left - half, half, n_rows - 0.5, -0.5),
            norm=PowerNorm(0.5, vmin=0.0, vmax=1.0),
            cmap="viridis",
            aspect="auto",
            interpolation="nearest",
        )
        axes.set(title=moment, facecolor="0.9")
        axes.title.set_fontsize(10)
    labels = [f"layer {layer + 1}, head {head + 1}" for layer in range(n_layer) for head in range(n_head)]
    panels[0].set_yticks(range(n_rows), labels, fontsize=8 if n_rows <= 24 else 5)
    between = "whole numbers are states, halves the actions between them; " if tokens_per_step == 2 else ""
    figure.supxlabel(f"steps back ({between}gray: not looked at)", fontsize=10)
    figure.colorbar(drawn, ax=panels, label="weight", ticks=[0.0, 0.1, 0.3, 1.0])
    figure.suptitle(title)
    figure.savefig(path, format="png")
