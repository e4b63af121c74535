"""`ilt expert` and `ilt collect` from scratch."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from ilt.experts.find import find, find_or_train
from ilt.pipeline import prepare
from ilt.rollout.recorded import Context
from ilt.tracking.store import open_artifact
from tests.cli.commands import run_command, type_command, wandb_records

HIDDEN = ["env=lunar_lander_hidden", "expert.privileged=true"]
QUICK = ["expert.total_steps=2048", "expert.score_every=1024", "expert.selection_episodes=2", "expert.gate_episodes=3"]
QUICK += ["expert.n_steps=64", "processes=1"]


def composed(*arguments: str) -> tuple[Context, DictConfig]:
    with initialize_config_module("ilt.conf", version_base="1.3"):
        cfg = compose("expert", list(arguments))
    return prepare(cfg), cfg.expert


@pytest.mark.parametrize(("name", "options"), [("ppo", ["expert.n_epochs=1", *HIDDEN]), ("a2c", [])])
def test_an_expert_is_trained_scored_and_stored(
    name: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"expert={name}", *QUICK, *options, f"outputs={tmp_path}"]
    type_command("expert", *arguments, "logger=wandb")
    assert "1024 of 2048 steps" in capsys.readouterr().out
    (folder,) = tmp_path.glob(f"experts/{name}-*")
    expert = open_artifact(folder)
    assert set(expert.manifest["files"]) == {"actor.safetensors", "history.json"}
    assert expert.metrics["training"]["steps"] == 2048
    assert expert.metrics["selection"]["seeds"] == [20_000_002, 3]  # other seeds than those that picked the checkpoint
    assert {"deterministic", "sampled"} <= set(expert.metrics["selection"])
    assert [entry["steps"] for entry in json.loads((folder / "history.json").read_text())] == [1024, 2048]
    logged = wandb_records(tmp_path)
    assert logged["run"][0]["job_type"] == "expert"
    assert [row["item"]["expert/steps"] for row in logged["history"]] == [1024, 2048]
    assert [artifact["name"] for artifact in logged["artifact"]] == [folder.name]
    assert find_or_train(*composed(*arguments)).manifest == expert.manifest  # found, not trained again
    mean = run_command("expert", *arguments, "logger=none")
    assert mean == expert.metrics["selection"]["deterministic"]["return_mean"]


def test_the_heuristic_is_scored_without_training(tmp_path: Path) -> None:
    arguments = ["expert=heuristic", "expert.gate_episodes=5", f"outputs={tmp_path}", "processes=1", "logger=none"]
    assert run_command("expert", *arguments) > 0
    assert find(*composed(*arguments)).metrics["training"] is None


def test_filters_that_drop_every_episode_are_an_error(tmp_path: Path) -> None:
    arguments = ["demos.n_episodes=5", "demos.n_validation_episodes=2", "demos.filters.min_return=400"]
    with pytest.raises(SystemExit, match=r"^demos\.filters must keep an episode of each block, but drop all 5 "):
        type_command("collect", *arguments, f"outputs={tmp_path}", "processes=1", "logger=wandb")
    logged = wandb_records(tmp_path)
    assert logged["run"][0]["job_type"] == "collect"
    assert logged["exit"][0]["exit_code"] == 1
    assert [artifact["type"] for artifact in logged["artifact"]] == ["expert"]
    assert {path.suffix for path in tmp_path.glob("demos/*")} <= {".lock"}
