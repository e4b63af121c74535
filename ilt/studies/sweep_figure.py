"""The figure of a sweep: returns by the values of the swept keys."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ilt.evaluation.figure_style import is_narrow, new_figure, widen
from ilt.evaluation.tables import VALIDATION
from ilt.studies.sweep_tables import LOSS, SELECTION, TEST, Job, Row, group_rows, numbers_of, values_of

SEEN = {SELECTION: "selection seeds", TEST: "test seeds", LOSS: "validation demonstrations"}
COLORS = {SELECTION: "#56b4e9", TEST: "#0072b2", LOSS: "#0072b2"}


def sweep_figure(jobs: Sequence[Job], width: float) -> Figure:
    """Plot each group's selection and test return, best first: mean, interval, and jobs as dots.

    Without an environment, plot the validation loss. Each environment has its own panel. `width` is in inches. Raise
    ValueError if no job is finished.
    """
    by_env: dict[str, list[Row]] = {}
    for row in group_rows(jobs):
        if row.numbers:
            by_env.setdefault(row.env, []).append(row)
    if not by_env:
        raise ValueError("a figure needs at least one finished job")
    finished = [job for job in jobs if job.results is not None]
    separator = "\n" if is_narrow(width) else ", "
    n_lines = [len(groups) * (max(len(groups[0].swept), 1) if is_narrow(width) else 1) for groups in by_env.values()]
    n_lines = [max(n, 2 * len(groups)) for n, groups in zip(n_lines, by_env.values(), strict=True)]
    figure = new_figure(width, (1.0 if is_narrow(width) else 0.6) + 0.5 * len(by_env) + 0.15 * sum(n_lines))
    panels = figure.subplots(len(by_env), squeeze=False, height_ratios=[1 + n for n in n_lines])[:, 0]
    for axes, (env, groups) in zip(panels, by_env.items(), strict=True):
        _panel(axes, groups, finished, separator)
        if len(by_env) > 1:
            axes.set_title(env)
        axes.set(xlabel=VALIDATION[LOSS] if LOSS in groups[0].numbers else "mean return" if axes is panels[-1] else "")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if is_narrow(width) else 2)
    return figure


def _panel(axes: Axes, groups: Sequence[Row], finished: Sequence[Job], separator: str) -> None:
    """Plot one environment's groups."""
    keys = list(groups[0].swept)
    heights = {tuple(row.swept.values()): -float(i) for i, row in enumerate(groups)}
    placed = [(job, heights.get(tuple(values_of(job, keys).values()))) for job in finished]
    jobs = [(job, height) for job, height in placed if height is not None]
    series = {LOSS: 0.0} if LOSS in groups[0].numbers else {SELECTION: 0.16, TEST: -0.16}
    for name, offset in series.items():
        color = COLORS[name]
        for row in groups:
            if f"{name}_low" in row.numbers:
                y = heights[tuple(row.swept.values())] + offset
                axes.plot([row.numbers[f"{name}_low"], row.numbers[f"{name}_high"]], [y, y], color=color, alpha=0.5)
        at = [height + offset + 0.13 for _, height in jobs]  # above the bar
        if len(jobs) > len(groups):
            axes.scatter([numbers_of(job.results)[name] for job, _ in jobs], at, s=4, color=color, linewidth=0)
        means, at = [row.numbers[name] for row in groups], [height + offset for height in heights.values()]
        marker = "o" if name == SELECTION else "s"
        axes.plot(means, at, marker, color=color, markersize=4, label=f"mean on {SEEN[name]}", zorder=3)
    if any(f"{TEST}_low" in row.numbers for row in groups):
        axes.plot([], [], color="0.5", label="95 % interval (Student's t over training seeds)")
        axes.plot([], [], "o", color="0.5", markersize=2, label="single runs")
    widen(axes)
    labels = [separator.join(_in_words(key, value) for key, value in row.swept.items()) for row in groups]
    axes.set_yticks(list(heights.values()), [label or "all runs" for label in labels])
    axes.set(ylim=(0.6 - len(groups), 0.6))
    axes.grid(visible=False, axis="y")


def _in_words(key: str, value: str) -> str:
    """Name a value of a swept key, such as `context length 8`. An environment's name stands alone."""
    return value if key == "env" else f"{key.rsplit('.', 1)[-1].replace('_', ' ')} {value}"
