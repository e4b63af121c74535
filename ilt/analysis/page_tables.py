"""The tables of the report page: configs, runs, and seconds by stage. Only cells and sort keys, no markup."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from ilt.evaluation.statistics import interval_of, mean_rate
from ilt.evaluation.tables import VALIDATION, percent, short
from ilt.tracking.records import Group, RunRecord, differing_keys, flatten

_Subject = TypeVar("_Subject")


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the displayed text.
        value: the sort key; cells with None are sorted last.
        note: a second line in smaller type.
        bar: color number and length of each part of a bar, in percent of the table's longest bar; replaces the text.
        track: a drawing of the number and its interval; replaces the text.
    """

    text: str
    value: float | str | None
    note: str = ""
    bar: Sequence[tuple[int, float]] = ()
    track: "Track | None" = None


@dataclass(frozen=True)
class Track:
    """Positions of returns on a scale, in percent of its length from its left end.

    Attributes:
        interval: both ends of the student's interval.
        marks: positions of `student`, `expert` and perhaps `random`.
    """

    interval: tuple[float, float]
    marks: Mapping[str, float]

    @classmethod
    def on_scale(cls, low: float, high: float, interval: Sequence[float], **values: float) -> "Track":
        """Place an interval and values on a scale from `low` to `high`."""
        places = [100 * (value - low) / max(high - low, 1e-9) for value in (*interval, *values.values())]
        return cls((places[0], places[1]), dict(zip(values, places[2:], strict=True)))


@dataclass(frozen=True)
class Column:
    """A column's heading, whether it contains numbers, its color number if any, and whether it can be sorted."""

    title: str
    number: bool = True
    color: int | None = None
    sorts: bool = True


_BY_LOSS = VALIDATION["validation_loss"]

_GroupCell = Callable[[Group], Cell]
Number = Callable[[Mapping[str, Any]], tuple[float, Sequence[float]]]
"""A function that returns a number from `results.json` and its interval."""


@dataclass(frozen=True)
class PageTable:
    """A sortable table, initially in the order of the column with index `sorted_by`: descending, or ascending."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sorted_by: int
    ascending: bool = False

    @classmethod
    def ranked(
        cls,
        caption: str,
        cells: Mapping[Column, Callable[[_Subject], Cell]],
        subjects: Iterable[_Subject],
        by: str,
        *,
        ascending: bool = False,
    ) -> "PageTable":
        """Make a table with one row per subject, in the order of the column `by`, without empty columns.

        Args:
            cells: the function that makes a subject's cell, by column.
        """
        rows = [[cell(subject) for cell in cells.values()] for subject in subjects]
        kept = [i for i in range(len(cells)) if any(row[i] not in (Cell("–", None), Cell("", None)) for row in rows)]
        columns, rows = [list(cells)[i] for i in kept], [[row[i] for i in kept] for row in rows]
        place = [column.title for column in columns].index(by)

        def key(row: Sequence[Cell]) -> float:
            value = row[place].value
            if not (isinstance(value, float) and np.isfinite(value)):
                return np.inf
            return value if ascending else -value

        return cls(caption, columns, sorted(rows, key=key), place, ascending)


def difference_cell(runs: Sequence[RunRecord]) -> Cell:
    """Make a cell with the mean difference between students and their expert; empty if there is no expert."""
    if any(run.results["difference_to_expert"] is None for run in runs):
        return Cell("–", None)
    return number_cell(*mean_with_interval(Group(label="", runs=runs), difference), sign="+")


def mean_with_interval(group: Group, number: Number) -> tuple[float, Sequence[float]]:
    """Return the mean of a number over a group's training seeds, and its 95 % interval."""
    each = [number(run.results) for run in group.runs]
    means = [mean for mean, _ in each]
    return fmean(means), interval_of(means, each[0][1])


def returned(results: Mapping[str, Any]) -> tuple[float, Sequence[float]]:
    """Return a student's mean return and its interval over test episodes."""
    return results["return_mean"], results["return_mean_interval"]


def difference(results: Mapping[str, Any]) -> tuple[float, Sequence[float]]:
    """Return the difference between a student's mean return and its expert's, and its interval over test episodes."""
    return results["difference_to_expert"]["mean"], results["difference_to_expert"]["interval"]


def expert_return(group: Group) -> float | None:
    """Return the expert's mean return on test seeds; None if there is no expert."""
    return mean_rate([run.results["expert_return_mean"] for run in group.runs])


def returns_of(group: Group) -> dict[str, float]:
    """Return the mean returns of the student, the expert (if there is one) and the random policy on test seeds."""
    means = {"student": mean_with_interval(group, returned)[0], "expert": expert_return(group)}
    random = fmean(float(run.episodes["random_return"].mean()) for run in group.runs)
    return {**{name: mean for name, mean in means.items() if mean is not None}, "random": random}


_NOT_SCORED = (
    "The runs have no environment (env=none), so nothing was scored: the numbers are of validation demonstrations."
)


def _validation_cells() -> dict[Column, Callable[[Sequence[RunRecord]], Cell]]:
    """Return the functions that make the cells of runs without an environment: means over training seeds."""

    def mean_of(name: str, runs: Sequence[RunRecord]) -> Cell:
        mean = mean_rate([run.results.get(name) for run in runs])
        return Cell("–", None) if mean is None else Cell(short(mean), mean)

    return {Column(title): partial(mean_of, name) for name, title in VALIDATION.items()}


def _differing_cells(groups: Sequence[Group]) -> dict[Column, _GroupCell]:
    """Return the functions that make the cells of the keys that differ between configs."""
    flat = {group.label: flatten(group.runs[0].config) for group in groups}
    cells: dict[Column, _GroupCell] = {}
    for key in differing_keys(list(flat.values())):
        column = Column(key, number=_all_numbers([config.get(key) for config in flat.values()]))
        cells[column] = lambda group, key=key: _config_cell(flat[group.label].get(key))  # type: ignore[misc]
    return cells


def group_table(groups: Sequence[Group]) -> PageTable:
    """Make the table of configs, one row each: means over training seeds, and the keys that differ between configs."""
    config = {Column("config", number=False): lambda group: text_cell(group.label)}
    seeds = {Column("training seeds"): lambda group: Cell(str(len(group.runs)), float(len(group.runs)))}
    if not groups[0].is_scored:
        scores: dict[Column, _GroupCell] = {
            column: lambda group, cell=cell: cell(group.runs)  # type: ignore[misc]
            for column, cell in _validation_cells().items()
        }
        cells = {**config, **scores, **seeds, **_differing_cells(groups)}
        return PageTable.ranked(f"Each row is one config. {_NOT_SCORED}", cells, groups, _BY_LOSS, ascending=True)
    several_tests = len({group.runs[0].test for group in groups}) > 1
    ends = [end for group in groups for end in mean_with_interval(group, returned)[1]]
    ends += [expert for group in groups if (expert := expert_return(group)) is not None]

    def track(group: Group) -> Cell:
        (mean, interval), expert = mean_with_interval(group, returned), expert_return(group)
        if expert is None:
            return Cell("–", None)
        return Cell("", None, track=Track.on_scale(min(ends), max(ends), interval, student=mean, expert=expert))

    def rate(name: str) -> _GroupCell:
        return lambda group: rate_cell(mean_rate([run.results[name] for run in group.runs]))

    cells = {
        **config,
        Column("selection return"): lambda group: number_cell(group.selection_return),
        Column("test return"): lambda group: number_cell(*mean_with_interval(group, returned)),
        Column("beside the expert", number=False, sorts=False): track,
        Column("expert"): lambda group: number_cell(expert_return(group)),
        Column("student − expert"): lambda group: difference_cell(group.runs),
        Column("success"): rate("success_rate"),
        Column("crashes"): rate("crash_rate"),
        **seeds,
        Column("test seeds", number=False): lambda group: text_cell(group.runs[0].test_seeds if several_tests else ""),
        **_differing_cells(groups),
    }
    caption = (
        "Each row is one config; its numbers are means over training seeds. Below a number is its 95 % interval: "
        "Student's t over training seeds or, for a single seed, a bootstrap over test episodes. Beside the expert: the "
        "test return (dot), its interval (line) and the expert (bar), from "
        f"{_decimal(min(ends))} to {_decimal(max(ends))}."
    )
    return PageTable.ranked(caption, cells, groups, "selection return")


def run_table(groups: Sequence[Group]) -> PageTable:
    """Make the table of runs, one row each."""
    label = {run.name: group.label for group in groups for run in group.runs}
    runs = [run for group in groups for run in group.runs]
    cells: dict[Column, Callable[[RunRecord], Cell]] = {
        Column("run", number=False): lambda run: text_cell(run.name),
        Column("config", number=False): lambda run: text_cell(label[run.name]),
        Column("seed"): lambda run: Cell(str(run.results["seed"]), float(run.results["seed"])),
    }
    if not groups[0].is_scored:
        for column, cell in _validation_cells().items():
            cells[column] = lambda run, cell=cell: cell([run])  # type: ignore[misc]
        return PageTable.ranked(_NOT_SCORED, cells, runs, _BY_LOSS, ascending=True)
    several_tests = len({run.test for run in runs}) > 1
    cells |= {
        Column("selection return"): lambda run: number_cell(run.selection_return),
        Column("test return"): lambda run: number_cell(*returned(run.results)),
        Column("expert"): lambda run: number_cell(run.results["expert_return_mean"]),
        Column("student − expert"): lambda run: difference_cell([run]),
        Column("success"): lambda run: rate_cell(run.results["success_rate"]),
        Column("crashes"): lambda run: rate_cell(run.results["crash_rate"]),
        Column("expert's crashes"): lambda run: rate_cell(run.results["policies"].get("expert", {}).get("crash_rate")),
        Column("test seeds", number=False): lambda run: text_cell(run.test_seeds if several_tests else ""),
    }
    caption = (
        "Below a number is its 95 % bootstrap interval over test episodes; differences are paired by test seed. "
        "Sorted by the return on selection seeds; test returns are for reporting, not for selection."
    )
    return PageTable.ranked(caption, cells, runs, "selection return")


def time_table(runs: Sequence[RunRecord]) -> PageTable:
    """Make the table of seconds by stage, one row per run, with a bar."""
    stages = list(dict.fromkeys(stage for run in runs for stage in run.results["seconds"] if stage != "total"))
    longest = max([*(run.results["seconds"].get("total", 0.0) for run in runs), 1e-9])

    def bar(run: RunRecord) -> Cell:
        parts = [(i, 100 * run.results["seconds"].get(stage, 0.0) / longest) for i, stage in enumerate(stages)]
        return Cell("", None, bar=[(i, percent) for i, percent in parts if percent > 0])

    cells: dict[Column, Callable[[RunRecord], Cell]] = {
        Column("run", number=False): lambda run: text_cell(run.name),
        Column("by stage", number=False, sorts=False): bar,
        Column("total"): lambda run: number_cell(
            run.results["seconds"].get("total"), note="resumed" if run.results.get("resumed") else ""
        ),
    }
    for i, stage in enumerate(stages):
        cells[Column(stage, color=i)] = lambda run, stage=stage: number_cell(run.results["seconds"].get(stage))  # type: ignore[misc]
    caption = "Seconds by stage. A resumed run counts only its last part."
    return PageTable.ranked(caption, cells, runs, "total")


def text_cell(text: str) -> Cell:
    """Make a cell with text, which is sorted alphabetically."""
    return Cell(text, text or None)


def number_cell(
    value: float | None, interval: Sequence[float] | None = None, *, sign: str = "", note: str = ""
) -> Cell:
    """Make a cell with a number to one decimal place, and its interval or a note below it."""
    if value is None:
        return Cell("–", None)
    if interval is not None:
        note = " … ".join(_decimal(end, sign) for end in interval)
    return Cell(_decimal(value, sign), float(value), note)


def _decimal(value: float, sign: str = "") -> str:
    return f"{value:{sign}.1f}".replace("-", "−")


def rate_cell(rate: float | None) -> Cell:
    """Make a cell with a rate in percent."""
    return Cell(percent(rate) or "–", rate)


def _config_cell(value: str | None) -> Cell:
    """Make a cell with a config value. Null and missing values are sorted last."""
    if value in (None, "null"):
        return Cell(value or "–", None)
    return Cell(value, float(value) if _all_numbers([value]) else value)


def _all_numbers(values: Sequence[str | None]) -> bool:
    try:
        return all(np.isfinite(float(value)) for value in values if value not in (None, "null"))
    except ValueError:
        return False
