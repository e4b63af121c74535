"""A sweep's jobs side by side: what was swept, what came out of it, and the same over training seeds.

Imports nothing heavy before there are several seeds: a sweep that finds itself finished is to answer at once.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ilt.evaluation.tables import filled, markdown_table, percent

FINISHED = "finished"
SELECTION, TEST = "selection_return", "test_return"
MEANS = (SELECTION, TEST, "success_rate", "crash_rate", "seconds")
NUMBERS = (
    SELECTION, f"{SELECTION}_low", f"{SELECTION}_high", TEST, f"{TEST}_low", f"{TEST}_high",
    "success_rate", "crash_rate", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        name: of its folder.
        overrides: what it was given, by key.
        status: `finished`, `not finished`, or `failed: ` and the first line of its error.
        results: its `results.json`; None if it is not finished.
        env: a short name of its environment; empty where there is no config yet.
    """

    name: str
    overrides: Mapping[str, str]
    status: str
    results: Mapping[str, Any] | None
    env: str = ""


@dataclass(frozen=True)
class Row:
    """What came out of one job, or of several that differ in nothing but their seed.

    Attributes:
        swept: the values of what was swept, by key; without `seed` for a group.
        status: a job's; of a group how many of its jobs are finished.
        numbers: some of `NUMBERS`. A job's interval is over its test episodes, a group's over its jobs.
        name: the job's folder; empty for a group.
        env: the environment.
    """

    swept: Mapping[str, str]
    status: str
    numbers: Mapping[str, float]
    name: str = ""
    env: str = ""


def swept_keys(jobs: Sequence[Job]) -> list[str]:
    """The keys that were not given the same value in all jobs, and `env` where another key made it differ."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    swept = [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]
    named = any(key.split(".")[0] == "env" for key in swept)
    return swept if named or len({job.env for job in jobs if job.env}) < 2 else ["env", *swept]


def job_rows(jobs: Sequence[Job]) -> list[Row]:
    """One row a job: by environment, in each the best selection-seed return first, those without one last."""
    keys = swept_keys(jobs)
    return _ranked([Row(values_of(job, keys), job.status, numbers_of(job.results), job.name, job.env) for job in jobs])


def group_rows(jobs: Sequence[Job]) -> list[Row]:
    """One row for all jobs that differ in `seed` alone, in the same order by mean selection-seed return.

    Means are over the finished ones; intervals are Student's t over them, and there is none over a single one.
    """
    groups: dict[tuple[str, ...], list[Job]] = {}
    keys = [key for key in swept_keys(jobs) if key != "seed"]
    for job in jobs:
        groups.setdefault(tuple(values_of(job, keys).values()), []).append(job)
    rows = []
    for values, group in groups.items():
        finished = [numbers_of(job.results) for job in group if job.results is not None]
        status = f"{len(finished)} of {len(group)} {FINISHED}"
        env = next((job.env for job in group if job.env), "")
        rows.append(Row(dict(zip(keys, values, strict=True)), status, _over_jobs(finished), env=env))
    return _ranked(rows)


def sweep_csv(jobs: Sequence[Job]) -> str:
    """Rows of jobs, then rows of groups, distinguished by the column `row`; unrounded."""
    columns = ["row", *swept_keys(jobs), "status", *NUMBERS, "name"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for kind, rows in (("job", job_rows(jobs)), ("group", group_rows(jobs))):
        for row in rows:
            writer.writerow({"row": kind, **row.swept, "status": row.status, **row.numbers, "name": row.name})
    return text.getvalue()


def sweep_markdown(title: str, jobs: Sequence[Job]) -> str:
    """The same as two tables to read, with how many jobs are finished."""
    n_finished = sum(job.results is not None for job in jobs)
    parts = [
        f"# {title}\n",
        f"{n_finished} of {len(jobs)} jobs finished. Sorted by the mean return on selection seeds, on which every "
        "choice is made; test seeds are for reporting.\n",
        "Jobs; the interval is over test episodes:\n",
        _escaped(*table(job_rows(jobs), (*swept_keys(jobs), "run"))),
    ]
    if len(groups := group_rows(jobs)) < len(jobs):
        keys = [key for key in swept_keys(jobs) if key != "seed"]
        parts += ["Over seeds; means, with Student's t intervals over jobs:\n", _escaped(*table(groups, keys))]
    return "\n".join(parts)


def table(rows: Sequence[Row], names: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of rows, rounded; `names` are the keys that come first, and `run` for the job's folder."""
    names = list(names)
    columns = [*names, "selection return", "test return", "95 % interval", "success", "crashes", "seconds", "status"]
    if grouped := all(not row.name for row in rows):
        columns.insert(len(names) + 1, "95 % interval")
    cells = []
    for row in rows:
        n = row.numbers
        cells.append([
            *(row.name if name == "run" else row.swept.get(name, "") for name in names),
            f"{n[SELECTION]:.1f}" if n else "–",
            *([_interval(n, SELECTION)] if grouped else []),
            f"{n[TEST]:.1f}" if n else "–",
            _interval(n, TEST),
            percent(n.get("success_rate")),
            percent(n.get("crash_rate")),
            f"{n['seconds']:.0f}" if n else "–",
            row.status,
        ])  # fmt: skip
    return filled(columns, cells)


def values_of(job: Job, keys: Iterable[str]) -> dict[str, str]:
    """What a job was given for these keys; nothing where it kept the default."""
    return {key: job.overrides.get(key, job.env if key == "env" else "") for key in keys}


def numbers_of(results: Mapping[str, Any] | None) -> dict[str, float]:
    """Those of `results.json` that a sweep is summed up by; none of a job that is not finished."""
    if results is None:
        return {}
    low, high = results["return_mean_interval"]
    numbers = {
        SELECTION: results["selection_return_mean"],
        TEST: results["return_mean"],
        f"{TEST}_low": low,
        f"{TEST}_high": high,
        "success_rate": results["success_rate"],
        "crash_rate": results["crash_rate"],
        "seconds": results["seconds"]["total"],
    }
    return {name: value for name, value in numbers.items() if value is not None}


def _over_jobs(finished: Sequence[Mapping[str, float]]) -> dict[str, float]:
    if not finished:
        return {}
    means = {name: fmean(numbers[name] for numbers in finished) for name in MEANS if name in finished[0]}
    if len(finished) > 1:
        import numpy as np

        from ilt.evaluation.statistics import mean_interval_of_runs

        for name in (SELECTION, TEST):
            low, high = mean_interval_of_runs(np.array([numbers[name] for numbers in finished]))
            means |= {f"{name}_low": low, f"{name}_high": high}
    return means


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """By environment in the order of first mention, then by selection-seed return."""
    envs = list(dict.fromkeys(row.env for row in rows if row.env))
    place = {env: i for i, env in enumerate([*envs, ""])}
    return sorted(rows, key=lambda row: (place[row.env], -row.numbers.get(SELECTION, -math.inf), row.name))


def _interval(numbers: Mapping[str, float], name: str) -> str:
    if f"{name}_low" not in numbers:
        return "–"
    return f"{numbers[f'{name}_low']:.1f} … {numbers[f'{name}_high']:.1f}"


def _escaped(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(columns, [[cell.replace("|", "\\|") for cell in row] for row in rows])
