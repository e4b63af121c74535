"""The experts that ship with the package."""

from pathlib import Path
from typing import Any

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
NAMES = [folder.name for folder in FOLDERS]

SETTINGS = [
    ("ppo", {}, "lunar_lander"),
    ("a2c", {}, "lunar_lander"),
    ("a2c", {"privileged": True}, "lunar_lander_blind"),
    ("ppo_privileged", {}, "lunar_lander_hidden"),
    ("a2c_privileged", {}, "lunar_lander_hidden"),
]
"""Options of `expert` and `env` for which an expert ships."""


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_every_file_is_the_one_that_was_published_under_the_hash_of_its_config(folder: Path) -> None:
    manifest = open_artifact(folder).manifest
    assert manifest["name"] == folder.name
    assert folder.name.rpartition("-")[2] == config_hash(manifest["config"])
    assert manifest["formerly"].rpartition("-")[0] == folder.name.rpartition("-")[0]


@pytest.mark.parametrize(("expert", "changes", "env"), SETTINGS)
def test_it_is_found_by_the_options_of_conf(expert: str, changes: dict[str, Any], env: str, tmp_path: Path) -> None:
    values = {**load_option("expert", expert), **changes, "train": False}
    cfg = OmegaConf.create({"env": load_option("env", env), "expert": values})
    found = find_or_train(Context(EnvSpec.from_config(cfg.env), Store(tmp_path)), cfg.expert)
    assert found.name in NAMES
    assert not any(tmp_path.iterdir())


def test_each_of_them_is_found_by_one() -> None:
    assert len(FOLDERS) == len(SETTINGS)


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_it_is_rebuilt_from_its_manifest_and_holds_to_the_contract(folder: Path) -> None:
    manifest = open_artifact(folder).manifest
    made, env = make_expert(manifest["expert"], trust=()), EnvSpec(**manifest["env"])
    check_expert(made, env, folder=folder, privileged=manifest["expert"].get("privileged", False))
