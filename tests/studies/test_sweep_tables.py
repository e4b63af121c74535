"""Tables of sweeps: swept keys, results per job, and means over seeds."""

import csv
import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from ilt.evaluation.figure_style import ONE_COLUMN, write
from ilt.evaluation.statistics import NOT_SCORED
from ilt.studies.sweep_figure import COLORS, sweep_figure
from ilt.studies.sweep_tables import Job, group_rows, job_rows, sweep_csv, sweep_markdown, swept_keys, table
from tests.analysis.test_figures import has_color, pixels


def job(name: str, selection: float | None, *, test: float = 0.0, env: str = "", **given: str) -> Job:
    """Return a finished job, or an unfinished one if `selection` is None."""
    results = {
        "selection_return_mean": selection,
        "return_mean": test,
        "return_mean_interval": [test - 1, test + 1],
        "success_rate": 0.5,
        "crash_rate": None if env in ("Acrobot-v1", "CartPole-v1") else 0.25,
        "seconds": {"total": 60.0},
    }
    found = None if selection is None else results
    return Job(name, {"expert": "ppo", **given}, "finished" if found else "not finished", found, env)


def unscored(name: str, loss: float, **given: str) -> Job:
    """Return a finished job without an environment."""
    results = {**NOT_SCORED, "validation_loss": loss, "action_accuracy": 0.5, "seconds": {"total": 60.0}}
    return Job(name, given, "finished", results, "none")


JOBS = [
    job("a", 10.0, test=300.0, model="tiny", seed="0"),
    job("b", 20.0, test=100.0, model="small", seed="0"),
    job("c", 14.0, test=200.0, model="tiny", seed="1"),
    replace(job("d", None, model="small", seed="1"), status="failed: ValueError: a | b"),
    job("e", None, model="base", seed="0"),
]


def test_keys_with_one_value_in_all_jobs_are_not_swept() -> None:
    assert swept_keys(JOBS) == ["model", "seed"]
    assert swept_keys([*JOBS, job("f", None, model="tiny")]) == ["model", "seed"]
    assert swept_keys(JOBS[:1]) == []


def test_jobs_are_sorted_by_selection_return_and_never_by_test_return() -> None:
    assert [row.name for row in job_rows(JOBS)] == ["b", "c", "a", "d", "e"]
    assert [row.swept["model"] for row in group_rows(JOBS)] == ["small", "tiny", "base"]


def test_groups_are_means_over_seeds_with_students_t_intervals() -> None:
    small, tiny, _ = group_rows(JOBS)
    assert (small.status, small.numbers["test_return"]) == ("1 of 2 finished", 100.0)
    assert "test_return_low" not in small.numbers  # undefined for a single job
    assert (tiny.status, tiny.numbers["test_return"]) == ("2 of 2 finished", 250.0)
    assert tiny.numbers["selection_return"] == 12.0
    half = t.ppf(0.975, 1) * np.std([10, 14], ddof=1) / np.sqrt(2)
    interval = [tiny.numbers["selection_return_low"], tiny.numbers["selection_return_high"]]
    assert interval == pytest.approx([12 - half, 12 + half])


def test_the_csv_has_a_row_for_each_job_and_each_group() -> None:
    rows = list(csv.DictReader(io.StringIO(sweep_csv(JOBS))))
    assert [row["row"] for row in rows] == ["job"] * 5 + ["group"] * 3
    assert rows[0]["selection_return"] == "20.0"
    assert rows[0]["name"] == "b"
    assert (rows[3]["status"], rows[3]["test_return"]) == ("failed: ValueError: a | b", "")


def test_the_markdown_has_both_tables_with_equal_cell_counts() -> None:
    text = sweep_markdown("a sweep", JOBS)
    assert "3 of 5 jobs finished" in text
    assert "Over seeds" in text
    tables = [[line for line in part.splitlines() if line.startswith("|")] for part in text.split("Over seeds")]
    assert [len(lines) - 2 for lines in tables] == [5, 3]
    for lines in tables:
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "Over seeds" not in sweep_markdown("a sweep", JOBS[:2])  # each group has a single seed


SEVERAL_ENVS = [
    job("a", -90.0, env="Acrobot-v1", experiment="swing", seed="0"),
    job("b", -80.0, env="Acrobot-v1", experiment="swing", seed="1"),
    job("c", 500.0, env="CartPole-v1", experiment="pole", seed="0"),
    job("d", None, experiment="pole", seed="1"),
]


def test_undefined_rates_have_no_column() -> None:
    for rows in (job_rows(SEVERAL_ENVS), group_rows(SEVERAL_ENVS)):
        columns, cells = table(rows, ["run"])
        assert "success" in columns
        assert "crashes" not in columns
        assert {len(row) for row in cells} == {len(columns)}
    mixed = table(job_rows([*SEVERAL_ENVS, job("e", 1.0, env="Lander")]), ["run"])
    assert [row[mixed[0].index("crashes")] for row in mixed[1]] == ["–", "–", "–", "25.0 %", "–"]


def test_environments_are_named_and_never_ranked_against_each_other() -> None:
    assert swept_keys(SEVERAL_ENVS) == ["env", "experiment", "seed"]
    assert [row.name for row in job_rows(SEVERAL_ENVS)] == ["b", "a", "c", "d"]
    assert [row.env for row in group_rows(SEVERAL_ENVS)] == ["Acrobot-v1", "CartPole-v1", ""]
    assert "| Acrobot-v1 | swing |" in sweep_markdown("a sweep", SEVERAL_ENVS)
    given = [job("a", 1.0, env="Acrobot-v1", **{"env.id": "Acrobot-v1"}), JOBS[0]]
    assert "env" not in swept_keys(given)  # the swept key already says it


def test_the_figure_shows_selection_and_test_returns(tmp_path: Path) -> None:
    shapes = []
    for jobs in (JOBS, SEVERAL_ENVS):
        write(partial(sweep_figure, jobs), tmp_path / "sweep.png")
        figure = pixels(tmp_path / "sweep.png")
        assert all(has_color(figure, color) for color in COLORS.values())
        shapes.append(figure.shape)
    assert shapes[1][0] > shapes[0][0]  # one panel per environment
    with pytest.raises(ValueError, match="at least one finished job"):
        sweep_figure(JOBS[3:], ONE_COLUMN)


def test_jobs_without_an_environment_are_sorted_by_validation_loss(tmp_path: Path) -> None:
    jobs = [unscored("a", 0.3, model="tiny"), unscored("b", 0.125, model="mini"), unscored("c", 0.2, model="nano")]
    assert [row.name for row in job_rows(jobs)] == ["b", "c", "a"]
    columns, rows = table(job_rows(jobs), ["model"])
    assert columns == ["model", "validation loss", "action accuracy", "seconds", "status"]
    assert rows[0] == ["mini", "0.125", "0.5", "60", "finished"]
    assert "Sorted by validation loss" in sweep_markdown("sweep", jobs)
    first = next(csv.DictReader(io.StringIO(sweep_csv(jobs))))
    assert (first["validation_loss"], first["test_return"]) == ("0.125", "")
    write(partial(sweep_figure, jobs), tmp_path / "sweep.png")
    both = table(job_rows([*jobs, job("d", 3.0, model="base")]), ["model"])
    assert {"selection return", "validation loss"} < set(both[0])
