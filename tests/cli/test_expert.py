"""`ilt expert` and `ilt collect`, from nothing to artifacts."""

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from ilt.data.episodes import Episodes
from ilt.data.sources import filter_episodes
from ilt.experts.find import find, find_or_train
from ilt.experts.gate import GateError
from ilt.pipeline import prepare
from ilt.rollout.recorded import Context
from ilt.tracking.store import SHIPPED, open_artifact
from tests.cli.commands import run_command, type_command, wandb_records

HIDDEN = ["env=lunar_lander_hidden", "expert.privileged=true"]
QUICK = ["expert.total_steps=2048", "expert.score_every=1024", "expert.selection_episodes=2", "expert.gate_episodes=3"]
QUICK += ["expert.n_steps=64", "processes=1"]


def composed(*arguments: str) -> tuple[Context, DictConfig]:
    with initialize_config_module("ilt.conf", version_base="1.3"):
        cfg = compose("expert", list(arguments))
    return prepare(cfg), cfg.expert


def test_an_expert_is_trained_measured_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["expert=ppo", "expert.n_epochs=1", *QUICK, *HIDDEN, f"outputs={tmp_path}"]
    type_command("expert", *arguments, "logger=wandb")
    assert "1024 of 2048 steps" in capsys.readouterr().out
    (folder,) = tmp_path.glob("experts/ppo-*")
    expert = open_artifact(folder)
    assert set(expert.manifest["files"]) == {"actor.safetensors", "history.json"}
    assert expert.metrics["training"]["steps"] == 2048
    assert expert.metrics["selection"]["seeds"] == [20_000_002, 3]  # not those it was picked by
    assert {"deterministic", "sampled"} <= set(expert.metrics["selection"])
    assert [entry["steps"] for entry in json.loads((folder / "history.json").read_text())] == [1024, 2048]
    logged = wandb_records(tmp_path)
    assert logged["run"][0]["job_type"] == "expert"
    assert [row["item"]["expert/steps"] for row in logged["history"]] == [1024, 2048]
    assert [artifact["name"] for artifact in logged["artifact"]] == [folder.name]
    assert find_or_train(*composed(*arguments)).manifest == expert.manifest  # found, not trained again


def test_our_own_a2c_is_trained_in_the_same_way(tmp_path: Path) -> None:
    mean = run_command("expert", "expert=a2c", *QUICK, "logger=none", f"outputs={tmp_path}")
    (folder,) = tmp_path.glob("experts/a2c-*")
    expert = open_artifact(folder)
    assert set(expert.manifest["files"]) == {"actor.safetensors", "history.json"}
    assert expert.metrics["training"]["steps"] == 2048
    assert expert.metrics["selection"]["deterministic"]["return_mean"] == mean


@pytest.mark.parametrize(
    ("expert", "env"),
    [
        (["expert=ppo"], "lunar_lander"),
        (["expert=a2c"], "lunar_lander"),
        (["expert=ppo_privileged"], "lunar_lander_hidden"),
        (["expert=a2c_privileged"], "lunar_lander_hidden"),
        (["expert=a2c", "expert.privileged=true"], "lunar_lander_blind"),
    ],
)
def test_the_config_of_a_shipped_expert_finds_it(expert: list[str], env: str, tmp_path: Path) -> None:
    assert find(*composed(*expert, f"env={env}", f"outputs={tmp_path}")).path.parent == SHIPPED["experts"]


def test_the_heuristic_is_measured_without_training(tmp_path: Path) -> None:
    arguments = ["expert=heuristic", "expert.gate_episodes=5", f"outputs={tmp_path}", "processes=1", "logger=none"]
    assert run_command("expert", *arguments) > 0
    assert find(*composed(*arguments)).metrics["training"] is None


# --- demonstrations ---


def test_an_expert_below_its_gate_may_not_demonstrate(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"expert\.gate asks for a mean return of at least 299"):
        run_command("collect", "expert.gate=299", f"outputs={tmp_path}", "logger=none", "processes=1")
    assert not (tmp_path / "demos").exists()


def test_filters_that_drop_everything_say_so(tmp_path: Path) -> None:
    arguments = ["demos.n_episodes=5", "demos.n_validation_episodes=2", "demos.filters.min_return=400"]
    with pytest.raises(ValueError, match=r"demos\.filters drop every one of the 5 demonstrations episodes"):
        type_command("collect", *arguments, f"outputs={tmp_path}", "processes=1", "logger=wandb")
    logged = wandb_records(tmp_path)
    assert logged["run"][0]["job_type"] == "collect"
    assert logged["exit"][0]["exit_code"] == 1
    assert [artifact["type"] for artifact in logged["artifact"]] == ["expert"]


@pytest.mark.parametrize(
    ("min_return", "drop_truncated", "kept", "dropped"),
    [
        (None, False, [7, 8], [0, 0]),
        (6.0, False, [7], [1, 0]),  # returns are 6 and -90
        (7.0, True, [], [2, 1]),  # each filter counts what it would drop alone
    ],
)
def test_filters_drop_and_count(
    two_episodes: Episodes, min_return: float | None, drop_truncated: bool, kept: list[int], dropped: list[int]
) -> None:
    filters = {"min_return": min_return, "drop_truncated": drop_truncated}
    episodes, counts = filter_episodes(two_episodes, filters)
    assert episodes.seeds.tolist() == kept
    assert counts == dict(zip(filters, dropped, strict=True))
    assert kept != [7] or np.array_equal(episodes.actions, [0, 1, 2])
