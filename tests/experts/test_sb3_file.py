"""Experts from files saved by Stable-Baselines3."""

import base64
import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from ilt.envs.spec import EnvSpec
from ilt.experts.base import make_expert
from ilt.experts.check import check_expert
from ilt.experts.sb3_file import EXPORT, SB3File
from ilt.rollout.policies import Policy
from ilt.schema import ConfigError, canonical
from tests.experts.toys import SPACES, Target, target

OFF_POLICY = ("DQN", "QRDQN", "SAC", "TQC", "TD3", "DDPG", "CrossQ")
RELU, ELU, LEAKY, SILU, GELU, TANH, LAMBDA, HARD = (
    {"activation_fn": activation}
    for activation in (
        torch.nn.ReLU, torch.nn.ELU, torch.nn.LeakyReLU, torch.nn.SiLU, torch.nn.GELU, torch.nn.Tanh,
        lambda: torch.nn.Tanh(), torch.nn.Hardswish,
    )
)  # fmt: skip
SDE = {"use_sde": True}


def saved(
    folder: Path, algorithm: str = "PPO", kind: str = "discrete", *, use_sde: bool = False, env: Any = None,
    policy: Any = "MlpPolicy", **kwargs: Any,
) -> tuple[Any, Path]:  # fmt: skip
    """Return an untrained model with large random weights, and its file."""
    env = env or Target(kind)
    if kind == "discrete":
        env.action_space = spaces.Discrete(3)  # Stable-Baselines3 counts from 0
    options: dict[str, Any] = {"buffer_size": 10} if algorithm in OFF_POLICY else {}
    options |= {"use_sde": True} if use_sde else {}
    options |= {"policy_kwargs": {"net_arch": [12, 8], **kwargs}, "seed": 0, "device": "cpu"}
    model = (getattr(sb3, algorithm, None) or getattr(sb3_contrib, algorithm))(policy, env, **options)
    for name, parameter in model.policy.named_parameters():
        torch.nn.init.normal_(parameter, std=0.05 if name.endswith("bias") else 0.6)
    model.save(folder / "model.zip")
    return model, folder / "model.zip"


def normalized(folder: Path) -> tuple[VecNormalize, Path]:
    """Return a VecNormalize whose observations are often clipped, and its statistics as a plain file."""
    normalize = VecNormalize(DummyVecEnv([lambda: Target("box")]), clip_obs=1.5)
    normalize.obs_rms.mean, normalize.obs_rms.var = np.array([0.7, -3.0]), np.array([0.3, 9.0])
    normalize.save(str(folder / "vecnormalize.pkl"))
    made = EXPORT.replace("vecnormalize.pkl", f"{folder}/vecnormalize.pkl").replace("stats", f"{folder}/stats")
    exec(made)
    return normalize, folder / "stats.npz"


def read(path: Path, env: EnvSpec, *, privileged: bool = False, **keys: Any) -> SB3File:
    """Return the expert read from a file, stored in a folder next to it."""
    made, folder = SB3File(path=str(path), **keys), path.parent / "expert"
    folder.mkdir(exist_ok=True)
    made.train(env, folder, seed=0, privileged=privileged, score=lambda policy: 0.0, report=lambda *_: None)
    return made


def policy_of(path: Path, kind: str, *, deterministic: bool = True, **keys: Any) -> Policy:
    made = read(path, target(kind), **keys)
    return made.policy(target(kind), path.parent / "expert", privileged=False, deterministic=deterministic)


def shown(n: int = 1000) -> np.ndarray:
    """Return observations (n, 2) that reach every part of an activation."""
    return np.random.default_rng(0).normal(0, 2, (n, 2)).astype(np.float32)


def in_our_units(actions: np.ndarray, kind: str) -> np.ndarray:
    """Return SB3's actions, whose choices count from 0, as the environments of `target` take them."""
    return actions + {"discrete": -1, "multi_discrete": getattr(SPACES[kind], "start", 0), "box": 0}[kind]


@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalized"])
@pytest.mark.parametrize(
    ("kind", "algorithm", "options"),
    [
        *((kind, algorithm, {}) for kind in SPACES for algorithm in ("PPO", "A2C")),
        ("discrete", "TRPO", {}),
        ("discrete", "PPO", RELU),
        ("box", "A2C", RELU),
        ("box", "PPO", SDE),
        ("box", "A2C", {**SDE, "squash_output": True}),
        ("discrete", "PPO", {"net_arch": []}),
        ("discrete", "PPO", {"net_arch": {"pi": [5], "vf": [7, 3]}}),
        *(("discrete", algorithm, options) for algorithm in ("DQN", "QRDQN") for options in ({}, TANH)),
        ("discrete", "QRDQN", {"n_quantiles": 7}),
        *(("box", algorithm, options) for algorithm in ("SAC", "TQC", "TD3", "DDPG") for options in ({}, TANH)),
        *(("box", algorithm, SDE) for algorithm in ("SAC", "TQC")),
        ("box", "SAC", {**SDE, "clip_mean": 0.3}),
        ("box", "SAC", {**SDE, "clip_mean": 0.0, "net_arch": []}),
    ],
    ids=str,
)
def test_an_sb3_expert_acts_as_sb3_predicts(
    kind: str, algorithm: str, options: Any, normalize: bool, tmp_path: Path
) -> None:
    model, path = saved(tmp_path, algorithm, kind, **options)
    seen, keys = shown(), {}
    if normalize:
        wrapper, statistics = normalized(tmp_path)
        seen, keys = wrapper.normalize_obs(seen), {"normalization": str(statistics)}
        assert (abs(seen) == 1.5).any()
    policy, made = policy_of(path, kind, **keys), SB3File(path=str(path), **keys)
    path.unlink()  # the weights were copied
    expected = in_our_units(model.predict(seen, deterministic=True)[0], kind)
    np.testing.assert_allclose(policy.act(np.arange(1000), shown()), expected, rtol=0, atol=1e-5)
    assert (expected.std(axis=0) > 0.1).all()
    check_expert(made, target(kind), folder=tmp_path / "expert")


@pytest.mark.parametrize(("name", "options"), [("elu", ELU), ("leaky_relu", LEAKY), ("silu", SILU), ("gelu", GELU)])
def test_the_activation_is_the_files_or_the_configs(name: str, options: Any, tmp_path: Path) -> None:
    model, path = saved(tmp_path, "SAC", "box", **options)
    expected = model.predict(shown(), deterministic=True)[0]
    for keys in ({}, {"activation": name}):
        np.testing.assert_allclose(policy_of(path, "box", **keys).act(np.arange(1000), shown()), expected, atol=1e-5)
    other = policy_of(path, "box", activation="tanh").act(np.arange(1000), shown())
    assert abs(other - expected).max() > 0.1


class Own(ActorCriticPolicy):
    """A policy class of somebody's package, which could have another activation."""


@pytest.mark.parametrize(
    ("options", "keys", "said"),
    [
        ({}, {}, "actor-critic of layers 2–12–8–3; activation tanh, SB3's default (expert.activation changes it); "
         "observations as they are (for a policy trained with VecNormalize, set expert.normalization)"),
        (RELU, {}, "; activation relu, as the file says;"),
        ({}, {"activation": "elu"}, "; activation elu, as expert.activation says;"),
        (LAMBDA, {"activation": "tanh"}, "; activation tanh, as expert.activation says;"),
        ({"policy": Own}, {}, "; activation tanh, assumed for a policy class of tests.experts.test_sb3_file (exp"),
    ],
)  # fmt: skip
def test_one_line_says_what_was_read(
    options: Any, keys: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        read(saved(tmp_path, **options)[1], target("discrete"), **keys)
    assert [said in message and message.startswith("model.zip: ") for message in caplog.messages] == [True]


def test_a_policy_of_a_dict_sees_its_parts_in_order(tmp_path: Path) -> None:
    class Parts(gym.ObservationWrapper):
        observation_space = spaces.Dict({"privileged": spaces.Box(-9, 9, (1,)), "observation": spaces.Box(-9, 9, (1,))})

        def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
            return {"observation": observation[:1], "privileged": observation[1:]}

    model, path = saved(tmp_path, "PPO", "box", env=Parts(Target("box")), policy="MultiInputPolicy")
    parts = {"observation": shown()[:, :1], "privileged": shown()[:, 1:]}
    expected = model.predict(parts, deterministic=True)[0]
    np.testing.assert_allclose(policy_of(path, "box").act(np.arange(1000), shown()), expected, rtol=0, atol=1e-5)


def test_shared_layers_of_older_files_come_first(tmp_path: Path) -> None:
    model, path = saved(tmp_path, net_arch=[6, 5])
    state = model.policy.state_dict()
    moved = {name.replace("policy_net.0", "shared_net.0").replace("policy_net.2", "policy_net.0"): tensor
             for name, tensor in state.items()}  # fmt: skip
    torch.save({name: moved[name] for name in sorted(moved, reverse=True)}, tmp_path / "policy.pth")
    other = rewritten(path, **{"policy.pth": (tmp_path / "policy.pth").read_bytes()})
    expected = in_our_units(model.predict(shown(), deterministic=True)[0], "discrete")
    np.testing.assert_array_equal(policy_of(other, "discrete").act(np.arange(1000), shown()), expected)


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
    for poisoned in (other, rewritten(path, **{"policy.pth": poison})):  # as torch writes it, and as pickle does
        with pytest.raises(ConfigError, match=r"must have nothing but tensors in policy\.pth, which contains "):
            read(poisoned, target("discrete"))
    assert not touched.exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"data": b"no json"}, "must be a file that Stable-Baselines3 saved, got .*other.zip"),
        (
            {"policy.pth": b"no weights"},
            "must have nothing but tensors in policy.pth, which .* is damaged",
        ),
        ({"data": b'{"n_quantiles": 3'}, "must be a file that Stable-Baselines3 saved"),
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


class Doubled(BaseFeaturesExtractor):
    """Changes observations without any weights."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space, 2)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return 2 * observations


@pytest.mark.parametrize(
    ("algorithm", "kind", "options", "env", "message"),
    [
        ("PPO", "discrete", {}, "box", "gives 3 values of choices, but the actions of env are 2 numbers"),
        ("SAC", "box", {}, "discrete", "gives 2 numbers, but the actions of env are integers"),
        ("A2C", "multi_discrete", {}, "discrete", "gives 5 values of choices, but .* of env are integers -1 … 1"),
        ("PPO", "discrete", {}, "lander", r"of 2 numbers, but env shows it 8; expert\.privileged=true would show it"),
        ("PPO", "discrete", LAMBDA, "discrete", r"expert\.activation must be given, .*'relu', .*names .* <function"),
        ("PPO", "discrete", HARD, "discrete", r"expert\.activation must be given, .* <class .*Hardswish'>"),
        ("QRDQN", "discrete", {}, "box", "gives 3 values of choices, but the actions of env are 2 numbers"),
        ("CrossQ", "box", {}, "box", r"MLP policy without other layers, got .*actor\.latent_pi\.0\.ra_mean"),
        ("ARS", "discrete", {}, "discrete", r"MLP policy without other layers, got action_net\."),
        (
            "RecurrentPPO", "discrete", {"policy": "MlpLstmPolicy"}, "discrete",
            r"MLP policy without other layers, got lstm_actor\.",
        ),
        (
            "PPO", "discrete", {"features_extractor_class": Doubled}, "discrete",
            r"MLP policy without a features extractor, got <class '.*Doubled'>",
        ),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),  # the same in every process
)  # fmt: skip
def test_an_incompatible_network_is_refused(
    algorithm: str, kind: str, options: Any, env: str, message: str, lander: EnvSpec, tmp_path: Path
) -> None:
    _, path = saved(tmp_path, algorithm, kind, **options)
    chosen = lander if env == "lander" else target(env)
    with pytest.raises(ConfigError, match=message):
        read(path, chosen)
    with pytest.raises(ConfigError, match=message):  # also before any folder is made
        SB3File(path=str(path)).check(chosen, privileged=False)


def test_images_are_refused(tmp_path: Path) -> None:
    class Images(gym.ObservationWrapper):
        observation_space = spaces.Box(0, 255, (3, 36, 36), np.uint8)

        def observation(self, observation: np.ndarray) -> np.ndarray:
            return np.zeros((3, 36, 36), np.uint8)

    _, path = saved(tmp_path, "DQN", env=Images(Target("discrete")), policy="CnnPolicy")
    with pytest.raises(ConfigError, match=r"must contain an MLP policy without other layers, got q_net\.features_ex"):
        read(path, target("discrete"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (pickle.dumps({"mean": 0.0}), "run: python -c .*pickle"),
        ({"mean": np.zeros(2)}, "var is not a file|'var'"),
        ({"mean": np.zeros(3), "var": np.ones(3)}, "it has means of 3 numbers, but the policy takes 2"),
        ({"mean": np.zeros(2), "var": np.array([1.0, -1.0])}, "variances and clip_obs positive"),
        ({"mean": np.array([0.0, np.nan]), "var": np.ones(2)}, "its means must be finite"),
        ({"mean": np.array([0, Path()], dtype=object), "var": np.ones(2)}, "allow_pickle=False"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt")
def test_other_statistics_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path, statistics = saved(tmp_path)[1], tmp_path / "stats.npz"
    if isinstance(content, bytes):
        statistics.write_bytes(content)
    elif content is not None:
        np.savez(statistics, **{"epsilon": 1e-8, "clip_obs": 10.0, **content})
    with pytest.raises(ConfigError, match=rf"^expert\.normalization must be .*stats\.npz.*({message})"):
        SB3File(path=str(path), normalization=str(statistics)).check(target("discrete"), privileged=False)


def test_the_content_of_the_files_is_their_identity(tmp_path: Path) -> None:
    def identity(**keys: Any) -> dict[str, Any]:
        values = {"_target_": "ilt.experts.sb3_file.SB3File", "path": str(path), **keys}
        return {**canonical("expert", values), **make_expert(values).identity()}

    _, path = saved(tmp_path)
    first, statistics = identity(), normalized(tmp_path)[1]
    assert identity(normalization=str(statistics)) != first
    path = path.rename(tmp_path / "moved.zip")
    assert identity() == first
    _, path = saved(tmp_path, **RELU)
    assert identity() != first
