"""Figures of a search: values by trial, by key and over training, and which keys matter."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from ilt.evaluation.figure_style import COLORS, Draw, is_narrow, new_figure, steps_axis

VALUE = "mean return (selection seeds)"
WINNER = COLORS["expert"]


def figures_of_search(study: optuna.Study) -> dict[str, Draw]:
    """Return what draws each figure of a study with at least one complete trial, by name.

    Importances need trials of different values, and `reports` needs trials that reported returns.
    """
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    reported = [trial for trial in study.trials if trial.intermediate_values]
    draws: dict[str, Draw] = {"history": partial(_history, study, complete)}
    if len({trial.value for trial in complete}) > 1:
        draws["importances"] = partial(_importances, study)
    draws["slices"] = partial(_slices, study, complete)
    if reported:
        draws["reports"] = partial(_reports, study, reported)
    return draws


def _history(study: optuna.Study, complete: list[FrozenTrial], width: float) -> Figure:
    figure = new_figure(width, 2.4)
    axes = figure.subplots()
    numbers, values = [trial.number for trial in complete], [trial.value or 0.0 for trial in complete]
    axes.plot(numbers, values, "o", color=COLORS["student"], label="complete trial")
    axes.step(numbers, np.maximum.accumulate(values), where="post", color="0.3", label="best so far")
    _mark_winner(axes, study.best_trial.number, study.best_value)
    pruned = {t.number: t.value for t in study.trials if t.state == TrialState.PRUNED and t.value is not None}
    if pruned:
        axes.plot(list(pruned), list(pruned.values()), "x", color="0.5", label="pruned: last return")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title="Values of the trials", xlabel="trial", ylabel=VALUE)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _importances(study: optuna.Study, width: float) -> Figure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its default evaluator experimental
        importances = optuna.importance.get_param_importances(study)
    names, shares = list(importances)[::-1], list(importances.values())[::-1]
    figure = new_figure(width, 0.8 + 0.25 * len(names))
    axes = figure.subplots()
    bars = axes.barh(names, shares, color=COLORS["student"], height=0.6)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=2, fontsize=7)
    axes.grid(visible=False, axis="y")
    axes.set(title="Importance of the keys", xlabel="share of the variance of values", xlim=(0, 1.1))
    return figure


def _slices(study: optuna.Study, complete: list[FrozenTrial], width: float) -> Figure:
    names = sorted({name for trial in complete for name in trial.params})
    columns = 1 if is_narrow(width) else 2 if len(names) in (2, 4) else min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = new_figure(width, 0.5 + 1.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for name, axes in zip(names, panels.flat, strict=False):
        trials = [trial for trial in complete if name in trial.params]
        distribution, given = trials[0].distributions[name], [trial.params[name] for trial in trials]
        winner = study.best_trial.params.get(name)
        if isinstance(distribution, CategoricalDistribution):
            order = [*distribution.choices]
            axes.set_xticks(range(len(order)), [str(choice) for choice in order])
            axes.set_xlim(-0.5, len(order) - 0.5)
            given, winner = [order.index(value) for value in given], order.index(winner)
        elif getattr(distribution, "log", False):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=isinstance(distribution, IntDistribution)))
        axes.plot(given, [trial.value or 0.0 for trial in trials], "o", color=COLORS["student"], alpha=0.7)
        _mark_winner(axes, winner, study.best_value)
        axes.set(xlabel=name)
    for axes in panels[:, 0]:
        axes.set_ylabel("mean return" if rows > 1 or is_narrow(width) else VALUE)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
    return figure


def _reports(study: optuna.Study, reported: list[FrozenTrial], width: float) -> Figure:
    figure = new_figure(width, 2.4)
    axes = figure.subplots()
    styles: dict[str, dict[str, Any]] = {
        "trial": {"color": COLORS["student"], "alpha": 0.5, "linewidth": 0.9},
        "pruned trial": {"color": "0.5", "alpha": 0.7, "linewidth": 0.9, "linestyle": (0, (4, 2))},
        "winner": {"color": WINNER, "linewidth": 1.6, "zorder": 3},
    }
    drawn: set[str] = set()
    for trial in reported:
        kind = "pruned trial" if trial.state == TrialState.PRUNED else "trial"
        kind = "winner" if trial.number == study.best_trial.number else kind
        steps = sorted(trial.intermediate_values)
        label = "_" if kind in drawn else kind  # matplotlib leaves labels with an underscore out of legends
        axes.plot(steps, [trial.intermediate_values[s] for s in steps], marker="o", label=label, **styles[kind])
        drawn.add(kind)
    steps_axis(axes)
    axes.set(title="Returns reported by first seeds", ylabel=VALUE)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _mark_winner(axes: Axes, x: Any, value: float) -> None:
    axes.plot([x], [value], "D", color=WINNER, markersize=5, label="winner", zorder=3)
