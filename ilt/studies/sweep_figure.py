"""The figure of a sweep: returns by the values of the swept keys."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ilt.studies.sweep_tables import SELECTION, TEST, Job, Row, group_rows, numbers_of, values_of

COLORS = {SELECTION: "#1f77b4", TEST: "#7f7f7f"}


def sweep_figure(jobs: Sequence[Job], path: Path, *, title: str) -> None:
    """Plot selection and test return of each group, best first: mean, interval, and jobs as dots.

    Each environment has its own panel. ValueError if no job is finished.
    """
    by_env: dict[str, list[Row]] = {}
    for row in group_rows(jobs):
        if row.numbers:
            by_env.setdefault(row.env, []).append(row)
    if not by_env:
        raise ValueError("a figure needs at least one finished job")
    finished = [job for job in jobs if job.results is not None]
    n_groups = [len(groups) for groups in by_env.values()]
    figure = Figure(figsize=(9, 1.0 + 1.2 * len(by_env) + 0.45 * sum(n_groups)), layout="constrained")
    panels = figure.subplots(len(by_env), squeeze=False, height_ratios=[1 + n for n in n_groups])[:, 0]
    for axes, (env, groups) in zip(panels, by_env.items(), strict=True):
        _panel(axes, groups, finished)
        axes.set_title(env if len(by_env) > 1 else title, loc="left", fontsize=10)
    if len(by_env) > 1:
        figure.suptitle(title, fontsize=10)
    panels[-1].set(xlabel="mean return (dots: jobs; bars: 95 % interval over seeds)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    figure.savefig(path, format="png")


def _panel(axes: Axes, groups: Sequence[Row], finished: Sequence[Job]) -> None:
    """Plot the groups of one environment."""
    keys = list(groups[0].swept)
    heights = {tuple(row.swept.values()): -float(i) for i, row in enumerate(groups)}
    placed = [(job, heights.get(tuple(values_of(job, keys).values()))) for job in finished]
    jobs = [(job, height) for job, height in placed if height is not None]
    for name, offset in ((SELECTION, 0.14), (TEST, -0.14)):
        color = COLORS[name]
        for row in groups:
            if f"{name}_low" in row.numbers:
                y = heights[tuple(row.swept.values())] + offset
                axes.plot([row.numbers[f"{name}_low"], row.numbers[f"{name}_high"]], [y, y], color=color, linewidth=2)
        at = [height + offset + 0.1 for _, height in jobs]  # above the bar
        axes.scatter([numbers_of(job.results)[name] for job, _ in jobs], at, s=12, color=color, alpha=0.5)
        means, at = [row.numbers[name] for row in groups], [height + offset for height in heights.values()]
        axes.scatter(means, at, s=45, color=color, label=f"{name.removesuffix('_return')} seeds", zorder=3)
    labels = [", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in row.swept.items()) for row in groups]
    axes.set_yticks(list(heights.values()), [label or "all jobs" for label in labels])
    axes.set(ylim=(0.6 - len(groups), 0.6))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
