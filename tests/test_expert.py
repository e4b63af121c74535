"""`python -m ilt.expert`, from nothing to an artefact."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from ilt.expert import recipe_of
from ilt.store import SHIPPED, Store, open_artefact
from tests.test_train import ROOT, call, wandb_records

HIDDEN = ["env=lunar_lander_hidden", "expert.observes=privileged"]
QUICK = ["expert.training.total_steps=2048", "expert.training.score_every=1024", "expert.selection_episodes=2"]


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("a2c", ["expert.training.n_steps=64"]),
        ("ppo", ["expert.training.n_steps=64", "expert.training.n_epochs=1", *HIDDEN]),
    ],
)
def test_an_expert_is_trained_from_nothing_measured_and_kept(name: str, small: list[str], tmp_path: Path) -> None:
    arguments = [f"expert={name}", *QUICK, *small, "expert.gate_episodes=3", f"outputs={tmp_path}"]
    assert "1024 of 2048 steps" in call("expert", *arguments, wandb="offline").stdout
    (folder,) = tmp_path.glob(f"experts/{name}-*")
    expert = open_artefact(folder)
    assert set(expert.manifest["files"]) == {"actor.safetensors", "history.json"}
    assert expert.measured["training"]["steps"] == 2048
    assert expert.measured["selection"]["seeds"] == [20_000_002, 3]  # not those it was picked by
    assert {"deterministic", "sampled"} <= set(expert.measured["selection"])
    assert [entry["steps"] for entry in json.loads((folder / "history.json").read_text())] == [1024, 2048]
    logged = wandb_records(tmp_path)
    assert logged["run"][0]["job_type"] == "expert"
    assert [row["item"]["expert/steps"] for row in logged["history"]] == [1024, 2048]
    assert [artifact["name"] for artifact in logged["artifact"]] == [folder.name]
    assert "steps" not in call("expert", *arguments).stdout.split("deterministic")[0]  # found, not trained again


@pytest.mark.parametrize(
    ("expert", "env"), [("ppo", "lunar_lander"), ("a2c", "lunar_lander"), ("ppo_privileged", "lunar_lander_hidden")]
)
def test_the_config_of_a_shipped_expert_finds_it(expert: str, env: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("expert", [f"expert={expert}", f"env={env}"])
    found = Store(tmp_path).find("experts", cfg.expert.name, recipe_of(cfg, instantiate(cfg.env, _convert_="object")))
    assert found is not None
    assert found.path.parent == SHIPPED["experts"]


def test_the_heuristic_is_measured_without_training(tmp_path: Path) -> None:
    call("expert", "expert=heuristic", "expert.gate_episodes=5", "expert.gate=null", f"outputs={tmp_path}")
    (folder,) = tmp_path.glob("experts/heuristic-*")
    assert open_artefact(folder).measured["training"] is None
