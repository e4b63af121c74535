"""The experts that ship with the package."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ilt.envs.spec import EnvSpec
from ilt.experts.base import make_expert
from ilt.experts.check import check_expert
from ilt.experts.find import find_or_train
from ilt.registry import load_option
from ilt.rollout.recorded import Context
from ilt.schema import config_hash
from ilt.tracking.store import SHIPPED, Store, open_artifact

FOLDERS = sorted(path for path in SHIPPED["experts"].iterdir() if path.is_dir())

SETTINGS = [
    ("tqc_bipedal_walker", {}, "bipedal_walker"),
    ("ppo_hopper", {}, "hopper"),
    ("ppo_walker2d", {}, "walker2d"),
    ("ppo_half_cheetah", {}, "half_cheetah"),
    ("ppo_half_cheetah_privileged", {}, "half_cheetah_hidden"),
    ("ppo_hopper_privileged", {}, "hopper_hidden"),
    ("ppo_pendulum_privileged", {}, "pendulum_hidden"),
    ("ppo_lunar_lander_continuous", {}, "lunar_lander_continuous"),
    ("ppo_cartpole", {}, "cartpole"),
    ("ppo_mountain_car", {}, "mountain_car"),
    ("ppo_acrobot", {}, "acrobot"),
    ("sac_pendulum", {}, "pendulum"),
    ("ppo", {}, "lunar_lander"),
    ("a2c", {}, "lunar_lander"),
    ("a2c", {"privileged": True}, "lunar_lander_blind"),
    ("ppo_privileged", {}, "lunar_lander_hidden"),
    ("a2c_privileged", {}, "lunar_lander_hidden"),
]
"""Options of `expert` and `env` for which an expert ships."""


def test_options_of_conf_find_every_shipped_expert(tmp_path: Path) -> None:
    found = []
    for expert, changes, env in SETTINGS:
        values = {**load_option("expert", expert), **changes, "train": False}
        cfg = OmegaConf.create({"env": load_option("env", env), "expert": values})
        found.append(find_or_train(Context(EnvSpec.from_config(cfg.env), Store(tmp_path)), cfg.expert).path)
    assert sorted(found) == FOLDERS
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_shipped_expert_matches_its_hash_and_keeps_the_contract(folder: Path) -> None:
    manifest = open_artifact(folder).manifest
    name, _, digest = folder.name.rpartition("-")
    assert (manifest["name"], config_hash(manifest["config"])) == (folder.name, digest)
    assert manifest.get("formerly", name).startswith(name)
    assert manifest["command"].startswith("ilt expert ")
    made, env = make_expert(manifest["expert"], trust=()), EnvSpec(**manifest["env"])
    check_expert(made, env, folder=folder, privileged=manifest["expert"].get("privileged", False))
