"""A picture of a sweep: returns by what was swept."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ilt.studies.sweep_tables import SELECTION, TEST, Job, group_rows, numbers_of, values_of

COLORS = {SELECTION: "#1f77b4", TEST: "#7f7f7f"}


def sweep_figure(jobs: Sequence[Job], path: Path, *, title: str) -> None:
    """Selection-seed and test return of each group, the best above: its mean and interval, and its jobs as dots.

    ValueError if no job is finished.
    """
    groups = [row for row in group_rows(jobs) if row.numbers]
    if not groups:
        raise ValueError("a figure needs at least one finished job")
    keys = list(groups[0].swept)
    heights = {tuple(row.swept.values()): -float(i) for i, row in enumerate(groups)}
    finished = [job for job in jobs if job.results is not None]
    figure = Figure(figsize=(9, 2.2 + 0.45 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for name, offset in ((SELECTION, 0.14), (TEST, -0.14)):
        color = COLORS[name]
        for row in groups:
            if f"{name}_low" in row.numbers:
                y = heights[tuple(row.swept.values())] + offset
                axes.plot([row.numbers[f"{name}_low"], row.numbers[f"{name}_high"]], [y, y], color=color, linewidth=2)
        at = [heights[tuple(values_of(job, keys).values())] + offset + 0.1 for job in finished]  # above the bar
        axes.scatter([numbers_of(job.results)[name] for job in finished], at, s=12, color=color, alpha=0.5)
        means, at = [row.numbers[name] for row in groups], [height + offset for height in heights.values()]
        axes.scatter(means, at, s=45, color=color, label=f"{name.removesuffix('_return')} seeds", zorder=3)
    labels = [", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in row.swept.items()) for row in groups]
    axes.set_yticks(list(heights.values()), [label or "all jobs" for label in labels])
    axes.set(xlabel="mean return (dots: jobs; bars: 95 % interval over seeds)", ylim=(0.6 - len(groups), 0.6))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    axes.set_title(title, loc="left", fontsize=10)
    FigureCanvasAgg(figure).print_png(str(path))
