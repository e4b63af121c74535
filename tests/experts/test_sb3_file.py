"""Experts from files saved by Stable-Baselines3."""

import base64
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
from ilt.rollout.policies import Policy
from ilt.schema import ConfigError
from tests.experts.toys import SPACES, Target, target

RELU, ELU = ({"activation_fn": activation} for activation in (torch.nn.ReLU, torch.nn.ELU))


def saved(folder: Path, algorithm: str = "PPO", kind: str = "discrete", **policy: Any) -> tuple[Any, Path]:
    """Return an untrained model with large random weights, and its file."""
    env = Target(kind)
    if kind == "discrete":
        env.action_space = spaces.Discrete(3)  # Stable-Baselines3 counts from 0
    options: dict[str, Any] = {"buffer_size": 10} if algorithm in ("DQN", "SAC", "TD3", "DDPG") else {}
    options |= {"policy_kwargs": {"net_arch": [12, 8], **policy}, "seed": 0, "device": "cpu"}
    model = getattr(sb3, algorithm)("MlpPolicy", env, **options)
    for parameter in model.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.save(folder / "model.zip")
    return model, folder / "model.zip"


def read(path: Path, env: EnvSpec) -> SB3File:
    """Return the expert read from a file, stored in a folder next to it."""
    made, folder = SB3File(path=str(path)), path.parent / "expert"
    folder.mkdir(exist_ok=True)
    made.train(env, folder, seed=0, privileged=False, score=lambda policy: 0.0, report=lambda *_: None)
    return made


def policy_of(path: Path, kind: str, *, deterministic: bool = True) -> Policy:
    made = read(path, target(kind))
    return made.policy(target(kind), path.parent / "expert", privileged=False, deterministic=deterministic)


@pytest.mark.parametrize(
    ("kind", "algorithm", "options"),
    [
        *((kind, algorithm, {}) for kind in SPACES for algorithm in ("PPO", "A2C")),
        ("discrete", "PPO", RELU),
        ("discrete", "DQN", {}),
        *(("box", algorithm, {}) for algorithm in ("SAC", "TD3", "DDPG")),
    ],
    ids=str,
)
def test_an_sb3_expert_acts_as_sb3_predicts(kind: str, algorithm: str, options: Any, tmp_path: Path) -> None:
    model, path = saved(tmp_path, algorithm, kind, **options)
    policy, made = policy_of(path, kind), SB3File(path=str(path))
    path.unlink()  # the weights were copied
    observations = np.random.default_rng(0).normal(0, 2, (300, 2)).astype(np.float32)
    expected = model.predict(observations, deterministic=True)[0]
    if kind == "discrete":
        expected = expected - 1  # the environment counts from −1
    elif kind == "multi_discrete":
        expected = expected + SPACES[kind].start
    np.testing.assert_allclose(policy.act(np.arange(300), observations), expected, rtol=0, atol=1e-5)
    check_expert(made, target(kind), folder=tmp_path / "expert")


def test_ppo_samples_with_the_saved_deviation(tmp_path: Path) -> None:
    model, path = saved(tmp_path, "PPO", "box")
    model.policy.log_std.data = torch.tensor([-3.0, -1.5])
    for parameter in model.policy.action_net.parameters():
        torch.nn.init.zeros_(parameter)
    model.save(path)
    policy = policy_of(path, "box", deterministic=False)
    policy.reset(np.arange(4000), np.arange(4000))
    actions = policy.act(np.arange(4000), np.zeros((4000, 2), np.float32))
    np.testing.assert_allclose(actions.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(actions.std(axis=0), np.exp([-3.0, -1.5]), rtol=0.05)


class Poison:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def rewritten(path: Path, **members: bytes) -> Path:
    """Write a copy of a zip with other content for some members; return its path."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path.with_name("other.zip"), "w") as archive:
        for name, data in {**content, **members}.items():
            archive.writestr(name, data)
    return path.with_name("other.zip")


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    touched, poison = tmp_path / "touched", pickle.dumps(Poison(tmp_path / "touched"))
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = base64.b64encode(poison).decode()
    read(rewritten(path, **{"data": json.dumps(data).encode(), "pytorch_variables.pth": poison}), target("discrete"))
    torch.save({"mlp_extractor.policy_net.0.weight": Poison(touched)}, tmp_path / "policy.pth")
    other = rewritten(path, **{"policy.pth": (tmp_path / "policy.pth").read_bytes()})
    with pytest.raises(ConfigError, match=r"must be a file that Stable-Baselines3 saved, got .*other\.zip"):
        read(other, target("discrete"))
    assert not touched.exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"data": b"no json"}, "must be a file that Stable-Baselines3 saved, got .*other.zip"),
        ({"policy.pth": b"no weights"}, "must be a file that Stable-Baselines3 saved, got .*other.zip"),
        ({"data": b'{"use_sde": true}'}, "use_sde=True"),
        (b"text", "must be a file that Stable-Baselines3 saved, got .*text.zip"),
        (None, "must be a file that Stable-Baselines3 saved, got .*text.zip"),
    ],
)
def test_other_files_are_refused(members: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "text.zip"
    if isinstance(members, dict):
        path = rewritten(saved(tmp_path)[1], **members)
    elif members is not None:
        path.write_bytes(members)
    with pytest.raises(ConfigError, match=f"^expert.path.*{message}"):
        read(path, target("discrete"))


@pytest.mark.parametrize(
    ("algorithm", "kind", "options", "env", "message"),
    [
        ("PPO", "discrete", {}, "box", "gives 3 values of choices, but the actions of env are 2 numbers"),
        ("SAC", "box", {}, "discrete", "gives 2 numbers, but the actions of env are integers"),
        ("A2C", "multi_discrete", {}, "discrete", "gives 5 values of choices, but .* of env are integers -1 … 1"),
        ("PPO", "discrete", {}, "lander", r"of 2 numbers, but env shows it 8; expert\.privileged=true would show it"),
        ("PPO", "discrete", ELU, "discrete", r"Tanh or ReLU between its layers, got .*ELU"),
    ],
    ids=str,
)
def test_an_incompatible_network_is_refused(
    algorithm: str, kind: str, options: Any, env: str, message: str, lander: EnvSpec, tmp_path: Path
) -> None:
    _, path = saved(tmp_path, algorithm, kind, **options)
    chosen = lander if env == "lander" else target(env)
    with pytest.raises(ConfigError, match=message):
        read(path, chosen)
    with pytest.raises(ConfigError, match=message):  # also before any folder is made
        SB3File(path=str(path)).check(chosen, privileged=False)


def test_the_content_of_the_file_is_its_identity(tmp_path: Path) -> None:
    values = {"_target_": "ilt.experts.sb3_file.SB3File", "path": str(saved(tmp_path)[1])}
    before = make_expert(values).identity()
    saved(tmp_path, **RELU)
    assert make_expert(values).identity() != before
