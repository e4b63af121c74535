"""`ilt train` and `ilt evaluate`: the files they write, the results they reuse, and the arguments they refuse."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from ilt import pipeline
from ilt.cli.dashboard import as_json, build
from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.evaluation.statistics import NOT_SCORED
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout
from ilt.schema import ConfigError
from ilt.tracking.store import DamagedArtifactError, sha256, write_with_digest
from tests.cli.commands import SMOKE, only_run, refusal, results_of, run_command, start, type_command, wandb_records
from tests.cli.test_dashboard import accessors, curves, names, tables
from tests.tracking.hostile_files import read_only

LOGGED = ["train", "experiment=smoke", "logger=wandb"]


def evaluated(run: Path, *overrides: str) -> float:
    """Run `ilt evaluate`; return the student's mean return."""
    return run_command("evaluate", f"run={run}", f"outputs={run.parents[1]}", "processes=1", "logger=none", *overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished smoke run with the shipped expert, logged to W&B offline, with figures and video."""
    outputs = tmp_path_factory.mktemp("outputs")
    type_command(*LOGGED, f"outputs={outputs}")
    return only_run(outputs)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """Return the same run in a copy of all outputs that a test may change."""
    return only_run(shutil.copytree(run.parents[1], tmp_path / "copy", symlinks=True))


@pytest.fixture(scope="module")
def logged(run: Path) -> dict[str, list[dict[str, Any]]]:
    return wandb_records(run)


def test_a_run_writes_every_file_needed_to_verify_it(run: Path) -> None:
    results = results_of(run)
    contract = {
        "return_mean", "return_std", "return_median", "return_p05", "success_rate", "crash_rate", "n_episodes",
        "expert_return_mean", "random_return_mean", "performance", "action_accuracy", "seconds",
    }  # fmt: skip
    assert contract <= set(results)
    assert results["n_episodes"] == 20
    assert results["seeds"] == {"block": "test", "offset": 0, "count": 20}
    assert {"startup", "imports", "training", "scoring", "figures", "total"} <= set(results["seconds"])
    assert set(results["checkpoints"]) == {"last", "best"}
    assert results["return_mean"] == results["checkpoints"]["last"]["return_mean"]
    assert results["random_return_mean"] < 0 < results["expert_return_mean"]
    for file in ("curve.csv", "episodes.csv", "learning_curve.png", "return_distribution.png", "episode.mp4"):
        assert (run / file).stat().st_size > 100
    assert {path.name for path in (run / "weights").iterdir()} == {"last.safetensors", "best.safetensors"}
    assert "${" not in (run / "config.yaml").read_text()


def test_demonstrations_come_from_their_own_blocks(run: Path) -> None:
    (folder,) = run.parents[1].glob("demos/ppo-*")
    assert Episodes.load(folder / "demonstrations.npz").seeds.tolist() == list(range(20))
    assert Episodes.load(folder / "validation.npz").seeds.tolist() == list(range(10_000_000, 10_000_004))
    manifest = json.loads((folder / "manifest.json").read_text())
    dropped = manifest["metrics"]["demonstrations"]["dropped"]
    assert dropped == {"min_return": 0, "drop_truncated": 0, "top_fraction": 0}
    assert manifest["parents"][0].startswith("ppo-")


def test_the_wandb_run_links_expert_and_demonstrations_to_the_model(run: Path, logged: Any) -> None:
    assert logged["exit"] == [{"exit_code": 0, "runtime": ANY}]
    (folder,) = run.glob("wandb/offline-run-*")
    assert len(list(folder.rglob("media/images/*.png"))) == len(list(folder.rglob("media/table/*.json"))) == 2
    assert list(folder.rglob("media/videos/*.mp4"))
    used = {each["type"]: each["name"] for each in logged["artifact"] if each.get("use_after_commit")}
    results = results_of(run)
    assert used == {"expert": results["expert"], "demonstrations": results["demonstrations"]}
    (model,) = (artifact for artifact in logged["artifact"] if artifact["type"] == "model")
    files = {file["path"] for file in model["manifest"]["contents"]}
    assert files == {"config.yaml", "weights/best.safetensors", "weights/last.safetensors"}
    assert json.loads(model["metadata"])["parents"] == [results["expert"], results["demonstrations"]]


def test_the_wandb_summary_contains_the_best_and_the_last_return(logged: Any) -> None:
    metrics = {metric["name"]: metric for metric in logged["metric"] if "name" in metric}
    assert metrics["rollout/return_mean"]["summary"] == {"max": True, "last": True}
    assert metrics["rollout/return_mean"]["step_metric"] == "trainer/global_step"
    assert metrics["rollout/crash_rate"]["summary"] == {"min": True, "last": True}


def test_the_dashboard_shows_only_what_a_run_logs(logged: Any) -> None:
    history = {name.split(".")[0] for row in logged["history"] for name in row["item"]}  # media have several parts
    summary = history | {name for update in logged["summary"] for name in update["update"]}
    config = OmegaConf.create(logged["run"][0]["config"]["update"])
    workspace = as_json(build("us", "ilt"))
    assert curves(workspace) - {"expert/steps", "expert/return_mean"} <= summary
    assert names(workspace, "mediaKeys") | tables(workspace) <= history
    assert names(workspace, "targetKey") <= summary
    for kind, name in (accessor.split(":", 1) for accessor in accessors(workspace)):
        of_config = OmegaConf.select(config, name.replace(".value", ""))
        assert name in summary if kind == "summary" else of_config is not None, name
    assert config.setting.startswith("lunar_lander-nano-K8-ppo-")


def test_evaluate_takes_seeds_and_context_length_and_keeps_the_results(copy: Path) -> None:
    before, outputs = results_of(copy), copy.parents[1]
    overrides = ["seeds=selection:5:10", "context_length=2", "processes=1"]
    type_command("evaluate", f"run={copy}", f"outputs={outputs}", *overrides)
    results = json.loads((copy / "evaluations" / "selection-5-10-last-K2.json").read_text())
    assert (results["n_episodes"], results["context_length"]) == (10, 2)
    logged = wandb_records(outputs)
    assert logged["run"][0]["job_type"] == "evaluate"
    used = {artifact["type"] for artifact in logged["artifact"] if artifact.get("use_after_commit")}
    assert used == {"expert", "model"}
    trained = {artifact["digest"] for artifact in wandb_records(copy)["artifact"] if artifact["type"] == "model"}
    assert trained <= {artifact["digest"] for artifact in logged["artifact"]}
    assert any("selection/return_mean" in update["update"] for update in logged["summary"])
    assert results_of(copy) == before


def test_repeating_a_command_shows_the_finished_run_and_does_no_work(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "run", None)
    type_command(*LOGGED, f"outputs={copy.parents[1]}")
    printed = capsys.readouterr().out
    assert "is finished" in printed
    assert "student (last)" in printed


def test_resume_false_sets_the_old_run_aside(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results_of(copy)
    type_command("train", *SMOKE, f"outputs={copy.parents[1]}", "resume=false")
    assert "expert, demonstrations, training, scores" in capsys.readouterr().out
    assert results_of(copy.with_name(f"{copy.name}.1")) == before
    for name in ("weights/last.safetensors", "weights/best.safetensors"):
        assert results_of(copy)["files"][name] == before["files"][name]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(run: Path, tmp_path: Path) -> None:
    command = ["train", *SMOKE, "trainer.max_steps=400", "trainer.val_check_interval=100", "model.dropout=0.1"]
    command += ["model.action_dropout=0.2"]
    for name in ("killed", "whole"):
        shutil.copytree(run.parents[1] / "demos", tmp_path / name / "demos")
    process = start(*command, f"outputs={tmp_path / 'killed'}")
    while not list(tmp_path.glob("killed/runs/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("killed/runs/*/results.json"))
    for name in ("killed", "whole"):
        type_command(*command, f"outputs={tmp_path / name}")
    runs = [only_run(tmp_path / name) for name in ("killed", "whole")]
    assert [results_of(each)["resumed"] for each in runs] == [True, False]
    for weights in ("last", "best"):
        resumed, whole = (load_file(each / "weights" / f"{weights}.safetensors") for each in runs)
        assert all(np.array_equal(resumed[name], whole[name]) for name in whole)
    curves = [[line.split(",")[:6] for line in (each / "curve.csv").read_text().splitlines()] for each in runs]
    assert curves[0] == curves[1]


def test_evaluating_the_test_seeds_again_gives_the_same_numbers(copy: Path) -> None:
    evaluated(copy, "seeds=test:20")
    again = json.loads((copy / "evaluations" / "test-0-20-last-K8.json").read_text())
    same = ("return_mean", "expert_return_mean", "random_return_mean", "performance", "return_mean_interval")
    assert {name: again[name] for name in same}.items() <= results_of(copy).items()


def test_the_evaluation_of_a_run_on_a_read_only_disk_is_written_elsewhere(
    copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read_only(monkeypatch, copy)
    evaluated(copy, "seeds=test:4")
    (place,) = (copy.parents[1] / "evaluations").iterdir()
    assert [path.name for path in place.iterdir()] == ["test-0-4-last-K8.json"]
    assert f"evaluations cannot be written to (Read-only file system); writing to {place}" in caplog.text


def test_evaluate_refuses_damaged_weights(copy: Path) -> None:
    weights = copy / "weights" / "last.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DamagedArtifactError, match=r"last\.safetensors is not the file that its manifest describes"):
        evaluated(copy)


@pytest.mark.parametrize("group", ["env.wrappers.it", "expert"])
def test_evaluate_calls_no_code_that_a_run_names(group: str, copy: Path) -> None:
    config = OmegaConf.load(copy / "config.yaml")
    OmegaConf.update(config, f"{group}._target_", "os.abort", force_add=True)
    OmegaConf.save(config, copy / "config.yaml")
    with pytest.raises(DamagedArtifactError, match=r"config\.yaml is not the file that"):
        evaluated(copy, "seeds=test:4")
    results = results_of(copy)
    results["files"]["config.yaml"] = sha256(copy / "config.yaml")
    write_with_digest(copy / "results.json", results)
    with pytest.raises(ConfigError, match=rf"{group}\._target_=os\.abort is not a component of ilt"):
        evaluated(copy, "seeds=test:4")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["context_length=9"], r"^context_length must be at most the run's 8, got 9$"),
        (["seeds=test:0"], r"^seeds must stay in env\.seed_blocks\.test"),
        (["env=cartpole"], r"^env cannot be set, since the run has LunarLander-v3"),
        (["run=nowhere"], r"^run must be the folder of a run, with a config\.yaml in it, got nowhere$"),
    ],
)
def test_invalid_evaluations_are_refused(overrides: list[str], message: str, run: Path) -> None:
    with pytest.raises(ValueError, match=message):
        evaluated(run, *overrides)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["env=gymnasium", "env.id=Nope-v0"], "env.id"),
        (["head=gaussian"], "head=gaussian is for Box actions; head=categorical is for Discrete"),
        (["trainer.accelerator=gpu"], "trainer.accelerator"),
    ],
)
def test_incompatible_arguments_are_a_one_line_error_before_any_work(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    said = refusal("train", *arguments, f"outputs={tmp_path}", "processes=1", "logger=none")
    assert expected in said
    assert "\n" not in said
    assert not (tmp_path / "experts").exists()
    assert not (tmp_path / "demos").exists()


def test_without_training_a_missing_expert_is_described_by_its_differences(tmp_path: Path) -> None:
    said = refusal("train", *SMOKE, "expert.gamma=0.98", "expert.train=false", f"outputs={tmp_path}")
    assert said.startswith("expert.train must be true")
    assert "ppo for LunarLander-v3 must be trained, since no such expert exists (the most similar one is ppo-" in said
    assert "of `ilt expert env=lunar_lander expert=ppo`, which differs in " in said
    assert "expert.gamma=0.98 (there: 0.999)" in said
    assert said.endswith("for 4,096 steps")  # the smoke test's limit


RECORDED = ["env=none", "demos=file", "model=nano", "trainer=smoke", "logger=none"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of a student that learned from recordings of CartPole without an environment."""
    folder = tmp_path_factory.mktemp("alone")
    env = EnvSpec(id="CartPole-v1")
    rollout(env, RandomPolicy(env.action_space), np.arange(20)).save(folder / "episodes.npz")
    files = [f"demos.{key}={folder / 'episodes.npz'}" for key in ("path", "validation_path")]
    type_command("train", *RECORDED, *files, f"outputs={folder}", "evaluation.n_episodes=20")
    return only_run(folder)


def test_recordings_alone_are_enough_to_train_on(run: Path, alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored, results = results_of(run), results_of(alone)
    assert set(results) == set(scored)
    assert all(results[name] in (None, 0, {}) for name in NOT_SCORED)
    assert (results["env"], results["seeds"]["count"]) == ("none", 0)
    assert results["validation_loss"] > 0 < results["action_accuracy"] <= 1
    assert set(results["checkpoints"]) == {"last"}
    assert {path.name for path in (alone / "weights").iterdir()} == {"last.safetensors"}
    assert (alone / "learning_curve.png").is_file()
    assert not (alone / "episodes.csv").exists()
    log = (alone / "train.log").read_text()
    assert "validation loss" in log
    outputs = alone.parents[1]
    for command in ("show", "figures"):
        run_command(command, f"run={alone}", f"outputs={outputs}")
    run_command("list", f"outputs={outputs}")
    run_command("report", f"runs={outputs}", f"outputs={outputs}")
    assert "validation loss" in (outputs / "report.md").read_text()
    assert "nothing was scored, because env=none" in capsys.readouterr().out + log


def test_a_student_of_recordings_is_scored_in_an_environment_that_fits(alone: Path) -> None:
    before = results_of(alone)
    assert evaluated(alone, "env=cartpole", "seeds=test:4") > 5
    (path,) = alone.glob("evaluations/CartPole-v1-*-test-0-4-last-K8.json")
    scored = json.loads(path.read_text())
    assert (scored["env"], scored["expert_return_mean"], scored["n_episodes"]) == ("CartPole-v1", None, 4)
    assert results_of(alone) == before
    compared = ["env=cartpole", f"+policies.student={alone}", "name=x", "seeds=test:4", "processes=1", "logger=none"]
    assert run_command("compare", *compared, f"outputs={alone.parents[1]}") == scored["return_mean"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"^env must be given, such as env=cartpole, since the run has env=none$"),
        (["env=none"], r"^env must be an environment to act in, got none"),
        (
            ["env=acrobot"],
            r"^run takes observations of 4 numbers and acts in integers 0 … 1, but env shows it 6",
        ),
        (
            ["env=cartpole", "checkpoint=best"],
            r"^checkpoint must be last, since the run kept no other weights",
        ),
    ],
)
def test_a_student_of_recordings_is_not_scored_elsewhere(overrides: list[str], message: str, alone: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluated(alone, *overrides)


def test_a_multirun_gives_each_job_a_folder_and_collects_demonstrations_once(tmp_path: Path) -> None:
    sweep = ["seed=1,2", f"outputs={tmp_path}", "hydra.sweep.dir=${outputs}/multirun/both", "logger=wandb"]
    type_command("train", "-m", *SMOKE, *sweep)
    runs = sorted(path.parent for path in tmp_path.glob("multirun/both/*/results.json"))
    assert [results_of(run)["seed"] for run in runs] == [1, 2]
    assert len(list(tmp_path.glob("demos/ppo-*"))) == 1
    logged = [wandb_records(run)["run"][0] for run in runs]
    assert [run["run_group"] for run in logged] == ["both", "both"]
    assert [set(run["tags"]) & {"seed=1", "seed=2"} for run in logged] == [{"seed=1"}, {"seed=2"}]
    assert len({run["config"]["update"]["setting"] for run in logged}) == 1
    first, second = (load_file(run / "weights" / "last.safetensors") for run in runs)
    assert any(not np.array_equal(first[name], second[name]) for name in first)
    run_command("report", f"runs={tmp_path}/multirun/both", "videos=false")
    table = (tmp_path / "multirun" / "both" / "report.md").read_text()
    assert "all 2 seeds" in table
    assert len(table.splitlines()) == 5
