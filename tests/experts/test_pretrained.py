"""The experts that ship with the package."""

from pathlib import Path

import pytest
from ilt.config import config_hash

from ilt.experts.actor import Actor
from ilt.tracking.store import SHIPPED, open_artifact

FOLDERS = sorted(path for path in SHIPPED["experts"].iterdir() if path.is_dir())


@pytest.mark.parametrize("name", ["ppo", "a2c", "ppo-privileged", "a2c-privileged"])
def test_there_is_an_expert_of_each_kind(name: str) -> None:
    assert any(folder.name.rsplit("-", 1)[0] == name for folder in FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_every_file_is_the_one_that_was_published(folder: Path) -> None:
    assert open_artifact(folder).manifest["name"] == folder.name


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_the_name_ends_in_the_hash_of_the_config_that_made_it(folder: Path) -> None:
    assert folder.name.rsplit("-", 1)[1] == config_hash(open_artifact(folder).manifest["config"])


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_its_network_can_be_loaded(folder: Path) -> None:
    assert Actor.load(folder / "actor.safetensors").sizes["n_actions"] > 1
