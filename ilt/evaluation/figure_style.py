"""The style of matplotlib figures: one or two columns of a paper wide, and colorblind-safe."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from ilt.tracking.store import replacing

ONE_COLUMN, TWO_COLUMNS = 3.3, 6.8
"""Widths of a figure in inches."""

FORMATS = ("png", "pdf", "svg")

COLORS = {"student": "#0072b2", "expert": "#d55e00", "random": "#7f7f7f", "control": "#cc79a7", "training": "#b3b3b3"}
"""The palette of Okabe and Ito (2008), with two grays. A policy has the same color in all figures."""

DASHES = {"student": "-", "expert": "--", "random": "-"}
"""The expert is dashed, so that the student is visible where they coincide."""

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "savefig.dpi": 300,
    "text.parse_math": False,  # labels come from configs
    "pdf.fonttype": 42,  # embed TrueType fonts, as publishers require
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "ilt",  # the same figure gives the same file
}

_UNDATED: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every glyph

Draw = Callable[[float], Figure]
"""Draws a figure of a given width in inches."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, with constrained layout."""
    return Figure(figsize=(width, height), layout="constrained")


def is_narrow(width: float) -> bool:
    """Return whether a width in inches is a single column's, so that panels must be stacked."""
    return width < (ONE_COLUMN + TWO_COLUMNS) / 2


def write(draw: Draw, path: Path, *, width: float = TWO_COLUMNS) -> None:
    """Draw a figure of a width in inches to a PNG, PDF or SVG file. The same figure gives the same bytes."""
    with matplotlib.rc_context(STYLE):
        _save(draw(width), path)


def write_all(draws: Mapping[str, Draw], folder: Path, widths: Sequence[float]) -> Iterator[Path]:
    """Draw figures at each width in inches, in every format. Yield the files, such as `folder/NAME-3.3in.pdf`."""
    for name, draw in draws.items():
        for width in widths:
            with matplotlib.rc_context(STYLE):
                figure = draw(width)
                for suffix in FORMATS:
                    path = folder / f"{name}-{width:g}in.{suffix}"
                    _save(figure, path)
                    figure.set_layout_engine("none")  # keep the layout for the other formats
                    yield path


def _save(figure: Figure, path: Path) -> None:
    suffix = path.suffix.removeprefix(".")
    with replacing(path) as new:
        figure.savefig(new, format=suffix, metadata=_UNDATED[suffix])


def steps_axis(axes: Axes) -> None:
    """Label the horizontal axis with a few training steps, such as 500, 1k and 2M."""
    axes.set(xlabel="training step", xlim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def legend_below(axes: Axes) -> None:
    """Put the legend below the axes and their label, where it covers no data."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), borderaxespad=4.5, labelspacing=0.3)


def widen(axes: Axes) -> None:
    """Make the horizontal axis span at least a tenth of its largest value, so that it does not magnify noise."""
    low, high = axes.get_xlim()
    missing = max(max(abs(low), abs(high)) / 10 - (high - low), 0.0) / 2
    axes.set_xlim(low - missing, high + missing)
