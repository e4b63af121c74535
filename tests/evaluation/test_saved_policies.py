"""Saved policies, loaded by path or name."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gymnasium import spaces

from ilt.envs.spec import NO_ENV, EnvSpec
from ilt.evaluation.saved_policies import check_fit, read_policy
from ilt.experts.actor import Actor
from ilt.models.spec import ModelSpec
from ilt.rollout.recorded import Context, NamedPolicy
from ilt.rollout.run import rollout
from ilt.schema import ConfigError, named
from ilt.tracking.run_folder import read_config
from ilt.tracking.store import DamagedArtifactError, Store
from tests.analysis.finished_runs import roll_out_run
from tests.experts.toys import shipped
from tests.toys import countdown

PPO = shipped("ilt expert env=lunar_lander expert=ppo").name


@pytest.fixture(scope="module")
def run(lander: EnvSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of a student with a context of 4 steps, scored on two test seeds."""
    return roll_out_run(tmp_path_factory.mktemp("runs") / "run", lander, n_episodes=2)


@pytest.fixture
def hidden(lander: EnvSpec) -> EnvSpec:
    physics = {"_target_": "ilt.envs.lunar_lander.RandomizedPhysics", "gravity": [-11.0, -6.0]}
    return replace(lander, wrappers={"randomized_physics": physics})


def masked(spec: EnvSpec, *hide: int) -> EnvSpec:
    return replace(spec, wrappers={"mask": {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": list(hide)}})


def read(where: str | Path, spec: EnvSpec, outputs: Path = Path("outputs"), deterministic: bool = True) -> NamedPolicy:
    return read_policy("policies.it", str(where), Context(spec, Store(outputs)), deterministic=deterministic)


def publish(outputs: Path, spec: EnvSpec, *, privileged: bool = False, name: str = "tiny", **changes: Any) -> str:
    """Store an expert with an untrained network that fits the observations of an expert in `spec`; return its name."""
    expert = {**named("expert", "a2c").defaults, "privileged": privileged, **changes}

    def make(folder: Path) -> dict[str, Any]:
        size = spec.observations.size(privileged=privileged)
        Actor(observation_dim=size, n_outputs=4, hidden=[4]).save(folder / "actor.safetensors")
        return {}

    about = {"env": {"id": spec.id, "wrappers": dict(spec.wrappers)}, "expert": expert}
    return Store(outputs).find_or_make("experts", name, {"env": spec.identity()}, make, about=about).name


def copy(run: Path, folder: Path, **changes: Any) -> Path:
    """Copy a run and change config values, given by dotted key with `__` for dots."""
    config = read_config(shutil.copytree(run, folder))
    for key, value in changes.items():
        group, _, name = key.partition("__")
        config[group][name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_a_student_acts_as_it_was_scored(lander: EnvSpec, run: Path) -> None:
    student = read(run, lander)
    episodes = rollout(lander, student.policy, lander.seeds("test", 2))
    scored = np.genfromtxt(run / "episodes.csv", delimiter=",", names=True)["student_return"]
    np.testing.assert_allclose(episodes.returns, scored)
    assert student.identity["context_length"] == 4


def test_a_student_is_identified_by_weights_and_context_and_not_by_its_folder(
    lander: EnvSpec, run: Path, tmp_path: Path
) -> None:
    own = read(run, lander).identity
    assert read(copy(run, tmp_path / "runs" / "mine"), lander).identity == own
    assert read("mine", lander, tmp_path).identity == own
    assert read(copy(run, tmp_path / "shorter", evaluation__context_length=2), lander).identity != own


def test_a_shipped_expert_is_found_by_name_for_other_environments_too(lander: EnvSpec, hidden: EnvSpec) -> None:
    for spec in (lander, hidden):
        expert = read(PPO, spec)
        assert (expert.name, expert.identity, expert.policy.privileged) == ("ppo", PPO, False)
    assert [artifact.name for artifact in expert.parents] == [PPO]
    assert rollout(hidden, expert.policy, hidden.seeds("test", 1)).observations.shape[1] == 8


def test_a_privileged_expert_sees_hidden_quantities(lander: EnvSpec, hidden: EnvSpec, tmp_path: Path) -> None:
    name = publish(tmp_path, hidden, privileged=True)
    expert = read(name, hidden, tmp_path)
    assert expert.policy.privileged
    assert len(rollout(hidden, expert.policy, hidden.seeds("test", 2))) == 2
    with pytest.raises(ConfigError, match=r"^policies\.it was trained to see .*gravity.*, but env shows it "):
        read(name, lander, tmp_path)


def test_a_renamed_folder_is_the_same_expert(lander: EnvSpec, tmp_path: Path) -> None:
    name = publish(tmp_path, lander)
    (tmp_path / "experts" / name).rename(tmp_path / "best")
    assert read(tmp_path / "best", lander).identity == name


def test_the_random_policy_is_never_deterministic(lander: EnvSpec) -> None:
    policies = [read("random", lander), read(PPO, lander), read(PPO, lander, deterministic=False)]
    assert [policy.deterministic for policy in policies] == [False, True, False]


# --- errors ---


def test_other_folders_are_refused_by_their_key(lander: EnvSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^policies\.it must be the folder of a finished run .*, got nowhere$"):
        read("nowhere", lander, tmp_path)
    folder = Store(tmp_path).find_or_make("demos", "any", {"env": lander.identity()}, lambda _: {}).path
    with pytest.raises(ConfigError, match=r"policies\.it must be an expert, but .* is not one"):
        read(folder, lander)


def test_damaged_weights_and_forbidden_values_are_refused(lander: EnvSpec, run: Path, tmp_path: Path) -> None:
    damaged = copy(run, tmp_path / "damaged")
    (damaged / "weights" / "last.safetensors").write_bytes(b"other")
    with pytest.raises(DamagedArtifactError, match=r"last\.safetensors is not the file that its manifest describes"):
        read(damaged, lander)
    foreign = copy(run, tmp_path / "foreign", evaluation__reported_checkpoint="../../weights")
    with pytest.raises(ConfigError, match=r"policies\.it: .*config\.yaml: evaluation\.reported_checkpoint must be one"):
        read(foreign, lander)


def test_other_observations_and_other_environments_are_refused(lander: EnvSpec, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^policies\.it takes .* of 8 numbers .* but env shows it 7 numbers"):
        read(run, masked(lander, 2))
    with pytest.raises(ConfigError, match=r"^policies\.it was trained in LunarLander-v3 and cannot act in env"):
        read(run, countdown())
    name = publish(tmp_path, masked(lander, 2))
    assert read(name, masked(lander, 2), tmp_path).identity == name
    with pytest.raises(ConfigError, match=r"was trained to see .*observation\[3\].* env shows it .*observation\[2\]"):
        read(name, masked(lander, 3), tmp_path)  # the same size, but different numbers


def test_code_named_by_foreign_files_is_not_called(lander: EnvSpec, run: Path, tmp_path: Path) -> None:
    changes = {f"{group}___target_": "os.abort" for group in ("model", "expert", "optimizer")}
    assert read(copy(run, tmp_path / "foreign", **changes), lander).identity == read(run, lander).identity
    name = publish(tmp_path, lander, name="foreign", _target_="os.abort")
    with pytest.raises(ConfigError, match=r"expert\._target_=os\.abort is not a component of ilt"):
        read(name, lander, tmp_path)


def test_a_student_sees_the_parts_of_a_dict_in_the_order_of_its_training(tmp_path: Path) -> None:
    parts = {"velocity": spaces.Box(-1, 1, (1,)), "direction": spaces.Box(-1, 1, (2,))}
    as_in_env, as_recorded = (
        EnvSpec(id=NO_ENV, spaces=(spaces.Dict([(name, parts[name]) for name in order]), spaces.Discrete(2)))
        for order in (["velocity", "direction"], ["direction", "velocity"])
    )
    spec = ModelSpec(
        model={"_target_": "ilt.models.mlp.Linear"},
        head={"_target_": "ilt.models.heads.Categorical"},
        observation_dim=3,
        action_space=as_recorded.action_space,
        context_length=1,
        observation_names=as_recorded.observations.keyed_names,
    )
    spec.save(spec.build()[0], tmp_path / "last.safetensors")
    loaded, *_ = ModelSpec.load(tmp_path / "last.safetensors")
    check_fit("run", as_recorded, loaded)
    seen = r"run was trained to see direction\[0\], direction\[1\], velocity, but env shows it velocity, direction"
    with pytest.raises(ConfigError, match=seen):
        check_fit("run", as_in_env, loaded)
