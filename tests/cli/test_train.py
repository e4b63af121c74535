"""The entry points, as a user calls them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import yaml
from filelock import FileLock
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from ilt.cli import evaluate
from ilt.cli.dashboard import as_json, build
from ilt.cli.sync import records
from ilt.data.episodes import Episodes
from ilt.tracking.run_folder import read_config
from ilt.tracking.store import DamagedArtifactError
from tests.cli.test_dashboard import accessors, curves, names, tables

ROOT = Path(__file__).parents[2]
SMOKE = ["experiment=smoke", "threads=1"]


def call(module: str, *arguments: str, check: bool = True, wandb: str = "disabled") -> subprocess.CompletedProcess[str]:
    """`python -m ilt <command> <arguments>`, without a W&B key, and without W&B where a test is not about it."""
    command = [sys.executable, "-m", "ilt", module, *arguments]
    process = subprocess.run(command, cwd=ROOT, env=environment(wandb), capture_output=True, text=True)
    assert not check or process.returncode == 0, process.stderr
    return process


def environment(wandb: str = "disabled") -> dict[str, str]:
    """For a process; `wandb` is W&B's mode."""
    keyless = {"WANDB_MODE": wandb, "WANDB_API_KEY": "", "NETRC": "/dev/null"}
    return {**os.environ, "OMP_NUM_THREADS": "1", **keyless}


def evaluated(outputs: Path, run: Path, *overrides: str) -> float:
    """What `ilt evaluate` does, in this process: the student's mean return."""
    fixed = [f"run={run}", f"outputs={outputs}", "processes=1", "logger=none"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("evaluate", [*fixed, *overrides])
    return evaluate.main.__wrapped__(cfg)  # type: ignore[attr-defined]  # what hydra.main decorates


def only_run(outputs: Path) -> Path:
    (run,) = (path.parent for path in outputs.glob("runs/*/config.yaml"))
    return run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A finished smoke run with the shipped expert, logged to W&B offline, with figures and video.

    It is made once, and each of several test processes has its own copy.
    """
    own = tmp_path_factory.mktemp("outputs")
    made = own if worker_id == "master" else tmp_path_factory.getbasetemp().parent / "outputs"
    with FileLock(f"{made}.lock"):
        if not made.joinpath("runs").exists():
            call("train", *SMOKE, f"outputs={made}", "logger=wandb", wandb="offline")
    if made != own:
        shutil.copytree(made, own, dirs_exist_ok=True)
    return own


def wandb_records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All that the only W&B run in a folder holds, by kind of record."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records(path):
        found.setdefault(record["type"], []).append(record[record["type"]])
    return found


def test_a_run_leaves_everything_that_is_needed_to_trust_it(outputs: Path) -> None:
    run = only_run(outputs)
    results = json.loads((run / "results.json").read_text())
    contract = {
        "return_mean", "return_std", "return_median", "return_p05", "success_rate", "crash_rate", "n_episodes",
        "expert_return_mean", "random_return_mean", "performance", "action_accuracy", "seconds",
    }  # fmt: skip
    assert contract <= set(results)
    assert results["n_episodes"] == 20
    assert results["seeds"] == {"block": "test", "offset": 0, "count": 20}
    assert {"training", "scoring", "total"} <= set(results["seconds"])
    assert set(results["checkpoints"]) == {"last", "best"}
    assert results["return_mean"] == results["checkpoints"]["last"]["return_mean"]
    assert results["random_return_mean"] < 0 < results["expert_return_mean"]
    for file in ("curve.csv", "episodes.csv", "learning_curve.png", "return_distribution.png", "landing.mp4"):
        assert (run / file).stat().st_size > 100
    assert (run / "weights" / "last.safetensors").exists()
    assert (run / "weights" / "best.safetensors").exists()
    assert "${" not in (run / "config.yaml").read_text()


def test_demonstrations_come_from_their_own_blocks(outputs: Path) -> None:
    (folder,) = outputs.glob("demos/ppo-*")
    assert Episodes.load(folder / "demonstrations.npz").seeds.tolist() == list(range(20))
    assert Episodes.load(folder / "validation.npz").seeds.tolist() == list(range(10_000_000, 10_000_004))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["metrics"]["demonstrations"]["dropped"] == {"min_return": 0, "drop_truncated": 0}
    assert manifest["parents"][0].startswith("ppo-")


def test_the_wandb_run_is_offline_and_finished(outputs: Path) -> None:
    (wandb_run,) = only_run(outputs).glob("wandb/offline-run-*")
    assert list(wandb_run.glob("run-*.wandb"))
    assert list(wandb_run.rglob("media/videos/*.mp4"))
    assert len(list(wandb_run.rglob("media/images/*.png"))) == 2
    assert len(list(wandb_run.rglob("media/table/*.json"))) == 2
    assert wandb_records(only_run(outputs))["exit"] == [{"exit_code": 0, "runtime": ANY}]


def test_the_wandb_run_leads_from_the_expert_and_the_demonstrations_to_the_model(outputs: Path) -> None:
    artifacts = wandb_records(only_run(outputs))["artifact"]
    used = {artifact["type"]: artifact["name"] for artifact in artifacts if artifact.get("use_after_commit")}
    (demos,) = outputs.glob("demos/ppo-*")
    results = json.loads((only_run(outputs) / "results.json").read_text())
    assert used == {"expert": results["expert"], "demonstrations": demos.name}
    (model,) = (artifact for artifact in artifacts if artifact["type"] == "model")
    files = {file["path"] for file in model["manifest"]["contents"]}
    assert files == {"config.yaml", "weights/best.safetensors", "weights/last.safetensors"}
    assert json.loads(model["metadata"])["parents"] == [results["expert"], results["demonstrations"]]


def test_the_summary_of_the_wandb_run_holds_the_best_and_the_last_return(outputs: Path) -> None:
    metrics = {metric["name"]: metric for metric in wandb_records(only_run(outputs))["metric"] if "name" in metric}
    assert metrics["rollout/return_mean"]["summary"] == {"max": True, "last": True}
    assert metrics["rollout/return_mean"]["step_metric"] == "trainer/global_step"
    assert metrics["rollout/crash_rate"]["summary"] == {"min": True, "last": True}


def test_the_dashboard_shows_nothing_that_a_run_does_not_log(outputs: Path) -> None:
    logged = wandb_records(only_run(outputs))
    history = {name.split(".")[0] for row in logged["history"] for name in row["item"]}  # media have parts
    summary = history | {name for update in logged["summary"] for name in update["update"]}
    config = OmegaConf.create(logged["run"][0]["config"]["update"])
    workspace = as_json(build("us", "ilt"))
    of_experts = {"expert/steps", "expert/return_mean"}
    assert curves(workspace) - of_experts <= summary
    assert names(workspace, "mediaKeys") | tables(workspace) <= history
    assert names(workspace, "targetKey") <= summary
    for accessor in accessors(workspace):
        kind, name = accessor.split(":", 1)
        if kind == "summary":
            assert name in summary
        else:
            assert OmegaConf.select(config, name.replace(".value", "")) is not None
    assert config.setting.startswith("nano-K8-ppo-")


def test_the_same_command_again_shows_the_finished_run_and_makes_nothing(outputs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*.safetensors")}
    output = call("train", *SMOKE, f"outputs={outputs}", "logger=none").stdout
    assert "finished" in output
    assert "student (last)" in output
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("*.safetensors")} == before


def test_evaluate_takes_seeds_and_context_length_and_leaves_the_results_alone(outputs: Path) -> None:
    run = only_run(outputs)
    before = (run / "results.json").read_text()
    arguments = [f"run={run}", f"outputs={outputs}", "seeds=selection:5:10", "context_length=2", "threads=1"]
    call("evaluate", *arguments, wandb="offline")
    results = json.loads((run / "evaluations" / "selection-5-10-last-K2.json").read_text())
    assert (results["n_episodes"], results["context_length"]) == (10, 2)
    logged = wandb_records(outputs)
    assert logged["run"][0]["job_type"] == "evaluate"
    assert {artifact["type"] for artifact in logged["artifact"] if artifact.get("use_after_commit")} == {
        "expert",
        "model",
    }
    trained = {artifact["digest"] for artifact in wandb_records(run)["artifact"] if artifact["type"] == "model"}
    assert trained <= {artifact["digest"] for artifact in logged["artifact"]}
    assert any("selection/return_mean" in update["update"] for update in logged["summary"])
    assert (run / "results.json").read_text() == before


def test_evaluating_the_test_seeds_again_gives_the_same_numbers(outputs: Path) -> None:
    run = only_run(outputs)
    evaluated(outputs, run, "seeds=test:20")
    again = json.loads((run / "evaluations" / "test-0-20-last-K8.json").read_text())
    results = json.loads((run / "results.json").read_text())
    for name in ("return_mean", "expert_return_mean", "random_return_mean", "performance", "return_mean_interval"):
        assert again[name] == results[name]


def test_evaluate_refuses_damaged_weights(outputs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(only_run(outputs), tmp_path / "damaged")
    weights = bytearray((run / "weights" / "last.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "weights" / "last.safetensors").write_bytes(weights)
    with pytest.raises(DamagedArtifactError, match=r"last\.safetensors is not the file that its manifest describes"):
        evaluated(outputs, run)


def test_evaluate_calls_nothing_that_a_run_names(outputs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(only_run(outputs), tmp_path / "foreign")
    config = read_config(run)
    config["env"]["_target_"] = config["model"]["_target_"] = config["expert"]["training"]["_target_"] = "os.abort"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="is not in"):  # another expert, by its hash; asked for and never trained
        evaluated(outputs, run, "seeds=test:4")
    config["expert"]["training"]["_target_"] = read_config(only_run(outputs))["expert"]["training"]["_target_"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert evaluated(outputs, run, "seeds=test:4") != 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["dataset.context_length=0"], "dataset.context_length must be an integer of at least 1, got 0"),
        (["expert=nobody"], "nobody"),
        (["model.n_layers=3"], "n_layers"),
        (["model.d_model=30", "model.n_head=4"], "model.d_model must be divisible by model.n_head = 4, got 30"),
        (["evaluation.n_episodes=1000001"], "evaluation.n_episodes must be at most 1000000"),
        (["demos.n_episodes=10000001"], "demos.n_episodes must be at most 10000000"),
    ],
)
def test_a_wrong_argument_is_answered_before_any_work(arguments: list[str], expected: str, tmp_path: Path) -> None:
    process = call("train", *arguments, f"outputs={tmp_path}", check=False)
    assert process.returncode != 0
    assert expected in process.stderr
    assert not (tmp_path / "experts").exists()
    assert not (tmp_path / "demos").exists()
    assert not list(tmp_path.glob("runs/*"))


def test_the_dashboard_is_written_as_json_where_there_is_no_key(tmp_path: Path) -> None:
    output = call("dashboard", f"outputs={tmp_path}", "project=other").stdout
    assert "no W&B API key" in output
    written = json.loads((tmp_path / "dashboard.json").read_text())
    assert written["project"] == "other"
    assert accessors(written) == accessors(as_json(build("", "other")))


@pytest.mark.parametrize("module", ["train", "expert", "collect", "evaluate", "probe", "report", "sync", "dashboard"])
def test_help_explains_the_groups(module: str) -> None:
    output = call(module, "--help").stdout
    assert "Groups and their options" in output
    if module == "train":
        assert "model: base, mini, nano, small, tiny" in output


def test_filters_that_drop_everything_say_so(tmp_path: Path) -> None:
    arguments = ["demos.n_episodes=5", "demos.n_validation_episodes=2", "demos.filters.min_return=400"]
    process = call("collect", *arguments, f"outputs={tmp_path}", check=False, wandb="offline")
    assert "demos.filters drop every one of the 5 demonstrations episodes" in process.stderr
    logged = wandb_records(tmp_path)
    assert logged["run"][0]["job_type"] == "collect"
    assert logged["exit"][0]["exit_code"] == 1
    assert [artifact["type"] for artifact in logged["artifact"]] == ["expert"]


def test_a_multirun_gives_each_job_its_folder_and_makes_demonstrations_once(tmp_path: Path) -> None:
    sweep = ["seed=1,2", f"outputs={tmp_path}", "hydra.sweep.dir=${outputs}/multirun/both", "logger=wandb"]
    sweep += ["evaluation.video=false", "evaluation.n_episodes=4"]
    call("train", "-m", *SMOKE, *sweep, wandb="offline")
    runs = sorted(path.parent for path in tmp_path.glob("multirun/both/*/results.json"))
    assert [json.loads((run / "results.json").read_text())["seed"] for run in runs] == [1, 2]
    assert len(list(tmp_path.glob("demos/ppo-*"))) == 1
    logged = [wandb_records(run)["run"][0] for run in runs]
    assert [run["run_group"] for run in logged] == ["both", "both"]
    assert [set(run["tags"]) & {"seed=1", "seed=2"} for run in logged] == [{"seed=1"}, {"seed=2"}]
    assert len({run["config"]["update"]["setting"] for run in logged}) == 1
    first, second = (load_file(run / "weights" / "last.safetensors") for run in runs)
    assert any(not np.array_equal(first[name], second[name]) for name in first)
    call("report", f"runs={tmp_path}/multirun/both")
    table = (tmp_path / "multirun" / "both" / "report.md").read_text()
    assert "all 2 seeds" in table
    assert len(table.splitlines()) == 5


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(outputs: Path, tmp_path: Path) -> None:
    run = [*SMOKE, "trainer.max_steps=400", "trainer.val_check_interval=100", "model.dropout=0.1"]
    run += ["model.action_dropout=0.2", "evaluation.video=false", "evaluation.n_episodes=2"]
    for name in ("killed", "whole"):
        shutil.copytree(outputs / "demos", tmp_path / name / "demos")
    killed = [sys.executable, "-m", "ilt", "train", *run, f"outputs={tmp_path / 'killed'}"]
    process = subprocess.Popen(killed, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not list(tmp_path.glob("killed/runs/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("killed/runs/*/results.json"))
    assert "resuming from" in call("train", *run, f"outputs={tmp_path / 'killed'}").stdout
    assert "resuming from" not in call("train", *run, f"outputs={tmp_path / 'whole'}").stdout
    ours, theirs = (only_run(tmp_path / name) for name in ("killed", "whole"))
    for weights in ("last", "best"):
        resumed = load_file(ours / "weights" / f"{weights}.safetensors")
        uninterrupted = load_file(theirs / "weights" / f"{weights}.safetensors")
        assert all(np.array_equal(resumed[name], uninterrupted[name]) for name in uninterrupted)
    curves = [[line.split(",")[:6] for line in (run / "curve.csv").read_text().splitlines()] for run in (ours, theirs)]
    assert curves[0] == curves[1]


def test_a_run_folder_holds_one_run(outputs: Path) -> None:
    run = only_run(outputs)
    process = call("train", *SMOKE, "seed=5", f"outputs={outputs}", f"hydra.run.dir={run}", check=False)
    assert "another config (seed differ)" in process.stderr


def test_resume_false_sets_the_old_run_aside(outputs: Path, tmp_path: Path) -> None:
    shutil.copytree(outputs, tmp_path, dirs_exist_ok=True)
    run = only_run(tmp_path)
    before = (run / "results.json").read_text()
    call("train", *SMOKE, f"outputs={tmp_path}", "logger=none", "resume=false")
    assert (run.with_name(run.name + ".1") / "results.json").read_text() == before
