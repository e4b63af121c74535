"""Experts from files that Stable-Baselines3 saved."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium import spaces

from ilt.envs.spec import EnvSpec
from ilt.experts.base import make_expert
from ilt.experts.check import check_expert
from ilt.experts.sb3_file import SB3File
from ilt.schema import ConfigError
from tests.experts.toys import SPACES, make, target

CASES = [
    *((kind, algorithm) for kind in ("discrete", "multi_discrete", "box") for algorithm in ("PPO", "A2C")),
    ("discrete", "DQN"),
    ("box", "SAC"),
    ("box", "TD3"),
    ("box", "DDPG"),
]


def saved(folder: Path, algorithm: str, kind: str, **policy: Any) -> tuple[Any, Path]:
    """A model that was never trained, with weights far from their start, and its file."""
    env = make(kind)
    if kind == "discrete":
        env.action_space = spaces.Discrete(3)  # Stable-Baselines3 counts from 0
    options: dict[str, Any] = {"buffer_size": 10} if algorithm in ("DQN", "SAC", "TD3", "DDPG") else {}
    model = getattr(sb3, algorithm)(
        "MlpPolicy", env, policy_kwargs={"net_arch": [12, 8], **policy}, seed=0, device="cpu", **options
    )
    for parameter in model.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.save(folder / "model.zip")
    return model, folder / "model.zip"


def read(path: Path, env: EnvSpec, folder: Path, **options: Any) -> SB3File:
    made = SB3File(path=str(path))
    folder.mkdir(exist_ok=True)
    given = {"seed": 0, "privileged": False, "score": lambda policy: 0.0, "report": lambda *_: None, **options}
    made.train(env, folder, **given)
    return made


@pytest.mark.parametrize(("kind", "algorithm"), CASES)
def test_it_acts_as_stable_baselines_predicts(kind: str, algorithm: str, tmp_path: Path) -> None:
    model, path = saved(tmp_path, algorithm, kind)
    made, env = read(path, target(kind), tmp_path / "expert"), target(kind)
    path.unlink()  # its weights were copied
    observations = np.random.default_rng(0).normal(0, 2, (300, 2)).astype(np.float32)
    expected = model.predict(observations, deterministic=True)[0]
    policy = made.policy(env, tmp_path / "expert", privileged=False, deterministic=True)
    actions = policy.act(np.arange(300), observations)
    if kind == "discrete":
        expected = expected - 1  # the environment counts from −1
    elif kind == "multi_discrete":
        expected = expected + SPACES[kind].start
    np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5)
    check_expert(made, env, folder=tmp_path / "expert")


def test_ppo_samples_with_the_deviation_that_was_saved(tmp_path: Path) -> None:
    model, path = saved(tmp_path, "PPO", "box")
    model.policy.log_std.data = torch.tensor([-3.0, -1.5])
    for parameter in model.policy.action_net.parameters():
        torch.nn.init.zeros_(parameter)
    model.save(path)
    made = read(path, target("box"), tmp_path / "expert")
    policy = made.policy(target("box"), tmp_path / "expert", privileged=False, deterministic=False)
    policy.reset(np.arange(4000), np.arange(4000))
    actions = policy.act(np.arange(4000), np.zeros((4000, 2), np.float32))
    np.testing.assert_allclose(actions.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(actions.std(axis=0), np.exp([-3.0, -1.5]), rtol=0.05)


def test_the_activation_is_read_from_plain_text(tmp_path: Path) -> None:
    model, path = saved(tmp_path, "PPO", "discrete", activation_fn=torch.nn.ReLU)
    made = read(path, target("discrete"), tmp_path / "expert")
    observations = np.random.default_rng(0).normal(0, 2, (300, 2)).astype(np.float32)
    policy = made.policy(target("discrete"), tmp_path / "expert", privileged=False, deterministic=True)
    assert (
        np.array_equal(policy.act(np.arange(300), observations) + 1, model.predict(observations)[0])
        or (policy.act(np.arange(300), observations) + 1 == model.predict(observations, deterministic=True)[0]).all()
    )
    _, path = saved(tmp_path, "PPO", "discrete", activation_fn=torch.nn.ELU)
    with pytest.raises(ConfigError, match=r"Tanh or ReLU between its layers, got .*ELU"):
        read(path, target("discrete"), tmp_path / "elu")


class Poison:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def rewritten(path: Path, **members: bytes) -> Path:
    """The same zip, with other content in some of its files."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path.with_name("other.zip"), "w") as archive:
        for name, data in {**content, **members}.items():
            archive.writestr(name, data)
    return path.with_name("other.zip")


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    _, path = saved(tmp_path, "PPO", "discrete")
    import base64

    touched, poison = tmp_path / "touched", pickle.dumps(Poison(tmp_path / "touched"))
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = base64.b64encode(poison).decode()
    other = rewritten(path, **{"data": json.dumps(data).encode(), "pytorch_variables.pth": poison})
    read(other, target("discrete"), tmp_path / "read")
    torch.save({"mlp_extractor.policy_net.0.weight": Poison(touched)}, tmp_path / "policy.pth")
    other = rewritten(path, **{"policy.pth": (tmp_path / "policy.pth").read_bytes()})
    with pytest.raises(
        ConfigError, match=r"expert\.path must be a file that Stable-Baselines3 saved, got .*other\.zip"
    ):
        read(other, target("discrete"), tmp_path / "refused")
    assert not touched.exists()


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"data": b"no json"}, "must be a file that Stable-Baselines3 saved"),
        ({"policy.pth": b"no weights"}, "must be a file that Stable-Baselines3 saved"),
        ({"data": b'{"use_sde": true}'}, "use_sde=True"),
    ],
)
def test_a_file_of_another_kind_is_refused(members: dict[str, bytes], told: str, tmp_path: Path) -> None:
    _, path = saved(tmp_path, "PPO", "discrete")
    with pytest.raises(ConfigError, match=told):
        read(rewritten(path, **members), target("discrete"), tmp_path / "expert")


def test_a_file_that_is_not_there_or_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("text")
    for name in ("missing.zip", "text.zip"):
        with pytest.raises(ConfigError, match=f"expert.path must be a file that .* got .*{name}"):
            read(tmp_path / name, target("discrete"), tmp_path / "expert")


@pytest.mark.parametrize(
    ("algorithm", "kind", "env", "told"),
    [
        ("PPO", "discrete", "box", "gives 3 values of choices, but the actions of env are 2 numbers"),
        ("SAC", "box", "discrete", "gives 2 numbers, but the actions of env are integers"),
        ("A2C", "multi_discrete", "discrete", "gives 5 values of choices, but the actions of env are integers -1 … 1"),
    ],
)
def test_actions_of_another_space_are_refused(algorithm: str, kind: str, env: str, told: str, tmp_path: Path) -> None:
    _, path = saved(tmp_path, algorithm, kind)
    with pytest.raises(ConfigError, match=told):
        read(path, target(env), tmp_path / "expert")


def test_observations_of_another_size_are_refused(lander: EnvSpec, tmp_path: Path) -> None:
    _, path = saved(tmp_path, "PPO", "discrete")
    with pytest.raises(
        ConfigError, match=r"takes observations of 2 numbers, but env shows it 8; expert\.privileged=true"
    ):
        read(path, lander, tmp_path / "expert")


def test_the_content_of_the_file_is_its_identity(tmp_path: Path) -> None:
    _, path = saved(tmp_path, "PPO", "discrete")
    values = {"_target_": "ilt.experts.sb3_file.SB3File", "path": str(path)}
    before = make_expert(values).identity()
    saved(tmp_path, "PPO", "discrete", activation_fn=torch.nn.ReLU)
    assert make_expert(values).identity() != before
