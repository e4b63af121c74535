"""What a study has found, in sentences: the best students, those indistinguishable from them, and the bar."""

from collections.abc import Sequence

import numpy as np

from ilt.evaluation.statistics import difference_interval, rank_correlation
from ilt.studies.plan import Plan
from ilt.studies.study_tables import METRICS, MISSED, SELECTION, Cell, shown, unique


def findings(plan: Plan, cells: Sequence[Cell]) -> list[str]:
    """Return three sentences: the best student of each row, those indistinguishable from it, and the lowest seed.

    A study with `loss_and_return` has a fourth one.

    Two students differ if the 95 % interval of the difference of their returns, paired by test episode,
    excludes zero; see `difference_interval`. Without a finished run there are no sentences, and the second one needs
    a row with two students that were scored on the same test episodes, and a metric of these episodes.
    """
    known = [cell for cell in cells if cell.metric in cell.numbers]
    if not known:
        return []
    metric, on_test = METRICS[known[0].metric], known[0].metric != SELECTION
    best = {row: _best([cell for cell in known if cell.row == row]) for row in unique(cell.row for cell in known)}
    rows_of: dict[str, list[str]] = {}
    for row, cell in best.items():
        rows_of.setdefault(cell.column, []).append(row)
    said = "; ".join(f"{column} in {', '.join(rows)}" for column, rows in rows_of.items())
    found = [f"Highest {metric}: {said}."]
    alike = {}  # those that do not differ from a row's best student, by row
    for row, cell in best.items() if on_test else ():
        if others := [other for other in known if other.row == row and other is not cell and comparable(cell, other)]:
            alike[row] = [other.column for other in others if not differ(cell, other)]
    if alike:
        close = "; ".join(f"{' and '.join(columns)} in {row}" for row, columns in alike.items() if columns)
        clear = ", ".join(row for row, columns in alike.items() if not columns)
        parts = [
            *([f"the best is ahead of every other student in {clear}"] if clear else []),
            *([f"indistinguishable from the best are {close}"] if close else []),
        ]
        found.append(f"By the 95 % interval of the paired difference, {', and '.join(parts)}.")
    lowest = min(best.values(), key=lambda cell: cell.numbers["lowest"])
    value = shown(lowest.metric, lowest.numbers["lowest"])
    seed = f"seed {lowest.numbers['lowest_seed']:.0f}"
    found.append(f"The lowest training seed of these students has {value} ({lowest.row}, {lowest.column}, {seed}).")
    return [*found, *filter(None, [loss_and_return(cells) if plan.study["loss_and_return"] else ""])]


def loss_and_return(cells: Sequence[Cell]) -> str:
    """Return a sentence about the rank correlation of validation loss and return over the runs of each row."""
    said = []
    for row in unique(cell.row for cell in cells):
        runs = [run.results for cell in cells if cell.row == row for run in cell.runs]
        pairs = np.array([[run["validation_loss"], run["return_mean"]] for run in runs]).reshape(-1, 2)
        rho, interval = rank_correlation(*pairs.T)
        if rho is not None and interval is not None:
            said.append(f"{rho:z.2f} ({interval[0]:z.2f} to {interval[1]:z.2f}) over the {len(runs)} runs in {row}")
    if not said:
        return ""
    return f"Rank correlation of validation loss and mean return, with its 95 % interval: {'; '.join(said)}."


def comparable(one: Cell, other: Cell) -> bool:
    """Return whether two cells with finished runs were scored on the same test episodes."""
    return np.array_equal(one.runs[0].episodes["seed"], other.runs[0].episodes["seed"])


def differ(one: Cell, other: Cell) -> bool:
    """Return whether the mean returns of two comparable cells differ, beyond the interval of their difference."""
    returns, reference = (np.stack([run.episodes["student_return"] for run in cell.runs]) for cell in (one, other))
    low, high = difference_interval(returns, reference)
    return low > 0 or high < 0


def _best(cells: Sequence[Cell]) -> Cell:
    return max(cells, key=lambda cell: cell.numbers[cell.metric])


def verdict(plan: Plan, cells: Sequence[Cell]) -> str:
    """Return a sentence that says in which rows some column meets the study's bar; empty without a bar."""
    bar, lowest = plan.study["bar"], plan.study["lowest_bar"]
    bars = [
        *([f"a mean {plan.study['metric']} of at least {bar:g}"] if bar is not None else []),
        *([f"at least {lowest:g} with every training seed"] if lowest is not None else []),
    ]
    rows = unique(cell.row for cell in cells if cell.runs)
    if not bars or not rows:
        return ""
    complete = [cell for cell in cells if len(cell.runs) == len(cell.jobs)]
    met = {cell.row for cell in complete if not cell.misses and cell.metric in cell.numbers}
    missed = [row for row in rows if row not in met]
    found = f"{len(met)} of {len(rows)} rows{', not in ' * bool(missed)}{', '.join(missed)}"
    return (
        f"The bar is {' and '.join(bars)}; {MISSED} marks what misses it. Some student, with all its seeds finished, "
        f"meets it in {found}."
    )
