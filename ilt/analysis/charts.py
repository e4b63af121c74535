"""Charts as inline SVG without scripts, in the colors of the page's light or dark theme."""

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

MOST_SERIES = 6
"""Maximum number of series in a chart; the page's style defines a color for each."""

MOST_POINTS = 2000
"""Maximum number of points in a scatter chart; more would only make the page larger."""

_VARIABLES = {
    "#010100": "--ink",
    "#010101": "--line",
    "#010102": "--student",
    "#010103": "--expert",
    "#010104": "--random",
    **{f"#0102{i:02x}": f"--series-{i}" for i in range(MOST_SERIES)},
}
"""Placeholder colors, and the CSS variable that replaces each."""

_COLOR = {variable: color for color, variable in _VARIABLES.items()}
# so that lines differ in more than color; the page's style has the same dashes for its legends
_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (4, 2, 1, 2)), (0, (1, 1)), (0, (8, 2)), (0, (1, 3)))

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "ilt",  # the same figure gives the same file
    "text.parse_math": False,  # labels come from configs
    "font.size": 11,
    "text.color": _COLOR["--ink"],
    "axes.edgecolor": _COLOR["--ink"],
    "axes.labelcolor": _COLOR["--ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _COLOR["--line"],
    "xtick.color": _COLOR["--ink"],
    "ytick.color": _COLOR["--ink"],
    "lines.linewidth": 1.8,
}


class Band(NamedTuple):
    """A metric over training, in several runs.

    Attributes:
        steps: (n,) training steps at which all runs logged it.
        values: (runs, n); `values[:, i]` was logged at `steps[i]`.
    """

    steps: np.ndarray
    values: np.ndarray


def band(curves: Sequence[Mapping[int, float]]) -> Band | None:
    """Return the curves' values at the steps that all of them share, or None if they share none."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not steps:
        return None
    return Band(np.array(steps), np.array([[curve[step] for step in steps] for curve in curves]))


def curves_chart(bands: Mapping[str, Band | None], *, ylabel: str, log: bool = False) -> str:
    """Plot at most `MOST_SERIES` bands, by label: the mean over runs as a line, the range over runs as an area.

    A label without data still takes a color, so that a label has the same color in all charts.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        for i, drawn in enumerate(bands.values()):
            if drawn is None:
                continue
            steps, values = drawn
            color = _COLOR[f"--series-{i}"]
            marker: dict[str, Any] = {"marker": "o", "markersize": 3.0} if len(steps) < 30 else {}
            axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)
            axes.plot(steps, values.mean(axis=0), color=color, linestyle=_DASHES[i], **marker)
        axes.set(xlabel="training step", ylabel=ylabel)
        if log and _is_wide([drawn.values for drawn in bands.values() if drawn is not None]):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        return _inline(figure)


def histogram_chart(returns: Mapping[str, np.ndarray], *, success_return: float | None) -> str:
    """Plot histograms of returns (E,) by policy, of which `student` is solid; clipped at the lowest 0.5 % quantile."""
    low, high = _span(list(returns.values()))
    bins = np.linspace(low, high, 48).tolist()
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        for name, values in returns.items():
            color = _COLOR[f"--{name}"]
            clipped = np.clip(values, low, high)
            axes.hist(clipped, bins=bins, histtype="stepfilled", color=color, alpha=0.25)
            axes.hist(
                clipped,
                bins=bins,
                histtype="step",
                color=color,
                linestyle="-" if name == "student" else "--",
            )
        if success_return is not None:
            axes.axvline(success_return, color=_COLOR["--ink"], linestyle=":", linewidth=1)
        axes.set(xlabel="return of an episode", ylabel="episodes")
        return _inline(figure)


def cumulative_chart(returns: Mapping[str, np.ndarray], expert: np.ndarray | None) -> str:
    """Plot the cumulative distributions of the returns (E,) of up to `MOST_SERIES` students and any expert."""
    levels = np.linspace(0, 1, 201)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        if expert is not None:
            axes.plot(np.quantile(expert, levels), levels, color=_COLOR["--ink"], linewidth=3, alpha=0.35)
        for i, values in enumerate(returns.values()):
            axes.plot(np.quantile(values, levels), levels, color=_COLOR[f"--series-{i}"], linestyle=_DASHES[i])
        low, high = _span([*([] if expert is None else [expert]), *returns.values()])
        axes.set(xlabel="return of an episode", ylabel="share at or below", xlim=(low, high), ylim=(0, 1.01))
        return _inline(figure)


def scatter_chart(expert: np.ndarray, student: np.ndarray) -> str:
    """Plot the student's returns (E,) over the expert's, one point per test seed, with the line of equal returns."""
    expert, student = expert[:MOST_POINTS], student[:MOST_POINTS]
    both = np.concatenate([expert, student])
    margin = 0.04 * (np.ptp(both) or 1.0)
    limits = (both.min() - margin, both.max() + margin)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        axes.plot(limits, limits, color=_COLOR["--ink"], linewidth=1, linestyle="--")
        axes.plot(expert, student, "o", color=_COLOR["--student"], markersize=3.5, alpha=0.5, markeredgewidth=0)
        axes.set(xlabel="expert's return", ylabel="student's return", xlim=limits, ylim=limits, aspect="equal")
        return _inline(figure)


def sparkline(drawn: Band, low: float, high: float) -> str:
    """Plot a metric at two or more training steps as a line with a band, from `low` (bottom) to `high` (top)."""
    x = 100 * (drawn.steps - drawn.steps[0]) / np.ptp(drawn.steps)
    means, lowest, highest = (
        [f"{at:.1f},{24 * (high - value) / max(high - low, 1e-9):.1f}" for at, value in zip(x, values, strict=True)]
        for values in (drawn.values.mean(axis=0), drawn.values.min(axis=0), drawn.values.max(axis=0))
    )
    return (
        '<svg viewBox="0 0 100 24" preserveAspectRatio="none">'
        f'<polygon points="{" ".join(lowest + highest[::-1])}"/><polyline points="{" ".join(means)}"/></svg>'
    )


def _is_wide(values: Sequence[np.ndarray]) -> bool:
    """Return whether values are positive and span more than a decade, so that a log axis gets several ticks."""
    low, high = min(each.min() for each in values), max(each.max() for each in values)
    return bool(0 < 10 * low < high)


def _span(returns: Sequence[np.ndarray]) -> tuple[float, float]:
    low, high = min(np.percentile(values, 0.5) for values in returns), max(values.max() for values in returns)
    return (float(low) - 1.0, float(high) + 1.0) if low == high else (float(low), float(high))


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    for patch in (figure.patch, axes.patch):
        patch.set_visible(False)
    return figure, axes


def _inline(figure: Figure) -> str:
    """Return the figure as an SVG element without metadata or URLs, with unique ids and CSS variables as colors."""
    written = io.StringIO()
    FigureCanvasSVG(figure).print_svg(written)
    svg = re.sub(r"<metadata>.*?</metadata>", "", written.getvalue(), flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg[svg.index("<svg") :])
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg)
    prefix = f"c{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'xlink:href="#', f'href="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}")
    return re.sub("|".join(_VARIABLES), lambda match: f"var({_VARIABLES[match[0]]})", svg)
