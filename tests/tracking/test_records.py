import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ilt.tracking.reading import UnreadableFileError
from ilt.tracking.records import by_environment, differing_keys, flatten, group_runs, middle_run, names_of, read_run
from ilt.tracking.run_folder import read_config
from ilt.tracking.store import DamagedArtifactError, sha256
from tests.analysis.finished_runs import finish_run, finished, read, without_env
from tests.tracking.hostile_files import CSV, JSON, YAML, replaced


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", seed=3, selection_return=42.0)
    assert run.config["seed"] == run.results["seed"] == 3
    assert run.selection_return == 42.0
    assert run.curve["train/loss"] == {50: 1.0}
    assert run.curve["rollout/return_mean"] == {100: -8.0, 200: 42.0}
    assert run.episodes["student_return"].tolist() == [10.0, 20.0, 60.0]
    assert run.test_seeds == "30000000 to 30000002 (3 episodes)"


def test_runs_that_differ_only_in_their_seed_form_a_group_and_the_best_group_is_first(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path / "a1", seed=1, selection_return=10.0),
        finished(tmp_path / "b", changes={"model.d_model": 64}, selection_return=40.0),
        finished(tmp_path / "a0", changes={"evaluation.video": False}, selection_return=30.0),
    ]
    groups = group_runs(runs)
    members = [(group.label, [run.name for run in group.runs]) for group in groups]
    assert members == [("d_model=64", ["b"]), ("d_model=32", ["a0", "a1"])]
    assert groups[1].selection_return == 20.0
    assert group_runs([runs[0], replace(runs[1], config=runs[0].config)])[0].label == "student"


@pytest.mark.parametrize(
    ("configs", "names"),
    [
        ([{"a.x": "1"}], ["student"]),
        ([{"a.x": "1", "b": "1"}, {"a.x": "2", "b": "1"}], ["x=1", "x=2"]),
        ([{"a.x": "1", "b.x": "1"}, {"a.x": "1", "b.x": "2"}, {"a.x": "2", "b.x": "1"}], None),
        ([{"one": "1", "all": "1"}, {"one": "1", "all": "2"}, {"one": "2", "all": "3"}], ["all=1", "all=2", "all=3"]),
        ([{}, {"a.b": "1"}], ["b=–", "b=1"]),
        ([{"a": "1"}, {"a": "1"}, {"a": "2"}], ["a=1 #1", "a=1 #2", "a=2"]),
    ],
)
def test_configs_are_named_by_the_fewest_keys_that_tell_them_apart(configs: list[Any], names: list[str] | None) -> None:
    assert names_of(configs) == (names or ["a.x=1, b.x=1", "a.x=1, b.x=2", "a.x=2, b.x=1"])


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
    model = {"_target_": "a.package.Model", "n_layer": 2, "dropout": 0.0}
    a = flatten({"seed": 0, "model": model, "env": {}})
    b = flatten({"seed": 1, "model": {**model, "dropout": 0.1}, "env": {"kwargs": {"wind": True}}})
    assert a == {"model": "Model", "model.n_layer": "2", "model.dropout": "0.0", "env": "{}"}
    assert differing_keys([a, b]) == ["model.dropout", "env", "env.kwargs.wind"]


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
def test_the_error_about_a_damaged_run_names_the_file(file: str, content: str, complaint: str, tmp_path: Path) -> None:
    run = finish_run(tmp_path / "run")
    (run / file).write_text(content)
    with pytest.raises(ValueError, match=complaint):
        read(run)


FILES = {"results.json": JSON, "config.yaml": YAML, "curve.csv": CSV, "episodes.csv": CSV}


@pytest.mark.parametrize(("file", "how"), [(file, how) for file, table in FILES.items() for how in table])
def test_the_error_about_a_hostile_file_names_it(file: str, how: str, tmp_path: Path) -> None:
    run = finish_run(tmp_path / "run")
    replaced(run / file, how)
    if (file, how) == ("curve.csv", "empty"):
        return  # a run that was never validated
    with pytest.raises(UnreadableFileError, match=rf"^{run / file} cannot be used: [^\n]+$"):
        read_run("run", run, read_config(run))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1e300", "1" + "0" * 400])
@pytest.mark.parametrize("key", ["return_mean", "selection_return_mean", "seed"])
def test_numbers_that_cannot_be_drawn_are_refused(key: str, value: str, tmp_path: Path) -> None:
    run = finish_run(tmp_path / "run", results={key: "HERE"})
    text = (run / "results.json").read_text()
    (run / "results.json").write_text(text.replace('"HERE"', value))
    with pytest.raises(UnreadableFileError, match=r"results\.json cannot be used"):
        read_run("run", run, read_config(run))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("episodes.csv", ("30000000", "1e400")),
        ("episodes.csv", ("30000000", "30000000.5")),
        ("episodes.csv", (",10.0,", ",nan,")),
        ("episodes.csv", (",10.0,", ",1e308,")),
        ("curve.csv", ("0.7", "inf")),
        ("curve.csv", ("200", "9" * 30)),
        ("config.yaml", ("success_return: 200.0", "success_return: .nan")),
        ("config.yaml", ("kwargs: {}", "kwargs: 3")),
    ],
)
def test_a_wrong_value_in_a_table_or_config_is_refused(file: str, change: tuple[str, str], tmp_path: Path) -> None:
    run = finish_run(tmp_path / "run")
    text = (run / file).read_text()
    assert change[0] in text
    (run / file).write_text(text.replace(*change))
    with pytest.raises(UnreadableFileError, match=rf"{file} cannot be used"):
        read_run("run", run, read_config(run))


def test_a_config_that_was_changed_after_the_run_finished_is_refused(tmp_path: Path) -> None:
    run = finish_run(tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    results["files"] = {"config.yaml": sha256(run / "config.yaml")}
    (run / "results.json").write_text(json.dumps(results))
    assert read_run("run", run, read_config(run)).name == "run"
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("seed: 0", "seed: 1"))
    with pytest.raises(DamagedArtifactError, match=r"config\.yaml is not the file that"):
        read_run("run", run, read_config(run))


def test_rates_and_their_rules_may_be_null(tmp_path: Path) -> None:
    rates = {"success_rate": None, "crash_rate": None}
    rules = {"env.success_return": None, "env.crash_reward": None}
    run = finished(tmp_path / "run", changes=rules, results={**rates, "policies": {"expert": rates}})
    assert run.results["crash_rate"] is None


@pytest.mark.parametrize("value", ["<b>1</b>", None, True, [1.0]])
def test_other_values_in_place_of_numbers_are_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a number, got"):
        finished(tmp_path / "run", results={"return_mean": value})


def test_a_run_without_an_environment_has_no_returns(tmp_path: Path) -> None:
    runs = [without_env(tmp_path / name, loss=loss) for name, loss in (("a", 0.5), ("b", 0.25), ("c", 1.0))]
    assert (runs[0].selection_return, runs[0].policies, runs[0].test_seeds) == (None, [], "none")
    assert middle_run(runs).name == "a"
    with pytest.raises(UnreadableFileError, match="a run with env=none has no returns"):
        finished(tmp_path / "wrong", changes={"env.id": "none"})
