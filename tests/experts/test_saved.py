"""Experts that act in another variant of their environment."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from ilt.envs.spec import EnvSpec
from ilt.experts.base import make_expert
from ilt.experts.check import check_expert
from ilt.experts.find import find_or_load
from ilt.experts.saved import SavedExpert
from ilt.registry import load_option
from ilt.rollout.policies import Policy
from ilt.rollout.recorded import Context
from ilt.rollout.run import rollout
from ilt.schema import ConfigError
from ilt.tracking.store import SHIPPED, DamagedArtifactError, Store, open_artifact, write_with_digest

CARTPOLE = SHIPPED["experts"] / "ppo-a933f156d1"


def env_of(option: str) -> EnvSpec:
    return EnvSpec.from_config(OmegaConf.create(load_option("env", option)))


def saved(path: Path | str, folder: Path, env: EnvSpec, *, privileged: bool = True) -> Policy:
    expert = SavedExpert(path=str(path))
    expert.check(env, privileged=privileged)
    folder.mkdir()
    expert.train(env, folder, seed=0, privileged=privileged, score=lambda _: 0.0, report=lambda *_: None)
    return expert.policy(env, folder, privileged=privileged, deterministic=True)


def test_it_acts_on_masked_observations_as_it_did_on_whole_ones(tmp_path: Path) -> None:
    plain, masked = env_of("cartpole"), env_of("cartpole_blind")
    manifest = open_artifact(CARTPOLE).manifest
    own = make_expert(manifest["expert"]).policy(plain, CARTPOLE, privileged=False, deterministic=True)
    seeds = np.arange(3)
    expected, found = rollout(plain, own, seeds), rollout(masked, saved(CARTPOLE, tmp_path / "expert", masked), seeds)
    assert np.array_equal(found.actions, expected.actions)
    assert np.array_equal(found.lengths, expected.lengths)
    assert found.observations.shape[1] == 2


def test_it_is_found_by_its_name_and_keeps_the_contract_without_the_original(tmp_path: Path) -> None:
    copy = shutil.copytree(CARTPOLE, tmp_path / "original")
    masked = env_of("cartpole_blind")
    values = OmegaConf.create(load_option("expert", "saved") | {"path": str(copy), "privileged": True})
    values.merge_with({"selection_episodes": 2, "gate_episodes": 2})
    ctx = Context(masked, Store(tmp_path / "outputs"))
    loaded = find_or_load(ctx, values)
    assert loaded is not None
    assert loaded.artifact is not None
    assert loaded.selection_return == 500.0
    assert loaded.artifact.manifest["metrics"]["training"] == {"from": CARTPOLE.name}
    by_name = find_or_load(ctx, OmegaConf.merge(values, {"path": CARTPOLE.name}))
    assert by_name is not None
    assert by_name.identity == loaded.identity
    shutil.rmtree(copy)
    check_expert(SavedExpert(path=CARTPOLE.name), masked, folder=loaded.artifact.path, privileged=True)


def changed(folder: Path, change: dict[str, Any]) -> Path:
    """Return a copy of the expert whose manifest differs."""
    copy = shutil.copytree(CARTPOLE, folder)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["digest"]
    for key, value in change.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    (copy / "manifest.json").chmod(0o644)
    write_with_digest(copy / "manifest.json", manifest)
    return copy


HIDDEN = {
    "env": {"wrappers": load_option("env", "cartpole_hidden")["wrappers"]},
    "expert": {"privileged": True},
}
"""What changes in the manifest of an expert that sees hidden physics."""

HIDES = r"expert.privileged must be true, got false: .* observation\[1\], observation\[3\]"


@pytest.mark.parametrize(
    ("env", "change", "privileged", "said"),
    [
        ("cartpole_blind", {}, False, HIDES),
        ("pendulum", {}, False, "was trained in CartPole-v1 and cannot act in env.id=Pendulum-v1"),
        ("cartpole_blind", {"expert": None}, True, "expert.path must be the folder of a trained expert"),
        ("cartpole", HIDDEN, False, "was trained to see gravity, masspole, length, force_mag, but env shows"),
    ],
)
def test_an_expert_that_does_not_fit_is_refused(
    env: str, change: dict[str, Any], privileged: bool, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        SavedExpert(path=str(changed(tmp_path / "expert", change))).check(env_of(env), privileged=privileged)


def test_a_folder_that_is_no_expert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"expert.path must be the folder of a trained expert.*got {tmp_path}"):
        SavedExpert(path=str(tmp_path)).check(env_of("cartpole"), privileged=False)


def test_a_damaged_expert_is_refused(tmp_path: Path) -> None:
    copy = shutil.copytree(CARTPOLE, tmp_path / "expert")
    file = copy / next(iter(open_artifact(CARTPOLE).manifest["files"]))
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedArtifactError, match=file.name):
        SavedExpert(path=str(copy)).identity()


def test_only_code_of_ilt_is_run(tmp_path: Path) -> None:
    copy = changed(tmp_path / "original", {"expert": {"_target_": "antigravity.geohash"}})
    with pytest.raises(ConfigError, match="antigravity"):
        saved(copy, tmp_path / "expert", env_of("cartpole_blind"))
