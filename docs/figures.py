"""Draw the figures of the concept pages: `python docs/figures.py FOLDER` writes them as SVG, PDF and PNG.

One unit is a tenth of an inch. Figures are 6.8 inches wide with text of 7 to 9 points, the size of a two-column figure
in a paper. Colors follow Okabe and Ito (2008), so people with color vision deficiencies can tell them apart.
"""

import io
import json
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
GRAY, INK = "#7F7F7F", "#222222"
WIDTH = 68.0
RESULTS = Path(__file__).parent.parent / "outputs" / "reference" / "results.json"

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "text.color": INK,
    "svg.hashsalt": "ilt",
}


def canvas(height: float) -> tuple[Figure, Axes]:
    """Return a figure of the full width, and axes in tenths of an inch with the origin at the lower left."""
    figure = Figure(figsize=(WIDTH / 10, height / 10), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def tint(color: str, amount: float = 0.16) -> tuple[float, ...]:
    """Return a light tint of a color."""
    return tuple(1 - amount * (1 - part) for part in to_rgb(color))


def box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str, *, below: str = "", **style: Any
) -> None:
    """Draw a rounded box with centered text; `below` is a second, smaller line."""
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.6", facecolor=tint(color), edgecolor=color, lw=1.0
    )
    axes.add_patch(shape)
    middle = y + height / 2
    axes.text(x + width / 2, middle + (0.9 if below else 0), text, ha="center", va="center", **style)
    if below:
        axes.text(x + width / 2, middle - 1.1, below, ha="center", va="center", fontsize=7, color="#555555")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, color: str = INK, **style: Any) -> None:
    """Draw an arrow from start to end."""
    properties = {"arrowstyle": "-|>", "color": color, "lw": 1.0, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    axes.annotate("", end, start, arrowprops={**properties, **style})


def note(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write a note in small text."""
    axes.text(x, y, text, **{"fontsize": 7, "color": "#444444", "ha": "center", "va": "center", **style})


def data_flow() -> Figure:
    """Draw the flow of data from the environment to the report."""
    figure, axes = canvas(27)
    top, low, height = 17.5, 4.5, 4.6
    first = [
        (1, 10.4, "environment", "from Gymnasium", GRAY),
        (15.2, 10.4, "expert", "passes its gate", ORANGE),
        (29.4, 11.6, "demonstrations", "one episode per seed", ORANGE),
        (44.8, 9.0, "windows", "of K steps", BLUE),
        (57.6, 9.4, "training", "sequence model", BLUE),
    ]
    for x, width, name, below, color in first:
        box(axes, x, top, width, height, name, color, below=below)
    for (x, width, *_), (nearest, *_) in pairwise(first):
        arrow(axes, (x + width + 0.3, top + height / 2), (nearest - 0.3, top + height / 2))
    second = [
        (57.6, 9.4, "student", "a policy to keep", BLUE),
        (41.4, 11.4, "rollouts", "on held-out test seeds", GREEN),
        (25.0, 11.6, "statistics", "95 % intervals", GREEN),
        (8.8, 11.4, "report", "tables, figures, videos", GREEN),
    ]
    for x, width, name, below, color in second:
        box(axes, x, low, width, height, name, color, below=below)
    for (x, *_), (nearest, width, *_) in pairwise(second):
        arrow(axes, (x - 0.3, low + height / 2), (nearest + width + 0.3, low + height / 2))
    arrow(axes, (62.3, top - 0.3), (62.3, low + height + 0.3))
    for (x, y), end, style in [  # rounds of DAgger and DART
        ((60.0, low + height + 0.3), (60.0, 13.4), "-"),
        ((60.0, 13.4), (35.2, 13.4), "-"),
        ((35.2, 13.4), (35.2, top - 0.3), "-|>"),
    ]:
        arrow(axes, (x, y), end, color=ORANGE, ls="--", arrowstyle=style)
    note(axes, 47.6, 14.5, "rounds of DAgger or DART: more labels", color=INK)
    arrow(axes, (20.4, top - 0.3), (20.4, 11.9), arrowstyle="-")
    arrow(axes, (20.4, 11.9), (44.0, 11.9), arrowstyle="-")
    arrow(axes, (44.0, 11.9), (44.0, low + height + 0.3))
    note(axes, 31.6, 10.7, "expert and random policy, on the same seeds", color=INK)
    note(axes, 67.0, 24.4, "rollouts on selection seeds:\nlearning curve, best checkpoint", ha="right")
    note(axes, 34, 1.8, "Experts, demonstrations, rounds and rollouts are stored with a manifest, "
         "and found again by the hash of their config.")  # fmt: skip
    return figure


def attention_mask(n_steps: int, window_size: int) -> np.ndarray:
    """Return the mask (T, T), T = 2 n_steps − 1, of a layer that looks back `window_size` steps: queries × keys."""
    index = np.arange(2 * n_steps - 1)
    steps_back = index[:, None] // 2 - index // 2
    return (index <= index[:, None]) & (steps_back <= window_size)


def tokens() -> Figure:
    """Draw the layout of tokens, the outputs that are used, and the attention windows of two layers."""
    figure, axes = canvas(41.5)
    side, left, row = 6.2, 9.5, 31.0
    names = [("s", 0), ("a", 0), ("s", 1), ("a", 1), ("s", 2), ("a", 2), ("s", 3)]
    for i, (kind, t) in enumerate(names):
        x, color = left + i * (side + 1.2), BLUE if kind == "s" else ORANGE
        box(axes, x, row, side, 3.6, f"${kind}_{t}$", color, fontsize=9)
        if kind == "s":
            arrow(axes, (x + side / 2, row + 3.8), (x + side / 2, row + 6.2), color=BLUE)
            axes.text(x + side / 2, row + 7.4, rf"$P(a_{t} \mid \ldots)$", ha="center", va="center")
    note(axes, left - 1, row + 1.8, "tokens", ha="right")
    note(axes, left - 1, row + 7.4, "outputs", ha="right")
    note(
        axes, WIDTH / 2, row - 2.2,
        "Blue: the state at step t. Orange: the action that followed. The output at state t predicts action t;\n"
        "it depends on everything before it and on nothing after it. A step is two tokens, except the last.",
    )  # fmt: skip
    cell, bottom = 1.55, 6.4
    n_steps = 6
    labels = [f"${'sa'[i % 2]}_{i // 2}$" for i in range(2 * n_steps - 1)]
    panels = [
        (6.0, [2], "first layer: looks back 2 steps"),
        (27.6, [1], "second layer: looks back 1 step"),
        (49.2, [2, 1], "both: a window of K = 4 steps"),
    ]
    for x, window_sizes, title in panels:
        reach = np.eye(2 * n_steps - 1, dtype=bool)
        for size in window_sizes:
            reach = attention_mask(n_steps, size).astype(int) @ reach.astype(int) > 0
        for query, keys in enumerate(reach):
            for source, seen in enumerate(keys):
                color = (BLUE if source % 2 == 0 else ORANGE) if seen else "white"
                at = (x + source * cell, bottom + (2 * n_steps - 2 - query) * cell)
                face = tint(color, 0.75 if query % 2 == 0 else 0.35) if seen else "white"
                axes.add_patch(Rectangle(at, cell, cell, facecolor=face, edgecolor="#CCCCCC", lw=0.4))
        for i, label in enumerate(labels):
            note(axes, x - 0.9, bottom + (2 * n_steps - 1.5 - i) * cell, label)
            note(axes, x + (i + 0.5) * cell, bottom - 1.0, label)
        axes.text(x + (n_steps - 0.5) * cell, bottom + (2 * n_steps - 1) * cell + 1.4, title, ha="center", va="center")
    note(axes, 2.6, bottom + (n_steps - 0.5) * cell, "from (query)", rotation=90)
    note(axes, WIDTH / 2, bottom - 3.2, "to (key)")
    note(
        axes, WIDTH / 2, 1.2,
        "Strong colors: state tokens, whose outputs are used. The layers share K − 1 steps of look-back, so together "
        "they see exactly K steps.",
    )  # fmt: skip
    return figure


def alignment() -> Figure:
    """Draw the alignment of an episode's observations, actions and rewards, and their layout on disk."""
    figure, axes = canvas(35)
    n, pitch, left = 4, 11.9, 8.6
    for t in range(n + 1):
        x = left + t * pitch
        box(axes, x, 26.0, 10.0, 3.6, f"observation {t}", BLUE)
        if t < n:
            box(axes, x + 7.6, 19.6, 6.8, 3.6, f"action {t}", ORANGE)
            box(axes, x + 7.6, 14.6, 6.8, 3.2, f"reward {t}", GREEN)
            arrow(axes, (x + 7.6, 25.8), (x + 9.6, 23.4))
            arrow(axes, (x + 12.4, 23.4), (x + 14.4, 25.8), color=GRAY)
            arrow(axes, (x + 11.0, 19.4), (x + 11.0, 18.0), color=GRAY)
    for y, text in ((27.8, "seen"), (21.4, "chosen"), (16.2, "earned")):
        note(axes, 7.2, y, text, ha="right", fontsize=8)
    note(axes, left + 5.0, 30.9, "env.reset(seed)")
    note(axes, WIDTH - 1, 30.9, "terminated or truncated", ha="right")
    note(axes, WIDTH / 2, 33.4, "An episode of T = 4 steps has T + 1 observations", fontsize=9, color=INK)
    # storage
    axes.plot([3, WIDTH - 3], [12.6, 12.6], color="#CCCCCC", lw=0.8)
    note(axes, 34, 11.2, "On disk, episodes are laid end to end (4 and 2 steps):", color=INK, fontsize=8)
    cell = 5.2
    for y, name, counts, color in ((6.6, "observations", (5, 3), BLUE), (2.0, "actions, rewards", (4, 2), ORANGE)):
        note(axes, 13.6, y + 1.4, name, ha="right", fontsize=8)
        x = 15.0
        for episode, count in enumerate(counts):
            for t in range(count):
                face = tint(color, 0.16 if episode == 0 else 0.45)
                axes.add_patch(Rectangle((x, y), cell, 2.8, facecolor=face, edgecolor=color, lw=0.8))
                note(axes, x + cell / 2, y + 1.4, str(t), color=INK)
                x += cell
        note(axes, x + 1, y + 1.4, {"observations": "sum of T + 1 rows"}.get(name, "sum of T rows"), ha="left")
    return figure


def seed_blocks() -> Figure:
    """Draw the four blocks of seeds and their uses."""
    figure, axes = canvas(27)
    width, blocks = 15.2, [
        ("demonstrations", "0 to 9,999,999", ORANGE,
         ["training of experts", "demonstrations", "rounds of DAgger, DART"]),
        ("validation", "10,000,000 to 10,999,999", PURPLE, ["validation loss", "action accuracy"]),
        ("selection", "20,000,000 to 20,999,999", BLUE,
         ["the expert’s gate", "learning curve", "checkpoints", "searches"]),
        ("test", "30,000,000 to 30,999,999", GREEN, ["reported scores", "comparisons", "no selection"]),
    ]  # fmt: skip
    for i, (name, seeds, color, uses) in enumerate(blocks):
        x = 2.0 + 16.4 * i
        box(axes, x, 16.2, width, 4.2, name, color, fontsize=9)
        note(axes, x + width / 2, 15.0, seeds)
        for j, use in enumerate(uses):
            axes.text(x + 0.3, 12.6 - 2.2 * j, f"• {use}", ha="left", va="top", fontsize=7.5)
    axes.text(
        WIDTH / 2,
        24.2,
        "A seed determines an episode, and serves one purpose",
        ha="center",
        va="center",
        fontsize=9,
    )
    arrow(axes, (2.0, 21.8), (65.5, 21.8), color=GRAY)
    note(axes, 64.5, 22.8, "seed given to env.reset", ha="right")
    note(axes, WIDTH / 2, 1.4, "Lengths are not to scale. A range of seeds that leaves its block is refused.")
    return figure


def artifacts() -> Figure:
    """Draw what the hash of each artifact is computed from."""
    figure, axes = canvas(40)
    axes.text(WIDTH / 2, 38.3, "A hash identifies what a result was made from", ha="center", va="center", fontsize=9)
    columns = [
        (2.0, "expert", "experts/ppo-091d97b2b3", ORANGE,
         ["environment: id, arguments,\nwrappers", "seed blocks that it uses", "component and version",
          "settings that differ\nfrom their defaults"]),
        (24.0, "demonstrations", "demos/ppo-…", ORANGE,
         ["environment", "the expert’s folder name", "number of episodes, filters", "most likely actions\nor samples"]),
        (46.0, "training", "runs/lunar_lander-tiny-…-s0-…", BLUE,
         ["environment, expert,\ndemonstrations (configs)", "windows, model, head,\noptimizer, trainer",
          "imitation algorithm", "training seed"]),
    ]  # fmt: skip
    for x, name, folder, color, parts in columns:
        box(axes, x, 18.0, 20.0, 16.4, "", color)
        axes.text(x + 10, 32.8, name, ha="center", va="center", fontweight="bold")
        note(axes, x + 10, 31.0, "canonical config")
        y = 29.4
        for part in parts:
            axes.text(
                x + 1.2, y, f"• {part}".replace("\n", "\n   "), ha="left", va="top", fontsize=7.5, linespacing=1.15
            )
            y -= 1.45 * (1 + part.count("\n")) + 0.7
        arrow(axes, (x + 10, 17.8), (x + 10, 13.8))
        note(axes, x + 11, 15.8, "SHA-256, ten digits", ha="left")
        box(axes, x, 9.6, 20.0, 4.0, folder, color, fontsize=7.5, family="DejaVu Sans Mono")
        note(axes, x + 10, 8.3, "files + manifest.json" if name != "training" else "weights, results.json, figures")
    for x in (22.0, 44.0):
        arrow(axes, (x, 11.6), (x + 1.0, 11.6), arrowstyle="-")
        arrow(axes, (x + 1.0, 11.6), (x + 1.0, 26.0), arrowstyle="-")
        arrow(axes, (x + 1.0, 26.0), (x + 1.9, 26.0))
    axes.plot([2, 66], [6.6, 6.6], color="#CCCCCC", lw=0.8)
    note(
        axes,
        34,
        4.9,
        "Not in a hash: values equal to their defaults, names, the gate, loggers, processes, where the code lives.",
        color=INK,
    )
    note(
        axes,
        34,
        2.9,
        "Found: reused. Missing: made under a lock, and renamed when complete. Damaged: an error names the file.",
        color=INK,
    )
    return figure  # fmt: skip


def privileged_teachers() -> Figure:
    """Draw a teacher that sees the whole state, and a student that must infer the rest from history."""
    figure, axes = canvas(31)
    box(axes, 2, 8.4, 13, 14.0, "", GRAY)
    axes.text(8.5, 20.6, "environment", ha="center", va="center", fontweight="bold")
    box(axes, 3.2, 15.2, 10.6, 3.8, "observation", BLUE)
    box(axes, 3.2, 9.8, 10.6, 3.8, "privileged", ORANGE)
    note(axes, 8.5, 24.2, "new physics in every episode\n(domain randomization)")
    box(axes, 28, 18.6, 15, 5.0, "teacher", ORANGE, below="sees the full state", fontsize=9)
    box(axes, 28, 7.8, 15, 5.0, "student", BLUE, below="sees a history (POMDP)", fontsize=9)
    arrow(axes, (14.0, 18.0), (27.7, 21.8), color=BLUE)
    arrow(axes, (14.0, 12.2), (27.7, 20.2), color=ORANGE)
    for start, end in ((17.2, 11.6), (16.4, 10.3), (15.6, 9.0)):
        arrow(axes, (14.0, start), (27.7, end), color=BLUE)
    note(axes, 20.6, 7.6, "last K observations\nand its own actions")
    box(axes, 53, 18.6, 13, 5.0, "label", ORANGE, below="the teacher’s action")
    box(axes, 53, 7.8, 13, 5.0, "prediction", BLUE, below="P(action | history)")
    arrow(axes, (43.3, 21.1), (52.7, 21.1), color=ORANGE)
    arrow(axes, (43.3, 10.3), (52.7, 10.3), color=BLUE)
    arrow(axes, (59.5, 18.3), (59.5, 13.1), arrowstyle="<|-|>")
    axes.text(60.5, 15.7, "loss", ha="left", va="center")
    arrow(axes, (35.5, 7.5), (35.5, 4.4), color=BLUE, ls="--", arrowstyle="-")
    arrow(axes, (35.5, 4.4), (8.5, 4.4), color=BLUE, ls="--", arrowstyle="-")
    arrow(axes, (8.5, 4.4), (8.5, 8.1), color=BLUE, ls="--")
    note(axes, 37.0, 5.3, "DAgger: the student acts, and the teacher labels what it visits", ha="left")
    axes.text(WIDTH / 2, 28.6, "Teacher–student distillation with privileged information", ha="center", fontsize=9)
    note(
        axes,
        WIDTH / 2,
        1.8,
        "After training, the student acts alone and infers what it cannot see from past steps (in-context adaptation).",
    )
    return figure  # fmt: skip


def cached_attention() -> Figure:
    """Draw why cached keys stay valid in banded attention, but not if every layer sees the whole window."""
    figure, axes = canvas(39)
    panels = [
        (3.0, "full attention: every layer sees K = 4 steps", 3, 3, VERMILION),
        (37.0, "banded attention: layers look back 2 steps and 1", 2, 1, BLUE),
    ]
    pitch, rows, now = 4.3, (10.5, 18.5, 26.5), 6
    for left, title, low, high, color in panels:

        def at(step: int, row: int, left: float = left) -> tuple[float, float]:
            return left + 1.6 + step * pitch, rows[row]

        axes.text(left + 14, 36.4, title, ha="center", va="center", fontsize=9)
        inside = {(2, now)} | {(1, s) for s in range(now - high, now + 1)}
        reach = {s for _, t in [each for each in inside if each[0] == 1] for s in range(max(t - low, 0), t + 1)}
        inside |= {(0, s) for s in reach}
        first = now - 3  # of the window of K = 4 steps
        axes.add_patch(
            Rectangle((at(first, 0)[0] - 1.9, 8.2), 3 * pitch + 3.8, 21.4, facecolor="#F3F3F3", edgecolor="none")
        )
        for row, source, target in ((0, low, 1), (1, high, 2)):
            for step in range(now + 1):
                for back in range(source + 1):
                    if step - back < 0:
                        continue
                    live = (target, step) in inside and (row, step - back) in inside
                    outside = live and step - back < first
                    if live:
                        axes.plot(
                            *zip(at(step - back, row), at(step, target), strict=True),
                            color=VERMILION if outside else color if color == BLUE else GRAY,
                            lw=1.1 if outside else 0.9, ls="--" if outside else "-", zorder=1,
                        )  # fmt: skip
        for row in range(3):
            for step in range(now + 1):
                used = (row, step) in inside
                bad = used and step < first
                edge = VERMILION if bad else BLUE if used else "#BBBBBB"
                axes.plot(*at(step, row), "o", markersize=8, markeredgecolor=edge, zorder=2,
                          markerfacecolor="white" if not used else tint(edge, 0.55))  # fmt: skip
        for step in range(now + 1):
            note(axes, at(step, 0)[0], 7.2, str(step) if step < now else "now")
        note(axes, at(first, 0)[0] + 1.5 * pitch, 30.6, "window")
        arrow(axes, (at(now, 2)[0], 27.8), (at(now, 2)[0], 31.8), color=INK)
        note(axes, at(now, 2)[0], 33.0, "next action")
    for row, name in enumerate(("tokens", "layer 1", "layer 2")):
        note(axes, 34.6, rows[row], name)
    note(axes, 17, 5.2, "step", va="center")
    note(axes, 51, 5.2, "step", va="center")
    note(
        axes,
        17,
        2.8,
        "Cached keys depend on steps that have left the\nwindow, so they would have to be recomputed.",
        color=VERMILION,
    )
    note(
        axes,
        51,
        2.8,
        "The prediction depends on exactly K steps, so cached\nkeys stay valid. Rotary positions encode distances.",
        color=BLUE,
    )
    return figure  # fmt: skip


def evaluation() -> Figure:
    """Draw how policies are compared on the same seeds, with the reference results of the default run."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    figure, axes = canvas(31)
    axes.text(15, 28.6, "the same seeds for every policy", ha="center", va="center", fontsize=9)
    policies = [("student", BLUE), ("expert", ORANGE), ("random", GRAY)]
    seeds = ["30,000,000", "30,000,001", "…", "30,000,999"]
    for i, seed in enumerate(seeds):
        y = 21.5 - 4.0 * i
        note(axes, 8.6, y, f"seed {seed}" if seed != "…" else seed, ha="right")
        for j, (_, color) in enumerate(policies):
            x = 9.6 + 5.4 * j
            if seed == "…":
                note(axes, x + 2.2, y, "…")
                continue
            subscript = {"30,000,000": "1", "30,000,001": "2"}.get(seed, "n")
            box(axes, x, y - 1.5, 4.4, 3.0, f"$R_{{{subscript}}}$", color)
    for j, (name, _) in enumerate(policies):
        note(axes, 9.6 + 5.4 * j + 2.2, 24.6, name, fontsize=8)
    note(
        axes, 15, 5.4, "mean return of each policy, and\nmean of the differences, seed by seed", fontsize=7.5, color=INK
    )
    note(axes, 15, 2.2, "intervals: bootstrap over seeds of one run,\nStudent’s t over training seeds of several runs")

    def panel(position: Sequence[float], rows: Sequence[tuple[str, float, Sequence[float], str]], number: str) -> Axes:
        plot = figure.add_axes(tuple(position))
        for i, (name, mean, (low, high), color) in enumerate(reversed(rows)):
            plot.plot([low, high], [i, i], color=color, lw=2.5, solid_capstyle="butt")
            plot.plot(mean, i, "o", color=color, markersize=5)
            plot.annotate(
                number.format(mean).replace("-", "−"),
                (mean, i),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
            plot.text(-0.03, i, name, transform=plot.get_yaxis_transform(), ha="right", va="center", fontsize=8)
        plot.set(ylim=(-0.6, len(rows) - 0.3), yticks=[])
        plot.tick_params(labelsize=7)
        plot.spines[["top", "right", "left"]].set_visible(False)
        plot.grid(axis="x", alpha=0.3)
        return plot

    means, intervals = {"student": results["return_mean"]}, {"student": results["return_mean_interval"]}
    for name in ("expert", "random"):
        means[name] = results["policies"][name]["return_mean"]
        intervals[name] = results["policies"][name]["return_mean_interval"]
    rows = [(name, means[name], intervals[name], color) for name, color in policies]
    returns = panel((0.61, 0.60, 0.36, 0.31), rows, "{:.1f}")
    returns.set(xlim=(-250, 350), xticks=range(-200, 301, 100))
    returns.set_xlabel(
        f"mean return over {results['n_episodes']:,} test seeds\n(intervals are narrower than the dots)", fontsize=7.5
    )
    gap = results["difference_to_expert"]
    apart = np.hypot(*(np.ptp(intervals[name]) / 2 for name in ("student", "expert")))
    rows = [
        ("paired by seed", gap["mean"], gap["interval"], BLUE),
        ("if unpaired", gap["mean"], (gap["mean"] - apart, gap["mean"] + apart), GRAY),
    ]
    differences = panel((0.61, 0.14, 0.36, 0.20), rows, "{:+.1f}")
    differences.set(xlim=(-5, 5), xticks=range(-4, 5, 2))
    differences.axvline(0, color=INK, lw=0.8, ls=":")
    differences.set_xlabel("student minus expert", fontsize=8)
    axes.text(52.5, 28.9, "default run, 95 % confidence intervals", ha="center", va="center", fontsize=9)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "data-flow": data_flow,
    "tokens": tokens,
    "alignment": alignment,
    "seed-blocks": seed_blocks,
    "artifacts": artifacts,
    "privileged-teachers": privileged_teachers,
    "cached-attention": cached_attention,
    "evaluation": evaluation,
}


def draw(name: str, kind: str = "svg") -> bytes:
    """Return a figure as the content of a file: `svg`, `pdf` or `png`."""
    with mpl.rc_context(STYLE):
        file = io.BytesIO()
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        FIGURES[name]().savefig(file, format=kind, dpi=200, metadata=metadata)
    return file.getvalue()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        for kind in ("svg", "pdf", "png"):
            (folder / f"{name}.{kind}").write_bytes(draw(name, kind))
