"""Which runs are read, which are averaged, and how their configs differ."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ilt.tracking.records import RunRecord, by_environment, differing_keys, flatten, group_runs, middle_run, read_run
from ilt.tracking.run_folder import read_config
from tests.analysis.finished_runs import finish_run


def finished(folder: Path, **of_the_run: Any) -> RunRecord:
    path = finish_run(folder, **of_the_run)
    return read_run(path.name, path, read_config(path))


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", seed=3, selection_return=42.0)
    assert run.config["seed"] == run.results["seed"] == 3
    assert run.selection_return == 42.0
    assert run.curve["train/loss"] == {50: 1.0}
    assert run.curve["rollout/return_mean"] == {100: -8.0, 200: 42.0}
    assert run.episodes["student_return"].tolist() == [10.0, 20.0, 60.0]
    assert run.test_seeds == "30000000 to 30000002 (3 episodes)"


def test_runs_that_differ_in_their_seed_alone_are_one_group_and_the_best_group_is_first(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path / "a1", seed=1, selection_return=10.0),
        finished(tmp_path / "b", changes={"model.d_model": 64}, selection_return=40.0),
        finished(tmp_path / "a0", changes={"evaluation.video": False}, selection_return=30.0),
    ]
    groups = group_runs(runs)
    assert [(group.label, [run.name for run in group.runs]) for group in groups] == [("A", ["b"]), ("B", ["a0", "a1"])]
    assert groups[1].selection_return == 20.0
    many = [replace(runs[0], config={**runs[0].config, "demos": n}) for n in range(28)]
    assert [group.label for group in group_runs(many)][-3:] == ["Z", "AA", "AB"]


def test_runs_on_other_test_seeds_or_in_another_environment_are_not_averaged(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path / "a"),
        finished(tmp_path / "seeds", seed=1, returns={7: 1.0, 8: 2.0}),
        finished(tmp_path / "env", seed=2, changes={"env.kwargs": {"gravity": -5.0}}),
    ]
    assert [group.runs[0].name for group in group_runs(runs)] == ["a", "seeds", "env"]
    named = {name: [run.name for run in same] for name, same in by_environment(runs).items()}
    assert named == {"LunarLander-v3": ["a", "seeds"], "LunarLander-v3 gravity=-5.0": ["env"]}
    assert len({run.test for run in runs}) == 3


@pytest.mark.parametrize(("returns", "middle"), [([5.0, 1.0, 3.0], 3.0), ([4.0, 1.0, 3.0, 2.0], 2.0), ([1.0], 1.0)])
def test_the_middle_run_is_the_median_by_selection_return(returns: list[float], middle: float, tmp_path: Path) -> None:
    runs = [finished(tmp_path / str(i), selection_return=value) for i, value in enumerate(returns)]
    assert middle_run(runs).selection_return == middle


def test_configs_are_compared_value_by_value() -> None:
    a = flatten({"seed": 0, "model": {"_target_": "x", "n_layer": 2, "dropout": 0.0}, "env": {"kwargs": {}}})
    b = flatten(
        {"seed": 1, "model": {"_target_": "x", "n_layer": 2, "dropout": 0.1}, "env": {"kwargs": {"wind": True}}}
    )
    assert a == {"model.n_layer": "2", "model.dropout": "0.0", "env.kwargs": "{}"}
    assert differing_keys([a, b]) == ["model.dropout", "env.kwargs", "env.kwargs.wind"]


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("results.json", "{}", "results.json cannot be used: it lacks 'return_mean'"),
        ("results.json", "{", "results.json"),
        ("curve.csv", "step,val/loss\nmany,0.5\n", "curve.csv"),
        ("episodes.csv", "seed,student_return\n", "episodes.csv cannot be used: it has no rows"),
        ("episodes.csv", "seed\n1\n", "it lacks 'student_return'"),
        ("config.yaml", "seed: 0\n", "config.yaml cannot be used: it lacks 'env'"),
        ("config.yaml", "- 1\n", "config.yaml"),
    ],
)
def test_a_damaged_run_is_refused_by_the_name_of_the_file(
    file: str, content: str, complaint: str, tmp_path: Path
) -> None:
    run = finish_run(tmp_path / "run")
    (run / file).write_text(content)
    with pytest.raises(ValueError, match=complaint):
        read_run("run", run, read_config(run))


def test_rates_and_their_rules_may_be_null(tmp_path: Path) -> None:
    policies = {"expert": {"success_rate": None, "crash_rate": None}}
    rates = {"success_rate": None, "crash_rate": None, "policies": policies}
    run = finished(tmp_path / "run", changes={"env.success_return": None, "env.crash_reward": None}, results=rates)
    assert run.results["crash_rate"] is None


@pytest.mark.parametrize("value", ["<b>1</b>", None, True, [1.0]])
def test_text_where_a_number_belongs_is_refused(value: Any, tmp_path: Path) -> None:
    run = finish_run(tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "return_mean": value}))
    with pytest.raises(ValueError, match="stands where a number is wanted"):
        read_run("run", run, read_config(run))
