"""Policies that are named by where they are."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ilt.config import ConfigError

from ilt.envs.spec import EnvSpec
from ilt.evaluation.saved_policies import TrainedPolicy, read_policy
from ilt.experts.actor import Actor
from ilt.rollout.run import rollout
from ilt.tracking.run_folder import read_config
from ilt.tracking.store import DamagedArtifactError, Store
from tests.analysis.finished_runs import roll_out_run
from tests.toys import countdown

PPO = "ppo-c607fd4f4f"


@pytest.fixture(scope="module")
def run(lander: EnvSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a student with a context of 4 steps, flown on two test seeds."""
    return roll_out_run(tmp_path_factory.mktemp("runs") / "run", lander, n_episodes=2)


@pytest.fixture
def hidden(lander: EnvSpec) -> EnvSpec:
    return replace(lander, wrappers={"hidden_physics": {"gravity": [-11.0, -6.0]}})


def read(where: str | Path, spec: EnvSpec, outputs: Path = Path("outputs"), **options: Any) -> TrainedPolicy:
    return read_policy("policies.it", str(where), spec, Store(outputs), **{"deterministic": True, **options})


def publish(outputs: Path, spec: EnvSpec, name: str = "tiny", **config: Any) -> str:
    """An expert in the store, with an untrained network for observations as long as an expert in `spec` sees."""
    privileged = config.get("observes") == "privileged"

    def make(folder: Path) -> dict[str, Any]:
        observation_dim, n_actions = spec.sizes(privileged=privileged)
        Actor(observation_dim=observation_dim, n_actions=n_actions, hidden=[4]).save(folder / "actor.safetensors")
        return {}

    canonical_config = {"env": spec.identity(), "policy": "actor", **config}
    return Store(outputs).find_or_make("experts", name, canonical_config, make).name


def test_a_student_flies_as_it_was_scored(lander: EnvSpec, run: Path) -> None:
    student = read(run, lander)
    flown = rollout(lander, student.policy, lander.seeds("test", 2))
    noted = np.genfromtxt(run / "episodes.csv", delimiter=",", names=True)["student_return"]
    np.testing.assert_allclose(flown.returns, noted)
    assert student.identity["context_length"] == 4


def test_the_same_weights_with_another_context_are_another_policy(lander: EnvSpec, run: Path, tmp_path: Path) -> None:
    shorter = shutil.copytree(run, tmp_path / "shorter")
    config = read_config(run)
    config["evaluation"]["context_length"] = 2
    (shorter / "config.yaml").write_text(yaml.safe_dump(config))
    assert read(shutil.copytree(run, tmp_path / "copy"), lander).identity == read(run, lander).identity
    assert read(shorter, lander).identity != read(run, lander).identity


def test_a_run_may_be_named_as_it_is_in_outputs(lander: EnvSpec, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "runs" / "mine")
    assert read("mine", lander, tmp_path).identity == read(run, lander).identity


def test_an_expert_of_the_package_goes_by_its_name_also_where_it_was_not_trained(
    lander: EnvSpec, hidden: EnvSpec
) -> None:
    for spec in (lander, hidden):
        expert = read(PPO, spec)
        assert (expert.name, expert.identity, expert.policy.privileged) == ("ppo", PPO, False)
    assert [artifact.name for artifact in expert.parents] == [PPO]
    assert rollout(hidden, expert.policy, hidden.seeds("test", 1)).observations.shape[1] == 8


def test_an_expert_that_saw_what_is_hidden_is_shown_it_here_too(hidden: EnvSpec, tmp_path: Path) -> None:
    expert = read(publish(tmp_path, hidden, observes="privileged"), hidden, tmp_path)
    assert expert.policy.privileged
    assert len(rollout(hidden, expert.policy, hidden.seeds("test", 2))) == 2


def test_a_renamed_folder_is_the_same_expert(lander: EnvSpec, tmp_path: Path) -> None:
    name = publish(tmp_path, lander)
    (tmp_path / "experts" / name).rename(tmp_path / "best")
    assert read(tmp_path / "best", lander).identity == name


def test_the_random_policy_is_never_deterministic(lander: EnvSpec) -> None:
    assert read("random", lander).deterministic is False
    assert read(PPO, lander).deterministic is True
    assert read(PPO, lander, deterministic=False).deterministic is False


# --- what is refused ---


def test_what_is_not_there_is_refused_by_its_key(lander: EnvSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^policies\.it must be the folder of a finished run .*, got nowhere$"):
        read("nowhere", lander, tmp_path)


def test_a_privileged_expert_cannot_do_without_what_it_saw(lander: EnvSpec, hidden: EnvSpec, tmp_path: Path) -> None:
    name = publish(tmp_path, hidden, observes="privileged")
    with pytest.raises(ConfigError, match=r"^policies\.it takes .* of 15 numbers .* but env shows it 8 numbers"):
        read(name, lander, tmp_path)


def test_a_student_is_not_given_fewer_numbers_than_it_was_trained_with(lander: EnvSpec, run: Path) -> None:
    blind = replace(lander, wrappers={"blind": {"hide": [2]}})
    with pytest.raises(ConfigError, match=r"^policies\.it takes .* of 8 numbers .* but env shows it 7 numbers"):
        read(run, blind)


def test_as_many_numbers_are_not_enough_if_they_are_others(lander: EnvSpec, tmp_path: Path) -> None:
    blind, otherwise_blind = (replace(lander, wrappers={"blind": {"hide": [place]}}) for place in (2, 3))
    name = publish(tmp_path, blind)
    assert read(name, blind, tmp_path).identity == name
    with pytest.raises(ConfigError, match=r"was trained to see .*observation\[3\].* env shows it .*observation\[2\]"):
        read(name, otherwise_blind, tmp_path)


def test_another_kind_of_environment_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"^policies\.it was trained in LunarLander-v3 and cannot fly in env"):
        read(run, countdown())


def test_damaged_weights_are_refused(lander: EnvSpec, run: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / "weights" / "last.safetensors").write_bytes(b"other")
    with pytest.raises(DamagedArtifactError, match=r"last\.safetensors is not the file that its manifest describes"):
        read(damaged, lander)


def test_a_run_with_a_config_that_is_not_allowed_is_refused(lander: EnvSpec, run: Path, tmp_path: Path) -> None:
    foreign = shutil.copytree(run, tmp_path / "foreign")
    config = read_config(run)
    config["evaluation"]["reported_checkpoint"] = "../../weights"
    (foreign / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(
        ConfigError, match=r"policies\.it: .*config\.yaml: evaluation\.reported_checkpoint must be one of"
    ):
        read(foreign, lander)


def test_nothing_that_a_run_names_is_called(lander: EnvSpec, run: Path, tmp_path: Path) -> None:
    foreign = shutil.copytree(run, tmp_path / "foreign")
    config = read_config(run)
    config["env"]["_target_"] = config["model"]["_target_"] = config["expert"]["training"]["_target_"] = "os.abort"
    (foreign / "config.yaml").write_text(yaml.safe_dump(config))
    assert read(foreign, lander).identity == read(run, lander).identity


def test_an_artifact_that_is_no_expert_is_refused(lander: EnvSpec, tmp_path: Path) -> None:
    Store(tmp_path).find_or_make("demos", "any", {"env": lander.identity(), "policy": "ppo-1"}, lambda _: {})
    (folder,) = (path for path in (tmp_path / "demos").iterdir() if path.is_dir())
    with pytest.raises(ConfigError, match=r"policies\.it must be an expert, but .* is none"):
        read(folder, lander)
