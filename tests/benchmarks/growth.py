"""How speed and memory scale. `make bench only=growth` draws the figure into `outputs/bench/`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, StrMethodFormatter

from ilt.envs.spec import EnvSpec
from ilt.evaluation.figure_style import is_narrow, new_figure, write
from ilt.rollout import workers
from ilt.rollout.policies import Policy
from tests.benchmarks.measuring import Row, compare
from tests.benchmarks.memory import peak, write_episodes
from tests.benchmarks.rollouts import SIZES, acting, decoder, shipped_expert, student
from tests.benchmarks.training import loader, random_windows, training

FIGURE = Path("outputs/bench/growth.png")
CONTEXTS, LONG = (4, 8, 16, 32, 64), (128, 256, 512, 1024)
LABELS = 4096
"""Supervised steps of a training batch."""

Curves = dict[str, dict[float, Row]]
"""For each curve, the measurement at each x value."""

Panel = tuple[str, str, str, Curves]
"""Labels of the axes, their scale, and curves."""


def growth(spec: EnvSpec) -> list[Row]:
    """Measure labels per second, steps per second and megabytes, with one thread per process."""
    counts = {size: sum(p.numel() for p in decoder(size, 16).parameters()) for size in SIZES}
    policies = {"expert": shipped_expert(), "tiny, K = 8": student("tiny", 8), "small, K = 16": student("small", 16)}
    over_context: Curves = {size: {k: _training(size, k) for k in CONTEXTS + LONG} for size in ("tiny", "small")}
    over_size: Curves = {"K = 16": {counts[size]: _training(size, 16) for size in SIZES}}
    over_envs: Curves = {
        name: {n: _acting(name, spec, policy, max(2 * n, 4), n_envs=n) for n in (1, 4, 16, 64, 256)}
        for name, policy in policies.items()
    }
    acting_over_context: Curves = {
        name: {k: _acting(name, spec, student("tiny", k, recompute=recompute), 64) for k in contexts}
        for name, recompute, contexts in (
            ("tiny, cached", False, CONTEXTS + LONG),
            ("tiny, recomputed", True, CONTEXTS),
        )
    }
    panels = [
        ("training: context length K", "labels / s", "log", over_context),
        ("training: parameters", "labels / s", "log", over_size),
        ("training: demonstrations", "peak memory (MB)", "linear", memory_over_episodes()),
        ("acting: envs in one process", "steps / s", "log", over_envs),
        ("acting: context length K", "steps / s", "log", acting_over_context),
        ("acting: processes", "steps / s", "linear", acting_over_processes(spec)),
    ]
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    write(lambda width: _figure(panels, width), FIGURE)
    return [row for *_, curves in panels for curve in curves.values() for row in curve.values()]


def _figure(panels: Sequence[Panel], width: float) -> Figure:
    rows, columns = (6, 1) if is_narrow(width) else (2, 3)
    figure = new_figure(width, 2.1 * rows)
    for axes, (across, up, scale, curves) in zip(figure.subplots(rows, columns).flat, panels, strict=True):
        _draw(axes, curves, across, up, scale)
    return figure


def _draw(axes: Axes, curves: Curves, across: str, up: str, scale: str) -> None:
    """Draw a panel: medians, with the same `log` or `linear` scale in both directions."""
    for name, curve in curves.items():
        axes.plot(list(curve), [row.median for row in curve.values()], marker="o", label=name)
    axes.set(xscale=scale, yscale=scale, xlabel=across, ylabel=up)
    if scale == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        measured = sorted({x for curve in curves.values() for x in curve})
        axes.set_xticks(measured[:: 2 if len(measured) > 6 else 1])
    else:
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    thousands = EngFormatter(places=0, sep="")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x < 10_000 else thousands(x))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()
    if len(curves) > 1:
        axes.legend(handlelength=1.2, borderpad=0.2)


def acting_over_processes(spec: EnvSpec) -> Curves:
    """Measure acting with one process, one per core, and two per core."""
    counts = sorted({1, workers.cores(), 2 * workers.cores()})
    for n in counts:
        acting(spec, shipped_expert(), spec.seeds("test", 2 * n), n_processes=n)()  # starts the workers
    return {
        name: {n: _acting(name, spec, policy, 400, n_processes=n) for n in counts}
        for name, policy in {"expert": shipped_expert(), "small, K = 16": student("small", 16)}.items()
    }


def memory_over_episodes() -> Curves:
    """Measure the peak memory of training with K = 64, and the size of the flat arrays."""
    peaks, flat = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demonstrations.npz"
        for n in (100, 1_000, 3_000, 10_000):
            size = write_episodes(path, n)
            peaks[float(n)] = compare(f"train on {n:,} episodes", "MB", lambda: peak(path), repeats=1)
            flat[float(n)] = compare(f"flat arrays of {n:,} episodes", "MB", lambda size=size: size, repeats=1)
    return {"training, K = 64": peaks, "flat arrays": flat}


def _acting(name: str, spec: EnvSpec, policy: Policy, n_episodes: int, **how: int) -> Row:
    return compare(f"act: {name}", "steps/s", acting(spec, policy, spec.seeds("test", n_episodes), **how))


def _training(size: str, context_length: int) -> Row:
    batches = loader(random_windows(context_length), LABELS // context_length)
    measure = training(decoder(size, context_length), batches, 4)
    return compare(f"train {size}, K = {context_length}", "labels/s", measure)
