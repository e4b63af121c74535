"""A table that compares finished runs with their experts, with the mean over runs that differ only in their seed."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ilt.evaluation.statistics import interval_of, mean_rate
from ilt.evaluation.tables import VALIDATION, filled, is_scored, percent, short
from ilt.tracking.records import RunRecord, by_environment, group_runs

COLUMNS = (
    "run",
    "env",
    "student",
    "95 % interval",
    "expert",
    "student − expert",
    "interval of that",
    "crashes",
    "expert's crashes",
    *VALIDATION.values(),
)


def run_table(runs: Sequence[RunRecord]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows, one row per run, grouped by environment.

    There is a column for the environment if there are several. If an environment's runs differ only in their seed, a
    row with their mean follows. Its intervals are over runs, to show the variation between training seeds. Runs without
    an environment have their results on validation demonstrations instead of returns.
    """
    environments = by_environment(runs)
    rows = []
    for name, same_env in environments.items():
        env = name if len(environments) > 1 else None
        rows += [_row(run.name, env, [run.results]) for run in same_env]
        if len(same_env) > 1 and len(group_runs(same_env)) == 1:
            rows.append(_row(f"all {len(same_env)} seeds", env, [run.results for run in same_env]))
    return filled(COLUMNS, rows)


def _row(name: str, env: str | None, results: Sequence[Mapping[str, Any]]) -> list[str | None]:
    if not is_scored(results[0]):
        means = [mean_rate([each.get(key) for each in results]) for key in VALIDATION]
        return [name, env, *[None] * 7, *(None if mean is None else short(mean) for mean in means)]
    returns = [each["return_mean"] for each in results]
    expert: list[str | None] = [None] * 3
    if results[0]["expert_return_mean"] is not None:  # runs of one config all have an expert, or none has
        differences = [each["difference_to_expert"]["mean"] for each in results]
        expert = [
            f"{fmean(each['expert_return_mean'] for each in results):.1f}",
            f"{fmean(differences):+.1f}",
            "{:+.1f} … {:+.1f}".format(*interval_of(differences, results[0]["difference_to_expert"]["interval"])),
        ]
    return [
        name,
        env,
        f"{fmean(returns):.1f}",
        "{:.1f} … {:.1f}".format(*interval_of(returns, results[0]["return_mean_interval"])),
        *expert,
        percent(mean_rate([each["crash_rate"] for each in results])),
        percent(mean_rate([each["policies"].get("expert", {}).get("crash_rate") for each in results])),
        *[None] * len(VALIDATION),
    ]
