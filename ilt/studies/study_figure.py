"""The figure of a study: its metric by row and column of the table."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ilt.evaluation.figure_style import COLORS, DASHES, is_narrow, new_figure, widen
from ilt.studies.study_tables import SELECTION, Cell, has_one_expert, unique

STYLES = (("#0072b2", "o"), ("#e69f00", "s"), ("#009e73", "D"), ("#cc79a7", "^"), ("#56b4e9", "v"), ("#000000", "P"))
"""Colors of Okabe and Ito (2008) and markers, by the first value of a column, such as its imitation algorithm."""

AXES = {
    "performance": "performance (0: random policy, 1: expert)",
    "return": "mean return of test episodes",
    SELECTION: "mean return on selection seeds",
}
"""Labels of the horizontal axis by metric."""


def study_figure(cells: Sequence[Cell], width: float) -> Figure:
    """Plot the metric of every cell: mean, interval, and training seeds as dots; one panel per row of the table.

    `width` is in inches. Raise ValueError if no cell has a finished run.
    """
    rows = unique(cell.row for cell in cells if cell.metric in cell.numbers)
    if not rows:
        raise ValueError("a figure needs at least one finished run")
    by_row = {row: [cell for cell in cells if cell.row == row] for row in rows}
    n_across = 1 if is_narrow(width) or len(rows) == 1 else 2
    n_down = math.ceil(len(rows) / n_across)
    n_lines = max(map(len, by_row.values()))
    kinds = _kinds(cells)
    n_labels = math.ceil((len(kinds) + 4) / (1 if is_narrow(width) else 2))  # lines of the legend
    figure = new_figure(width, 0.4 + 0.15 * n_labels + n_down * (0.45 + 0.16 * max(n_lines, 3)))
    panels = figure.subplots(n_down, n_across, squeeze=False)
    for i, (axes, (row, own)) in enumerate(zip(panels.flat, by_row.items(), strict=False)):
        _panel(axes, own, kinds)
        axes.set_title(row)
        if i % n_across and [cell.column for cell in own] == [cell.column for cell in by_row[rows[i - 1]]]:
            axes.set_yticklabels([])  # the same as in the panel on the left
    for axes in panels.flat[len(rows) :]:
        axes.remove()
    for axes in panels.flat[max(len(rows) - n_across, 0) : len(rows)]:  # the lowest of each column
        label = AXES[cells[0].metric]
        axes.set_xlabel(label if n_across == 1 and not is_narrow(width) else label.replace(" (", "\n("))
    _legend(figure, by_row[rows[0]], kinds, n_columns=1 if is_narrow(width) else 2)
    return figure


def _kinds(cells: Sequence[Cell]) -> list[str]:
    """Return the first values of all columns, which have a color each; one empty word if every column has its own."""
    kinds = unique(_kind(cell) for cell in cells)
    return kinds if len(kinds) < len(unique(cell.column for cell in cells)) else [""]


def _kind(cell: Cell) -> str:
    return cell.column.partition(", ")[0]


def _has_reference(cells: Sequence[Cell]) -> bool:
    metric = cells[0].metric
    return metric == "performance" or (metric == "return" and has_one_expert(cells))


def _panel(axes: Axes, cells: Sequence[Cell], kinds: Sequence[str]) -> None:
    """Plot the cells of one row of the table."""
    metric = cells[0].metric
    known = [cell.numbers for cell in cells if cell.numbers]
    if _has_reference(cells):
        reference = 1.0 if metric == "performance" else known[0]["expert_return"]
        axes.axvline(reference, color=COLORS["expert"], linestyle=DASHES["expert"], linewidth=0.8, zorder=1)
    if cells[0].bar is not None:
        axes.axvline(cells[0].bar, color=COLORS["random"], linestyle=":", linewidth=0.8, zorder=1)
    for y, cell in enumerate(cells):
        if metric not in cell.numbers:
            continue
        color, marker = STYLES[kinds.index(_kind(cell)) % len(STYLES) if len(kinds) > 1 else 0]
        ends = [cell.numbers[f"{metric}_{end}"] for end in ("low", "high")]
        axes.plot(ends, [y, y], color=color, alpha=0.6, linewidth=1.5, solid_capstyle="butt", zorder=2)
        seeds = list(cell.by_seed.values())
        if len(seeds) > 1:
            axes.scatter(seeds, [y - 0.3] * len(seeds), s=4, color=color, linewidth=0, zorder=3)  # above the mean
        axes.plot(cell.numbers[metric], y, marker, color=color, markersize=4, zorder=4)
    widen(axes)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.set_yticks(range(len(cells)), [cell.column for cell in cells])
    axes.set(ylim=(len(cells) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")


def _legend(figure: Figure, cells: Sequence[Cell], kinds: Sequence[str], n_columns: int) -> None:
    axes = figure.axes[0]
    for kind, (color, marker) in zip(kinds, STYLES, strict=False):
        mean = f"{kind}: mean over training seeds" if kind else "mean over training seeds"
        axes.plot([], [], marker, color=color, markersize=4, label=mean)
    covered = "seeds" if cells[0].metric == SELECTION else "seeds and episodes"
    axes.plot([], [], color="0.5", linewidth=1.5, label=f"95 % interval over {covered}")
    axes.plot([], [], "o", color="0.5", markersize=2, label="single training seeds")
    if _has_reference(cells):
        axes.plot([], [], color=COLORS["expert"], linestyle=DASHES["expert"], linewidth=0.8, label="expert")
    if cells[0].bar is not None:
        axes.plot([], [], color=COLORS["random"], linestyle=":", linewidth=0.8, label=f"bar ({cells[0].bar:g})")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=n_columns)
