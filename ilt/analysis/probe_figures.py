"""Figures of a student's internals: R² of probes, and attention weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from ilt.analysis.probes import OBSERVATION, Score
from ilt.evaluation.figure_style import COLORS, is_narrow, new_figure

LOWEST = -0.25  # lower values of R² are drawn here


def probe_figure(scores: Sequence[Score], width: float, *, other: Sequence[Score] | None = None) -> Figure:
    """Plot R² over the steps since the start, one panel per quantity, one line per source of features.

    Args:
        width: in inches.
        other: scores of a second student; only its last source is drawn.
    """
    quantities = list(dict.fromkeys(score.quantity for score in scores))
    places = list(dict.fromkeys(score.source for score in scores))
    steps = sorted({score.step for score in [*scores, *(other or [])]})
    n_columns = 2 if is_narrow(width) else 4
    n_rows = -(-len(quantities) // n_columns)
    figure = new_figure(width, 1.35 * n_rows + (1.1 if is_narrow(width) else 0.75))
    panels = list(figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).flat)
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
                axes.fill_between(x, low, r2 + error, color=shade, alpha=0.2, linewidth=0)
        shuffled = [score._replace(r2=score.shuffled_r2) for score in _of(scores, quantity, places[-1])]
        _line(axes, shuffled, steps, "--", label=f"{places[-1]}, shuffled (control)", color=COLORS["control"])
        if other:
            last = other[-1].source
            _line(axes, _of(other, quantity, last), steps, ":", label=f"the other student, {last}", color="black")
        axes.fill_between([], [], [], color="0.8", label="95 % interval (1.96 standard errors)")
        axes.set(title=quantity.replace("_", " "), ylim=(LOWEST - 0.03, 1.03))
        every = 2 if len(steps) > 6 else 1
        axes.set_xticks(range(len(steps)), [str(step) if i % every == 0 else "" for i, step in enumerate(steps)])
    for axes in panels[len(quantities) :]:
        axes.set_axis_off()
    for axes in panels[max(len(quantities) - n_columns, 0) : len(quantities)]:
        axes.tick_params(labelbottom=True)
    for axes in panels[(n_rows - 1) * n_columns : len(quantities)]:
        axes.set(xlabel="step of the episode")
    figure.supylabel("R² on held-out episodes", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if is_narrow(width) else 3)
    return figure


def _of(scores: Sequence[Score], quantity: str, place: str) -> list[Score]:
    return [score for score in scores if (score.quantity, score.source) == (quantity, place)]


def _line(axes: Axes, scores: Sequence[Score], steps: Sequence[int], style: str, **options: Any) -> None:
    """Plot R² over steps, at even spacing whatever their distance."""
    x, r2 = [steps.index(score.step) for score in scores], [max(score.r2, LOWEST) for score in scores]
    axes.plot(x, r2, style, marker="o", markersize=1.8, **{"zorder": 2, **options})


def attention_figure(maps: Mapping[str, np.ndarray], width: float, *, tokens_per_step: int) -> Figure:
    """Plot the current state token's attention over the window, one panel per map, one row per layer and head.

    Args:
        maps: (n_layer, n_head, T), by title; T is the number of tokens in the window.
        width: in inches.
        tokens_per_step: 1 for states; 2 with actions, or with returns; 3 with both.
    """
    n_layer, n_head, n_tokens = next(iter(maps.values())).shape
    n_rows = n_layer * n_head
    rows, columns = (len(maps), 1) if is_narrow(width) else (1, len(maps))
    figure = new_figure(width, 0.9 + rows * (0.3 + 0.13 * max(n_rows, 6)))
    panels: list[Axes] = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
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
        axes.grid(visible=False)
    labels = [f"layer {layer + 1}, head {head + 1}" for layer in range(n_layer) for head in range(n_head)]
    panels[0].set_yticks(range(n_rows), labels, fontsize=7 if n_rows <= 24 else 5)
    halves = "actions" if n_tokens % 2 else "returns"  # an even number of tokens starts with a return
    kinds = {1: [], 2: [f"halves: {halves}"], 3: ["1/3: returns", "2/3: actions"]}[tokens_per_step]
    notes = [*(["integers: states", *kinds] if kinds else []), "gray: no weight"]
    figure.supxlabel(f"steps back\n({'; '.join(notes)})", fontsize=7)
    figure.colorbar(drawn, ax=panels, label="attention weight", ticks=[0.0, 0.1, 0.3, 1.0], aspect=15 * rows)
    return figure
