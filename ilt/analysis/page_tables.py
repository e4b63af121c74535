"""The tables of the report page: configs, runs, and time by stage. What is shown and what is sorted by, no markup."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ilt.evaluation.statistics import interval_of, mean_rate
from ilt.evaluation.tables import percent
from ilt.tracking.records import Group, RunRecord, differing_keys, flatten


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        value: what it is sorted by; None for one that has no value, and stands last.
        note: a second, smaller line.
        bar: parts of a bar in percent of the table's longest one, each with the number of its color, instead of text.
    """

    text: str
    value: float | str | None
    note: str = ""
    bar: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Column:
    """A column's heading, whether it holds numbers, the number of its color if it has one, and whether it sorts."""

    title: str
    number: bool = True
    color: int | None = None
    sorts: bool = True


@dataclass(frozen=True)
class PageTable:
    """A table that the reader can sort; until then it is in descending order of one column."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sorted_by: int

    @classmethod
    def descending(
        cls, caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], by: str
    ) -> "PageTable":
        """The rows in descending order of the numbers in the column `by`, without the columns that are empty."""
        kept = [i for i in range(len(columns)) if any(row[i].value is not None or row[i].bar for row in rows)]
        columns, rows = [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]
        place = [column.title for column in columns].index(by)

        def key(row: Sequence[Cell]) -> float:
            value = row[place].value
            return -value if isinstance(value, float) and np.isfinite(value) else np.inf

        return cls(caption, columns, sorted(rows, key=key), place)


def group_table(groups: Sequence[Group]) -> PageTable:
    """One row per config: what tells it from the others, and means over its training seeds."""
    flat = [flatten(group.runs[0].config) for group in groups]
    keys = differing_keys(flat)
    several_tests = len({group.runs[0].test for group in groups}) > 1
    columns = [
        Column("config", number=False),
        *[Column(key, number=_all_numbers([config.get(key) for config in flat])) for key in keys],
        Column("training seeds"),
        Column("selection return"),
        Column("test return"),
        Column("student − expert"),
        Column("crashes"),
        *([Column("test seeds", number=False)] if several_tests else []),
    ]
    rows = []
    for group, config in zip(groups, flat, strict=True):
        results = [run.results for run in group.runs]
        returns = [result["return_mean"] for result in results]
        differences = [result["difference_to_expert"]["mean"] for result in results]
        rows.append(
            [
                text_cell(group.label),
                *[_config_cell(config.get(key)) for key in keys],
                Cell(str(len(results)), float(len(results))),
                number_cell(group.selection_return),
                number_cell(fmean(returns), interval_of(returns, results[0]["return_mean_interval"])),
                number_cell(
                    fmean(differences),
                    interval_of(differences, results[0]["difference_to_expert"]["interval"]),
                    sign="+",
                ),
                _percent(mean_rate([result["crash_rate"] for result in results])),
                *([text_cell(group.runs[0].test_seeds)] if several_tests else []),
            ]
        )
    caption = (
        "Each row is one config, its numbers are means over training seeds. Below them: the 95 % interval, Student's t "
        "over training seeds, or where there is only one, a bootstrap over its test episodes."
    )
    return PageTable.descending(caption, columns, rows, "selection return")


def run_table(groups: Sequence[Group]) -> PageTable:
    """One row per run."""
    several_tests = len({run.test for group in groups for run in group.runs}) > 1
    columns = [
        Column("run", number=False),
        Column("config", number=False),
        Column("seed"),
        Column("selection return"),
        Column("test return"),
        Column("expert"),
        Column("student − expert"),
        Column("success"),
        Column("crashes"),
        Column("expert's crashes"),
        *([Column("test seeds", number=False)] if several_tests else []),
    ]
    rows = [
        [
            text_cell(run.name),
            text_cell(group.label),
            Cell(str(run.results["seed"]), float(run.results["seed"])),
            number_cell(run.selection_return),
            number_cell(run.results["return_mean"], run.results["return_mean_interval"]),
            number_cell(run.results["expert_return_mean"]),
            number_cell(
                run.results["difference_to_expert"]["mean"], run.results["difference_to_expert"]["interval"], sign="+"
            ),
            _percent(run.results["success_rate"]),
            _percent(run.results["crash_rate"]),
            _percent(run.results["policies"]["expert"]["crash_rate"]),
            *([text_cell(run.test_seeds)] if several_tests else []),
        ]
        for group in groups
        for run in group.runs
    ]
    caption = (
        "Below a number: its 95 % bootstrap interval over test episodes, paired by test seed for the difference. "
        "Sorted by the return on selection seeds; test returns are for reporting, not for choosing."
    )
    return PageTable.descending(caption, columns, rows, "selection return")


def time_table(runs: Sequence[RunRecord]) -> PageTable:
    """One row per run: seconds by stage, also as a bar."""
    stages = list(dict.fromkeys(stage for run in runs for stage in run.results["seconds"] if stage != "total"))
    longest = max([*(run.results["seconds"].get("total", 0.0) for run in runs), 1e-9])
    columns = [
        Column("run", number=False),
        Column("by stage", number=False, sorts=False),
        Column("total"),
        *[Column(stage, color=i) for i, stage in enumerate(stages)],
    ]
    rows = []
    for run in runs:
        seconds: Mapping[str, float] = run.results["seconds"]
        parts = [(i, 100 * max(seconds.get(stage, 0.0), 0.0) / longest) for i, stage in enumerate(stages)]
        rows.append(
            [
                text_cell(run.name),
                Cell("", None, bar=[(i, percent) for i, percent in parts if percent > 0]),
                number_cell(seconds.get("total"), note="resumed" if run.results.get("resumed") else ""),
                *[number_cell(seconds.get(stage)) for stage in stages],
            ]
        )
    caption = "Seconds by stage. A run that was resumed counts those of its last part only."
    return PageTable.descending(caption, columns, rows, "total")


def text_cell(text: str) -> Cell:
    """Text, sorted as it reads."""
    return Cell(text, text)


def number_cell(
    value: float | None, interval: Sequence[float] | None = None, *, sign: str = "", note: str = ""
) -> Cell:
    """A number with one decimal, and its interval below it."""
    if value is None:
        return Cell("–", None)
    if interval is not None:
        note = " … ".join(f"{end:{sign}.1f}" for end in interval)
    return Cell(f"{value:{sign}.1f}", float(value), note)


def _percent(rate: float | None) -> Cell:
    return Cell(percent(rate) or "–", rate)


def _config_cell(value: str | None) -> Cell:
    """A value of a config; what is null or not there stands last."""
    if value in (None, "null"):
        return Cell(value or "–", None)
    return Cell(value, float(value) if _all_numbers([value]) else value)


def _all_numbers(values: Sequence[str | None]) -> bool:
    try:
        return all(np.isfinite(float(value)) for value in values if value not in (None, "null"))
    except ValueError:
        return False
