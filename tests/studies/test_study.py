"""Studies: states of jobs, estimates, tables that equal numbers worked out by hand, and the figure."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilt.evaluation.figure_style import ONE_COLUMN, TWO_COLUMNS, write
from ilt.evaluation.statistics import mean_interval, mean_interval_of_runs, mean_interval_of_runs_and_episodes
from ilt.studies.plan import Plan, State, StudyJob, duration, estimate, progress, state_of
from ilt.studies.study_figure import STYLES, study_figure
from ilt.studies.study_findings import findings
from ilt.studies.study_report import report_study
from ilt.studies.study_tables import Cell, details, has_one_expert, make_cells, overview
from ilt.tracking.records import read_run
from ilt.tracking.run_folder import read_config
from ilt.tracking.store import sha256, write_with_digest
from tests.analysis.test_figures import has_color, pixels

STUDY = {
    "title": "A toy", "question": "Which?", "hypothesis": None, "conclusion": None, "metric": "performance", "bar": 0.9,
    "lowest_bar": 0.8, "copycat": False, "loss_and_return": False,
}  # fmt: skip


def job(row: str, column: str, seed: int, **changes: Any) -> StudyJob:
    about = {"sweep": "all", "folder": f"{row}-{column}-{seed}", "overrides": [], "row": row, "column": column}
    return StudyJob(**{**about, "seed": seed, **changes})


def plan_of(*jobs: StudyJob, at_once: int | None = 1, **changes: Any) -> Plan:
    return Plan(name="toy", study={**STUDY, **changes}, rows="env", overrides=[], at_once=at_once, jobs=list(jobs))


def finish(
    study: Path,
    own: StudyJob,
    returns: Sequence[float],
    *,
    seconds: float = 60.0,
    commit: str = "abc",
    loss: float = 0.5,
) -> None:
    """Write the folder of a finished run with these returns; the expert's are 10 and the random policy's 0."""
    folder = study / own.folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("env: {id: Toy-v0}\n")
    (folder / "curve.csv").write_text("step\n")
    rows = [f"{30 + e},{value},10,0,5,1" for e, value in enumerate(returns)]
    columns = "seed,student_return,expert_return,random_return,student_steps,student_terminated"
    (folder / "episodes.csv").write_text("\n".join([columns, *rows, ""]))
    mean = float(np.mean(returns))
    content = {
        "return_mean": mean,
        "return_mean_interval": mean_interval(np.array(returns)),
        "selection_return_mean": mean,
        "validation_loss": loss,
        "copycat": {"change": {"student": 0.25, "expert": 0.5}, "moved_by_swap": 0.125},
        "expert_return_mean": 10.0,
        "random_return_mean": 0.0,
        "performance": mean / 10,
        "difference_to_expert": {"mean": mean - 10, "interval": [mean - 10, mean - 10]},
        "policies": {"expert": {"crash_rate": None}},
        "success_rate": 0.5,
        "crash_rate": None,
        "seed": own.seed,
        "reported_checkpoint": "last",
        "imitation": {"expert_labels": 1000},
        "n_parameters": 2000,
        "git_commit": commit,
        "packages": {},
        "evaluation": {"n_episodes": len(returns)},
        "seconds": {"expert": 30.0, "training": seconds, "total": seconds + 30.0, "figures": 0.0},
        "files": {name: sha256(folder / name) for name in ("config.yaml", "curve.csv", "episodes.csv")},
    }
    write_with_digest(folder / "results.json", content)


JOBS = [job("Toy", "MLP", 0), job("Toy", "MLP", 1), job("Toy", "GRU", 0), job("Toy", "GRU", 1), job("Other", "MLP", 0)]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study with a finished cell, one with a failed job, and one that has not started."""
    finish(tmp_path, JOBS[0], [10.0, 9.0, 8.0])
    finish(tmp_path, JOBS[1], [11.0, 10.0, 9.0], seconds=80.0, commit="def")
    finish(tmp_path, JOBS[2], [7.0, 7.0, 7.0], seconds=200.0)
    (tmp_path / JOBS[3].folder).mkdir()
    (tmp_path / JOBS[3].folder / "error.txt").write_text("ValueError: a | b\n\ntraceback")
    return tmp_path


def states_of(study: Path, plan: Plan) -> list[State]:
    return [state_of(each, study) for each in plan.jobs]


def cells_of(study: Path, plan: Plan) -> list[Cell]:
    finished = [each.folder for each in plan.jobs if state_of(each, study).status == "finished"]
    return make_cells(plan, {name: read_run(name, study / name, read_config(study / name)) for name in finished})


def test_a_plan_is_read_back_equal(tmp_path: Path) -> None:
    plan = plan_of(job("Toy", "MLP", 0, wanted=False, seconds=3.0, scored_by={"evaluation": {"n_episodes": 3}}))
    plan.write(tmp_path)
    found = Plan.read(tmp_path)
    assert replace(found, jobs=[]) == replace(plan, jobs=[])
    assert vars(found.jobs[0]) == vars(plan.jobs[0])


def test_the_state_of_a_job_is_read_from_its_folder(study: Path) -> None:
    plan = plan_of(*JOBS)
    found = [state.status for state in states_of(study, plan)]
    assert found == [*["finished"] * 3, "failed: ValueError: a | b", "not started"]
    (study / JOBS[4].folder).mkdir()
    (study / JOBS[4].folder / "config.yaml").touch()
    assert state_of(JOBS[4], study).status == "not finished"


def test_results_that_were_scored_on_other_episodes_do_not_count(study: Path) -> None:
    as_now, otherwise = ({"evaluation": {"n_episodes": n}} for n in (3, 1000))
    assert state_of(job("Toy", "MLP", 0, scored_by=as_now), study).status == "finished"
    assert state_of(job("Toy", "MLP", 0, scored_by=otherwise), study).status == "not finished"


def test_damaged_results_are_reported_and_do_not_count(study: Path) -> None:
    (study / JOBS[0].folder / "results.json").write_text("{")
    assert state_of(JOBS[0], study).status.startswith("damaged: results.json")
    with (study / JOBS[1].folder / "episodes.csv").open("a") as file:
        file.write("33,500,10,0,5,1\n")
    states = report_study(plan_of(*JOBS), study)
    assert [state.status.split(":")[0] for state in states[:3]] == ["damaged", "damaged", "finished"]
    assert "1 of 5 jobs finished" in (study / "study.md").read_text()


def test_an_estimate_prefers_the_same_cell_then_the_same_row_then_what_the_study_says(study: Path) -> None:
    unlike = [job("Toy", "LSTM", 0), job("Third", "MLP", 0, seconds=7.0), job("Third", "GRU", 0)]
    plan = plan_of(*JOBS, *unlike)
    states = states_of(study, plan)
    assert estimate([job("Toy", "GRU", 7)], plan, states).seconds == 200.0  # without the training of the expert
    assert estimate([job("Toy", "MLP", 7)] * 2, plan, states).seconds == 140.0
    assert estimate([unlike[0]], plan, states).seconds == pytest.approx((60 + 80 + 200) / 3)
    found = estimate([JOBS[3], *unlike[1:]], plan, states)
    assert (found.seconds, found.measured, found.stated, found.unknown) == (207.0, 1, 1, 1)
    said = "about 2 min, 2 at once (1 by finished jobs, 1 as the study says, 1 of unknown length, not counted)"
    assert found.in_words(2) == said
    assert estimate(unlike[2:], plan, states).in_words(1) == "a time that is unknown until the first job is finished"
    assert estimate(unlike[1:2], plan, states).in_words(1) == "about 7 s (as the study says)"


def test_progress_counts_only_wanted_jobs(study: Path) -> None:
    plan = plan_of(*JOBS[:4], replace(JOBS[4], wanted=False))
    said = progress(plan, states_of(study, plan))
    assert said == "toy: 3 of 4 jobs finished, 1 failed; the rest takes about 3 min (by finished jobs)"
    assert progress(plan_of(JOBS[0]), [State("finished")]) == "toy: 1 of 1 jobs finished"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_numbers_of_a_cell_by_hand(study: Path) -> None:
    mlp, gru, other = cells_of(study, plan_of(*JOBS))
    n = mlp.numbers
    assert (n["return"], n["performance"], n["expert_return"], n["random_return"]) == (9.5, 0.95, 10.0, 0.0)
    assert (n["lowest"], n["lowest_seed"], n["seconds"]) == (0.9, 0, 100.0)
    assert mlp.by_seed == {0: 0.9, 1: 1.0}
    assert (n["iqm"], n["at_bar"]) == (0.95, 2)
    assert n["at_bar_bound"] == pytest.approx(0.05**0.5)
    interval = mean_interval_of_runs_and_episodes(np.array([[10.0, 9.0, 8.0], [11.0, 10.0, 9.0]]))
    assert [n["return_low"], n["return_high"]] == interval
    assert [n["performance_low"], n["performance_high"]] == pytest.approx(np.array(interval) / 10)
    ends = [gru.numbers["performance_low"], gru.numbers["performance_high"]]
    assert ends == pytest.approx([0.7, 0.7])  # one seed, equal episodes
    assert other.numbers == {}


def test_performance_is_compared_with_the_expert_on_the_same_episodes(study: Path) -> None:
    """A student that is as good as its expert in every episode has no interval, however much the episodes differ."""
    own = job("Paired", "MLP", 0)
    finish(study, own, [1.0, 20.0, 3.0])
    (cell,) = cells_of(study, plan_of(own))
    run = cell.runs[0]
    episodes = {**run.episodes, "expert_return": run.episodes["student_return"]}
    n = replace(cell, runs=[replace(run, episodes=episodes)]).numbers
    assert (n["performance"], n["performance_low"], n["performance_high"]) == pytest.approx((1.0, 1.0, 1.0))
    assert n["return_low"] < n["return"] < n["return_high"]


@pytest.mark.parametrize(
    ("bars", "misses"),
    [
        ({}, ""),
        ({"bar": 0.96}, "mean"),
        ({"bar": 0.9, "lowest_bar": 0.91}, "seed 0"),
        ({"bar": None, "lowest_bar": None}, ""),
        ({"metric": "return", "bar": 9.6}, "mean"),
        ({"metric": "return", "bar": 9.0, "lowest_bar": 9.2}, "seed 0"),
    ],
)
def test_a_cell_misses_the_bar_by_its_mean_or_by_a_seed(study: Path, bars: dict[str, Any], misses: str) -> None:
    assert cells_of(study, plan_of(*JOBS[:2], **bars))[0].misses == misses


def test_the_table_marks_what_misses_the_bar_and_what_is_not_complete(study: Path) -> None:
    plan = plan_of(*JOBS)
    columns, rows = overview(plan, cells_of(study, plan))
    assert columns == ["env", "MLP", "GRU"]
    assert rows == [["Toy", "0.950", "0.700 ✗ (1 of 2)"], ["Other", "–", "–"]]


def test_every_row_has_its_columns_in_the_same_order() -> None:
    plan = plan_of(job("Toy", "MLP", 0), job("Toy", "GRU", 0), job("Other", "GRU", 0), job("Other", "MLP", 0))
    found = [(cell.row, cell.column) for cell in make_cells(plan, {})]
    assert found == [("Toy", "MLP"), ("Toy", "GRU"), ("Other", "MLP"), ("Other", "GRU")]


def test_a_report_says_what_its_numbers_are_made_of(study: Path) -> None:
    report_study(replace(plan_of(*JOBS), overrides=["trainer.max_steps=10"]), study)
    text = " ".join((study / "study.md").read_text().split())
    assert "# A toy Which? 3 of 5 jobs finished." in text
    assert "With `trainer.max_steps=10`." in text
    assert "3 per run" in text
    assert "Commits: abc (2 runs), def (1 runs)." in text
    assert "meets it in 1 of 1 rows." in text
    assert "| MLP | 2 of 2 | 9.5 |" in text
    assert "| lowest seed | seeds ≥ 0.8 | bar |" in text
    assert "| 0.900 (seed 0) | 2 of 2 (≥ 22 %) | met | 50.0 % | 1,000 | 2,000 | 100 |" in text
    assert "| Toy-GRU-1 | failed: ValueError: a \\| b |" in text
    rows = list(csv.DictReader(io.StringIO((study / "study.csv").read_text())))
    assert [(row["kind"], row["status"], row["performance"]) for row in rows] == [
        ("run", "finished", "0.9"), ("run", "finished", "1.0"), ("run", "finished", "0.7"),
        ("run", "failed: ValueError: a | b", ""), ("run", "not started", ""),
        ("cell", "2 of 2 finished", "0.95"), ("cell", "1 of 2 finished", "0.7"), ("cell", "0 of 1 finished", ""),
    ]  # fmt: skip
    found = json.loads((study / "study.json").read_text())
    assert found["cells"][0]["by_seed"] == {"0": 0.9, "1": 1.0}
    assert found["cells"][0]["commits"] == ["abc", "def"]
    assert found["made"]["made_at"]


def test_a_report_before_the_first_job_has_no_figure(tmp_path: Path) -> None:
    report_study(plan_of(*JOBS), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"study.md", "study.csv", "study.json"}


@pytest.mark.parametrize("width", [ONE_COLUMN, TWO_COLUMNS])
@pytest.mark.parametrize("metric", ["performance", "return", "selection"])
def test_the_figure_shows_every_cell_with_results(study: Path, metric: str, width: float) -> None:
    cells = cells_of(study, plan_of(*JOBS, metric=metric))
    figure = study_figure(cells, width)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["MLP", "GRU"]
    several = [*cells, replace(cells[0], column="MLP, DAgger")]  # the MLP's two columns share a color
    for shown, n_colors in ((cells, 1), (several, 2)):
        write(partial(study_figure, shown), study / "study.png", width=width)
        image = pixels(study / "study.png")
        assert [has_color(image, color) for color, _ in STYLES[:3]] == [number < n_colors for number in range(3)]


def test_a_figure_needs_a_finished_run() -> None:
    with pytest.raises(ValueError, match="at least one finished run"):
        study_figure(make_cells(plan_of(*JOBS), {}), TWO_COLUMNS)


def test_runs_of_a_cell_must_have_the_same_test_episodes(study: Path) -> None:
    own = job("Toy", "MLP", 2)
    finish(study, own, [1.0, 2.0])
    with pytest.raises(ValueError, match="not scored on the same test episodes"):
        cells_of(study, plan_of(*JOBS, own))


def test_findings_by_hand(tmp_path: Path) -> None:
    """The MLP wins three rows: far ahead, by a difference within the interval, and without another student."""
    returns = {"Far": ("MLP", 9.0, "GRU", 4.0), "Near": ("MLP", 9.0, "GRU", 8.9), "Alone": ("MLP", 6.0)}
    jobs = []
    for row, pairs in returns.items():
        for column, mean in zip(pairs[::2], pairs[1::2], strict=True):
            for seed, change in enumerate([-0.2, 0.0, 0.2]):
                jobs.append(job(row, column, seed))
                finish(tmp_path, jobs[-1], [mean + change + each for each in (-0.1, 0.0, 0.1)])
    assert findings(plan_of(*jobs), cells_of(tmp_path, plan_of(*jobs))) == [
        "Highest mean performance: MLP in Far, Near, Alone.",
        "By the 95 % interval of the paired difference, the best is ahead of every other student in Far, and "
        "indistinguishable from the best are GRU in Near.",
        "The lowest training seed of these students has 0.580 (Alone, MLP, seed 0).",
    ]
    assert findings(plan_of(*jobs), make_cells(plan_of(*jobs), {})) == []


def test_a_study_of_past_actions_shows_how_much_students_rely_on_them(study: Path) -> None:
    report_study(plan_of(*JOBS, copycat=True), study)
    text = " ".join((study / "study.md").read_text().split())
    assert "| action changes | expert's changes | moved by swap | expert labels |" in text
    assert "| 0.250 | 0.500 | 0.125 | 1,000 |" in text


def test_students_of_several_experts_are_shown_beside_their_own(study: Path) -> None:
    (mlp, gru, _) = cells_of(study, plan_of(*JOBS))
    assert has_one_expert([mlp, gru])
    run = gru.runs[0]
    better = {**run.episodes, "expert_return": run.episodes["expert_return"] + 2}
    other = replace(gru, runs=[replace(run, episodes=better)])
    assert not has_one_expert([mlp, other])
    columns, rows = details([mlp, other])
    assert [row[columns.index("expert")] for row in rows] == ["10.0", "12.0"]
    assert "expert" not in details([mlp, gru])[0]


def test_losses_are_related_to_the_returns_of_each_row(tmp_path: Path) -> None:
    """Five runs whose losses rank them almost as their returns do, and two, which are too few."""
    losses = {"Many": [0.5, 0.4, 0.3, 0.1, 0.2], "Few": [0.1, 0.2]}
    jobs = [job(row, "MLP", seed) for row, own in losses.items() for seed in range(len(own))]
    for own in jobs:
        finish(tmp_path, own, [own.seed, own.seed + 1.0], loss=losses[own.row][own.seed])
    plan = plan_of(*jobs, loss_and_return=True)
    assert findings(plan, cells_of(tmp_path, plan))[-1] == (
        "Rank correlation of validation loss and mean return, with its 95 % interval: -0.90 (-1.00 to 0.17) over the "
        "5 runs in Many."
    )


def test_a_study_for_choices_shows_selection_seeds_only(study: Path) -> None:
    plan = plan_of(*JOBS, metric="selection", bar=None, lowest_bar=None)
    report_study(plan, study)
    text = " ".join((study / "study.md").read_text().split())
    assert "Mean return on selection seeds:" in text
    assert "| Toy | 9.5 | 7.0 (1 of 2) |" in text
    low, high = mean_interval_of_runs(np.array([9.0, 10.0]))
    assert f"| MLP | 2 of 2 | 9.5 | {low:.1f} … {high:.1f} | 9.0 (seed 0) | 1,000 | 2,000 | 100 |" in text
    assert "Highest mean return on selection seeds: MLP in Toy." in text
    assert not any(word in text for word in ("Expert", "test", "paired", "success"))


def test_students_on_other_test_episodes_are_not_compared(tmp_path: Path) -> None:
    jobs = [job("Toy", "MLP", 0), job("Toy", "GRU", 0)]
    finish(tmp_path, jobs[0], [9.0, 9.0])
    finish(tmp_path, jobs[1], [9.0])
    assert [said.split()[0:2] for said in findings(plan_of(*jobs), cells_of(tmp_path, plan_of(*jobs)))] == [
        ["Highest", "mean"],
        ["The", "lowest"],
    ]


def test_a_page_has_question_hypothesis_and_conclusion_in_this_order(study: Path) -> None:
    report_study(plan_of(*JOBS, hypothesis="The MLP.", conclusion="It was."), study)
    text = " ".join((study / "study.md").read_text().split())
    assert "Which? Hypothesis: The MLP. Conclusion: It was. 3 of 5" in text
    assert "Highest mean performance: MLP in Toy." in text
