"""The tables of a study: one of a metric by row and column, one per row with every number, and CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from ilt.evaluation.statistics import (
    interquartile_mean,
    interquartile_mean_interval,
    interval_of,
    mean_interval_of_runs_and_episodes,
    mean_rate,
    performance,
    rate_bound,
)
from ilt.evaluation.tables import filled, percent
from ilt.studies.plan import FINISHED, Plan, State, StudyJob
from ilt.tracking.records import RunRecord

MISSED = "✗"
"""Marks a cell that misses the study's bar."""

FEWEST_FOR_IQM = 4
"""Training seeds below which an interquartile mean is the mean."""

SELECTION = "selection"
METRICS = {"performance": "mean performance", "return": "mean return", SELECTION: "mean return on selection seeds"}
"""The metrics of a study, in words."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs of a study that differ only in their training seed.

    Attributes:
        row, column: its place in the table, in words.
        jobs: its jobs.
        runs: its finished runs, sorted by training seed. All have the same test episodes.
        metric: `performance`, `return` or `selection`.
        bar, lowest_bar: the least mean and the least value of every seed; None for no bar.
        copycat: whether tables show how much students rely on past actions.
    """

    row: str
    column: str
    jobs: Sequence[StudyJob]
    runs: Sequence[RunRecord]
    metric: str
    bar: float | None
    lowest_bar: float | None
    copycat: bool

    def __post_init__(self) -> None:
        if any(not np.array_equal(run.episodes["seed"], self.runs[0].episodes["seed"]) for run in self.runs):
            raise ValueError(f"the runs of {self.row}, {self.column} were not scored on the same test episodes")

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The numbers of a cell with finished runs: means over seeds and episodes, intervals, and those of its seeds.

        `at_bar` is the number of seeds that reach the bar, and `at_bar_bound` the lower bound of their share.
        `performance` is missing if the expert's mean return is that of the random policy.
        """
        if not self.runs:
            return {}
        returns = np.stack([run.episodes["student_return"] for run in self.runs])
        expert, random = (
            np.stack([run.episodes[f"{name}_return"] for run in self.runs]).mean(axis=0)
            for name in ("expert", "random")
        )
        found = {
            "return": float(returns.mean()),
            "expert_return": float(expert.mean()),
            "random_return": float(random.mean()),
        }
        by_metric = {"return": returns}
        mean = performance(found["return"], found["expert_return"], found["random_return"])
        if mean is not None:
            found["performance"] = mean
            # linear in the episodes' returns (the delta method), with the same mean
            span = found["expert_return"] - found["random_return"]
            by_metric["performance"] = mean + (returns - random - mean * (expert - random)) / span
        for name, values in by_metric.items():
            low, high = mean_interval_of_runs_and_episodes(values)
            found |= {f"{name}_low": low, f"{name}_high": high}
        if self.metric == SELECTION and self.by_seed:
            means = list(self.by_seed.values())
            low, high = interval_of(means, [means[0]] * 2)
            found |= {SELECTION: fmean(means), f"{SELECTION}_low": low, f"{SELECTION}_high": high}
        if self.by_seed:
            lowest = min(self.by_seed, key=lambda seed: self.by_seed[seed])
            found |= {"lowest": self.by_seed[lowest], "lowest_seed": lowest}
            of_seeds = np.array(list(self.by_seed.values()))
            low, high = interquartile_mean_interval(of_seeds)
            found |= {"iqm": interquartile_mean(of_seeds), "iqm_low": low, "iqm_high": high}
            if self.seed_bar is not None:
                at_bar = int((of_seeds >= self.seed_bar).sum())
                found |= {"at_bar": at_bar, "at_bar_bound": rate_bound(at_bar, len(of_seeds))}
        found["seconds"] = fmean(run.results["seconds"]["total"] for run in self.runs)
        return found

    @cached_property
    def by_seed(self) -> dict[int, float]:
        """The metric by training seed; empty if it is undefined."""
        key = {"performance": "performance", "return": "return_mean", SELECTION: "selection_return_mean"}[self.metric]
        return {run.results["seed"]: run.results[key] for run in self.runs if run.results[key] is not None}

    @property
    def seed_bar(self) -> float | None:
        """What every seed should reach: `lowest_bar` or, without one, `bar`."""
        return self.bar if self.lowest_bar is None else self.lowest_bar

    @property
    def misses(self) -> str:
        """Which bar the cell misses, in words; empty if none."""
        if (mean := self.numbers.get(self.metric)) is None:
            return ""
        if self.bar is not None and mean < self.bar:
            return "mean"
        if self.lowest_bar is not None and self.numbers["lowest"] < self.lowest_bar:
            return f"seed {self.numbers['lowest_seed']}"
        return ""


def make_cells(plan: Plan, runs: Mapping[str, RunRecord]) -> list[Cell]:
    """Return the cells of a study, by row and column: rows and columns in order of first appearance in the study.

    Args:
        runs: the finished runs, by the name of their folder.
    """
    jobs: dict[tuple[str, str], list[StudyJob]] = {}
    for job in plan.jobs:
        jobs.setdefault((job.row, job.column), []).append(job)
    rows, columns = (unique(getattr(job, name) for job in plan.jobs) for name in ("row", "column"))
    found = []
    for row, column in sorted(jobs, key=lambda place: (rows.index(place[0]), columns.index(place[1]))):
        own = jobs[row, column]
        done = [runs[job.folder] for job in own if job.folder in runs]
        done.sort(key=lambda run: run.results["seed"])
        bars = {key: plan.study[key] for key in ("metric", "bar", "lowest_bar", "copycat")}
        found.append(Cell(row=row, column=column, jobs=own, runs=done, **bars))
    return found


def unique(values: Iterable[str]) -> list[str]:
    """Return the different values in order of first appearance."""
    return list(dict.fromkeys(values))


def overview(plan: Plan, cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table of the metric. Cells that miss the bar are marked."""
    by_place = {(cell.row, cell.column): cell for cell in cells}
    columns = unique(cell.column for cell in cells)
    rows = unique(cell.row for cell in cells)
    found = [[row, *(_short(by_place.get((row, column))) for column in columns)] for row in rows]
    return [plan.rows, *columns], found


def _short(cell: Cell | None) -> str:
    if cell is None or not cell.runs:
        return "–"
    some = f" ({len(cell.runs)} of {len(cell.jobs)})" if len(cell.runs) < len(cell.jobs) else ""
    mark = f" {MISSED}" if cell.misses else ""
    return f"{shown(cell.metric, cell.numbers.get(cell.metric))}{mark}{some}"


def shown(metric: str, value: float | None) -> str:
    """Return a metric's value for a table."""
    return "–" if value is None else f"{value:z.3f}" if metric == "performance" else f"{value:.1f}"


def details(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of a table with every number of the cells in one row of the study.

    A study whose metric is the return on selection seeds shows no number of test episodes.
    """
    one = has_one_expert(cells)
    rows = [_details_of(cell, at_bar=_at_bar_title(cells), with_expert=not one) for cell in cells]
    return filled([title for title, _ in rows[0]], [[value for _, value in row] for row in rows])


def has_one_expert(cells: Sequence[Cell]) -> bool:
    """Return whether all cells have the same expert on the same test episodes, as far as its mean return tells."""
    return len({cell.numbers["expert_return"] for cell in cells if cell.runs}) <= 1


def _details_of(cell: Cell, *, at_bar: str, with_expert: bool) -> list[tuple[str, str | None]]:
    """Return the numbers of a cell, each after the title of its column."""
    n, results = cell.numbers, [run.results for run in cell.runs]
    has_bar = cell.bar is not None or cell.lowest_bar is not None
    verdict = f"missed: {cell.misses}" if cell.misses else "met" if n.get(cell.metric) is not None else None
    scores = [SELECTION] if cell.metric == SELECTION else ["return", "performance"]
    rates = [] if cell.metric == SELECTION else [("success", "success_rate"), ("crashes", "crash_rate")]
    own: list[tuple[str, str | None]] = [("student", cell.column), ("seeds", f"{len(cell.runs)} of {len(cell.jobs)}")]
    for name in scores:
        own += [(_TITLES.get(name, name), shown(name, n[name]) if name in n else None)]
        own += [("95 % interval", _interval(n, name))]
        if name == "return" and with_expert:
            own += [("expert", shown(name, n["expert_return"]) if n else None)]
    return [
        *own,
        ("IQM", shown(cell.metric, n["iqm"]) if len(cell.by_seed) >= FEWEST_FOR_IQM else None),
        ("lowest seed", f"{shown(cell.metric, n['lowest'])} (seed {n['lowest_seed']})" if "lowest" in n else None),
        (at_bar, _at_bar(cell)),
        ("bar", verdict if has_bar else None),
        *((title, percent(mean_rate([each[rate] for each in results]))) for title, rate in rates),
        *(_copycat(results) if cell.copycat else []),
        ("expert labels", f"{fmean(each['imitation']['expert_labels'] for each in results):,.0f}" if results else None),
        ("parameters", f"{fmean(each['n_parameters'] for each in results):,.0f}" if results else None),
        ("seconds", f"{n['seconds']:.0f}" if n else None),
    ]


def _copycat(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    """Return the means over runs of what `ilt.evaluation.copycat` measures, each after the title of its column."""
    known = [each["copycat"] for each in results if "copycat" in each]  # older runs lack it
    found = {
        "action changes": [each["change"].get("student") for each in known],
        "expert's changes": [each["change"].get("expert") for each in known],
        "error at changes": [each.get("error_at_changes") for each in known],
        "moved by swap": [each.get("moved_by_swap") for each in known],
    }
    means = {title: mean_rate(values) for title, values in found.items()}
    return [(title, None if mean is None else f"{mean:.3f}") for title, mean in means.items()]


_TITLES = {SELECTION: "selection return"}


def _at_bar_title(cells: Sequence[Cell]) -> str:
    bars = unique(f"{cell.seed_bar:g}" for cell in cells if cell.seed_bar is not None)
    return f"seeds ≥ {bars[0]}" if bars else "seeds at the bar"


def _at_bar(cell: Cell) -> str | None:
    """Return how many seeds reach the bar, and the bound of their share."""
    if "at_bar" not in cell.numbers:
        return None
    return f"{cell.numbers['at_bar']:.0f} of {len(cell.by_seed)} (≥ {100 * cell.numbers['at_bar_bound']:.0f} %)"


def _interval(numbers: Mapping[str, float], name: str) -> str | None:
    if f"{name}_low" not in numbers:
        return None
    return " … ".join(shown(name, numbers[f"{name}_{end}"]) for end in ("low", "high"))


def study_csv(plan: Plan, cells: Sequence[Cell], states: Sequence[State]) -> str:
    """Return `study.csv` as text, unrounded: rows of runs, then of cells. The column `kind` tells them apart."""
    names = [
        "return", "return_low", "return_high", "performance", "performance_low", "performance_high", "iqm", "iqm_low",
        "iqm_high", "lowest", "lowest_seed", "at_bar", "at_bar_bound", "expert_return", "random_return", "seconds",
    ]  # fmt: skip
    columns = ["kind", "row", "column", "seed", "status", "n_runs", "n_episodes", *names, "folder", "git_commit"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    runs = {run.name: run for cell in cells for run in cell.runs}
    for job, state in zip(plan.jobs, states, strict=True):
        about: dict[str, Any] = {"kind": "run", "row": job.row, "column": job.column, "seed": job.seed}
        about |= {"status": state.status, "folder": job.folder}
        if run := runs.get(job.folder):
            low, high = run.results["return_mean_interval"]
            about |= {
                "n_runs": 1,
                "n_episodes": len(run.episodes["seed"]),
                "return": run.results["return_mean"],
                "return_low": low,
                "return_high": high,
                "performance": run.results["performance"],
                "expert_return": run.results["expert_return_mean"],
                "random_return": run.results["random_return_mean"],
                "seconds": run.results["seconds"]["total"],
                "git_commit": run.results["git_commit"],
            }
        writer.writerow(about)
    for cell in cells:
        status = f"{len(cell.runs)} of {len(cell.jobs)} {FINISHED}"
        about = {"kind": "cell", "row": cell.row, "column": cell.column, "status": status, "n_runs": len(cell.runs)}
        about |= {"n_episodes": len(cell.runs[0].episodes["seed"])} if cell.runs else {}
        writer.writerow({**about, **cell.numbers})
    return text.getvalue()
