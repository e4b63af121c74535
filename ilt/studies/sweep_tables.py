"""Tables of a sweep: one of jobs, one of means over training seeds.

Heavy modules are imported only to compute intervals over several jobs, so that rerunning a finished sweep is fast.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ilt.evaluation.tables import VALIDATION, escaped, filled, is_scored, markdown_table, percent, short

FINISHED = "finished"
SELECTION, TEST = "selection_return", "test_return"
LOSS = "validation_loss"
MEANS = (SELECTION, TEST, "success_rate", "crash_rate", *VALIDATION, "seconds")
NUMBERS = (
    SELECTION, f"{SELECTION}_low", f"{SELECTION}_high", TEST, f"{TEST}_low", f"{TEST}_high",
    "success_rate", "crash_rate", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        name: the name of its folder.
        overrides: its overrides, as values by key.
        status: `finished`, `not finished`, `damaged: ` and the reason, or `failed: ` and the first line of its error.
        results: the content of its `results.json`; None if it is not finished.
        env: the short name of its environment; empty for an unfinished job.
    """

    name: str
    overrides: Mapping[str, str]
    status: str
    results: Mapping[str, Any] | None
    env: str = ""


@dataclass(frozen=True)
class Row:
    """Results of one job, or of a group of jobs that differ only in their seed.

    Attributes:
        swept: values of the swept keys, without `seed` for a group.
        status: the job's status, or the number of a group's finished jobs.
        numbers: the values of `NUMBERS` that are known, or of `VALIDATION` if there is no environment. A job's interval
            is over test episodes, a group's over jobs.
        name: the name of the job's folder; empty for a group.
        env: the short name of the environment.
    """

    swept: Mapping[str, str]
    status: str
    numbers: Mapping[str, float]
    name: str = ""
    env: str = ""


def swept_keys(jobs: Sequence[Job]) -> list[str]:
    """Return the override keys that differ between jobs, and `env` if environments differ through other keys."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    swept = [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]
    named = any(key.split(".")[0] == "env" for key in swept)
    return swept if named or len({job.env for job in jobs if job.env}) < 2 else ["env", *swept]


def job_rows(jobs: Sequence[Job]) -> list[Row]:
    """Return one row per job, by environment, then by descending selection-seed return; unfinished jobs are last.

    Without an environment, jobs are sorted by ascending validation loss.
    """
    keys = swept_keys(jobs)
    return _ranked([Row(values_of(job, keys), job.status, numbers_of(job.results), job.name, job.env) for job in jobs])


def group_rows(jobs: Sequence[Job]) -> list[Row]:
    """Return one row per group of jobs that differ only in `seed`, sorted like `job_rows` by mean selection return.

    Means and Student's t intervals are over finished jobs. A single job has no interval.
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
    """Return `sweep.csv` as text, unrounded: rows of jobs, then of groups. The column `row` tells them apart."""
    numbers = [numbers_of(job.results) for job in jobs]
    columns = [
        "row",
        *swept_keys(jobs),
        "status",
        *NUMBERS,
        *(n for n in VALIDATION if any(n in each for each in numbers)),
    ]
    columns.append("name")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for kind, rows in (("job", job_rows(jobs)), ("group", group_rows(jobs))):
        for row in rows:
            writer.writerow({"row": kind, **row.swept, "status": row.status, **row.numbers, "name": row.name})
    return text.getvalue()


def sweep_markdown(title: str, jobs: Sequence[Job]) -> str:
    """Return `sweep.md` as text: how many jobs are finished, and tables of jobs and groups."""
    n_finished = sum(job.results is not None for job in jobs)
    how = "mean return on selection seeds, which every choice is based on; test seeds are only for reporting"
    if any(LOSS in numbers_of(job.results) for job in jobs):
        how = "validation loss, since jobs with env=none are not scored"
    parts = [
        f"# {escaped(title)}\n",
        f"{n_finished} of {len(jobs)} jobs finished. Sorted by {how}.\n",
        "Jobs, with intervals over test episodes:\n",
        markdown_table(*table(job_rows(jobs), (*swept_keys(jobs), "run"))),
    ]
    if len(groups := group_rows(jobs)) < len(jobs):
        keys = [key for key in swept_keys(jobs) if key != "seed"]
        parts += ["Over seeds: means, with Student's t intervals over jobs:\n", markdown_table(*table(groups, keys))]
    return "\n".join(parts)


def table(rows: Sequence[Row], names: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rounded cells. `names` are the first columns: keys, and `run` for the job's folder."""
    names = list(names)
    returns = ["selection return", "test return", "95 % interval", "success", "crashes"]
    columns = [*names, *returns, *VALIDATION.values(), "seconds", "status"]
    unknown = None if any(LOSS in row.numbers for row in rows) else "–"
    if grouped := all(not row.name for row in rows):
        columns.insert(len(names) + 1, "95 % interval")
    cells = []
    for row in rows:
        n = row.numbers
        cells.append([
            *(row.name if name == "run" else row.swept.get(name, "") for name in names),
            f"{n[SELECTION]:.1f}" if SELECTION in n else unknown,
            *([_interval(n, SELECTION) or unknown] if grouped else []),
            f"{n[TEST]:.1f}" if TEST in n else unknown,
            _interval(n, TEST) or unknown,
            percent(n.get("success_rate")),
            percent(n.get("crash_rate")),
            *(short(n[name]) if name in n else None for name in VALIDATION),
            f"{n['seconds']:.0f}" if n else "–",
            row.status,
        ])  # fmt: skip
    return filled(columns, cells)


def values_of(job: Job, keys: Iterable[str]) -> dict[str, str]:
    """Return a job's overrides of these keys; a value is empty if the job kept the default."""
    return {key: job.overrides.get(key, job.env if key == "env" else "") for key in keys}


def numbers_of(results: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the values of `NUMBERS` (of `VALIDATION`, if not scored) in `results.json`; none for an unfinished job.

    Raise ValueError if one is text, NaN or infinite.
    """
    if results is None:
        return {}
    if is_scored(results):
        low, high = results["return_mean_interval"]
        numbers = {
            SELECTION: results["selection_return_mean"],
            TEST: results["return_mean"],
            f"{TEST}_low": low,
            f"{TEST}_high": high,
            "success_rate": results["success_rate"],
            "crash_rate": results["crash_rate"],
        }
    else:
        numbers = {LOSS: results[LOSS], **{name: results.get(name) for name in VALIDATION}}
    numbers["seconds"] = results["seconds"]["total"]
    for name, value in numbers.items():
        if value is not None and (isinstance(value, str | bool) or not math.isfinite(value)):
            raise ValueError(f"{name} is {value!r}")
    return {name: float(value) for name, value in numbers.items() if value is not None}


def _over_jobs(finished: Sequence[Mapping[str, float]]) -> dict[str, float]:
    if not finished:
        return {}
    means = {name: fmean(numbers[name] for numbers in finished) for name in MEANS if name in finished[0]}
    if len(finished) > 1:
        import numpy as np

        from ilt.evaluation.statistics import mean_interval_of_runs

        for name in (each for each in (SELECTION, TEST) if each in means):
            low, high = mean_interval_of_runs(np.array([numbers[name] for numbers in finished]))
            means |= {f"{name}_low": low, f"{name}_high": high}
    return means


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """Sort rows by environment, in order of first appearance, then by selection-seed return or validation loss."""

    def key(row: Row) -> tuple[int, float, str]:
        return place[row.env], row.numbers.get(LOSS, -row.numbers.get(SELECTION, -math.inf)), row.name

    envs = list(dict.fromkeys(row.env for row in rows if row.env))
    place = {env: i for i, env in enumerate([*envs, ""])}
    return sorted(rows, key=key)


def _interval(numbers: Mapping[str, float], name: str) -> str | None:
    if f"{name}_low" not in numbers:
        return None
    return f"{numbers[f'{name}_low']:.1f} … {numbers[f'{name}_high']:.1f}"
