"""`ilt expert`, from nothing to an artifact."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from ilt.cli.collect import find_or_collect
from ilt.cli.expert import find, find_or_train
from ilt.envs.spec import EnvSpec
from ilt.experts.gate import GateError
from ilt.tracking.store import SHIPPED, Store, open_artifact
from ilt.training.runtime import prepare
from tests.cli.test_train import ROOT, call, wandb_records

HIDDEN = ["env=lunar_lander_hidden", "expert.observes=privileged"]
QUICK = ["expert.training.total_steps=2048", "expert.training.score_every=1024", "expert.selection_episodes=2"]
QUICK += ["expert.training.n_steps=64", "expert.gate_episodes=3"]


def composed(*arguments: str) -> tuple[DictConfig, EnvSpec, Store]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("expert", list(arguments))
    return cfg, *prepare(cfg)


def test_an_expert_is_trained_from_nothing_measured_and_kept(tmp_path: Path) -> None:
    arguments = ["expert=ppo", "expert.training.n_epochs=1", *QUICK, *HIDDEN, f"outputs={tmp_path}"]
    assert "1024 of 2048 steps" in call("expert", *arguments, wandb="offline").stdout
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
    changed = folder.stat().st_mtime_ns
    assert find_or_train(*composed(*arguments)).path == folder  # found, not trained again
    assert folder.stat().st_mtime_ns == changed


def test_our_own_a2c_is_trained_in_the_same_way(tmp_path: Path) -> None:
    expert = find_or_train(*composed("expert=a2c", *QUICK, "processes=1", f"outputs={tmp_path}"))
    assert expert.path.parent == tmp_path / "experts"
    assert set(expert.manifest["files"]) == {"actor.safetensors", "history.json"}
    assert expert.metrics["training"]["steps"] == 2048


@pytest.mark.parametrize(
    ("expert", "env"),
    [
        (["expert=ppo"], "lunar_lander"),
        (["expert=a2c"], "lunar_lander"),
        (["expert=ppo_privileged"], "lunar_lander_hidden"),
        (["expert=a2c_privileged"], "lunar_lander_hidden"),
        (["expert=a2c", "expert.observes=privileged"], "lunar_lander_blind"),
    ],
)
def test_the_config_of_a_shipped_expert_finds_it(expert: list[str], env: str, tmp_path: Path) -> None:
    cfg, spec, store = composed(*expert, f"env={env}", f"outputs={tmp_path}")
    assert find(cfg, spec, store).path.parent == SHIPPED["experts"]


def test_the_heuristic_is_measured_without_training(tmp_path: Path) -> None:
    expert = find_or_train(
        *composed("expert=heuristic", "expert.gate_episodes=5", f"outputs={tmp_path}", "processes=1")
    )
    assert expert.metrics["training"] is None
    assert expert.metrics["selection"]["deterministic"]["return_mean"] > 0


def test_an_expert_below_its_gate_may_not_demonstrate(tmp_path: Path) -> None:
    cfg, spec, store = composed("expert.gate=299", f"outputs={tmp_path}")
    with pytest.raises(GateError, match=r"expert\.gate asks for a mean return of at least 299"):
        find_or_collect(cfg, spec, store, find_or_train(cfg, spec, store))
    assert not (tmp_path / "demos").exists()
