"""Experts from files saved by Stable-Baselines3. Only weights are read; no pickled code runs."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ilt.envs.spec import EnvSpec
from ilt.experts.base import Expert, Report, Score
from ilt.models.heads import ActionHead, Categorical, Gaussian, Regression, for_deviation
from ilt.rollout.policies import NetworkPolicy, Policy
from ilt.schema import ConfigError
from ilt.tracking.reading import check_zip, reading
from ilt.tracking.store import sha256
from ilt.tracking.weights import load_weights, save_tensors

_LAYOUTS = {
    "actor-critic": (("mlp_extractor.policy_net.", "action_net."), "Tanh"),  # PPO, A2C
    "q-network": (("q_net.q_net.",), "ReLU"),  # DQN
    "squashed": (("actor.latent_pi.", "actor.mu."), "ReLU"),  # SAC, TQC
    "deterministic": (("actor.mu.",), "ReLU"),  # TD3, DDPG
}
"""For each kind of policy: the prefixes of its layers, and its default activation."""

_SQUASHED = ("squashed", "deterministic")
"""Kinds with a tanh output."""


class SB3File(Expert):
    """The policy network of a PPO, A2C, DQN, SAC, TQC, TD3 or DDPG with an MLP policy.

    Only PPO and A2C sample their actions with `expert.deterministic=false`. VecNormalize saves its running moments to a
    separate file, which is not read, so the policy must have been trained on the environment's own observations.

    Args:
        path: the zip file, whose content is part of the expert's identity.
    """

    def __init__(self, *, path: str) -> None:
        self._path = Path(path)

    def identity(self) -> dict[str, Any]:
        return {"sha256": sha256(self._path)} if self._path.is_file() else {}

    def check(self, env: EnvSpec, *, privileged: bool) -> None:
        self._read(env, privileged=privileged)

    def train(
        self, env: EnvSpec, folder: Path, *, seed: int, privileged: bool, score: Score, report: Report
    ) -> dict[str, Any]:
        tensors, about = self._read(env, privileged=privileged)
        save_tensors(tensors, folder / "policy.safetensors", about)
        return {"from": self._path.name, "kind": about["kind"]}

    def _read(self, env: EnvSpec, *, privileged: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read the policy's tensors and what they mean. ConfigError if it is not such a file, or does not fit `env`."""
        try:
            with self._path.open("rb") as file:
                check_zip(file)
            with zipfile.ZipFile(self._path) as archive:
                state = dict(torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True, map_location="cpu"))
                data = dict(json.loads(archive.read("data")))
                if sum(tensor.nbytes for tensor in state.values()) > archive.getinfo("policy.pth").file_size:
                    raise ValueError("its weights claim to be larger than the file")
        except Exception as error:  # a foreign file can raise anything
            raise ConfigError(
                f"expert.path must be a file that Stable-Baselines3 saved, got {self._path}: {error}"
            ) from error
        kind, layers = _layers(state, self._path)
        if data.get("use_sde"):
            raise ConfigError(
                f"expert.path={self._path} was trained with use_sde=True, whose actions are not supported"
            )
        tensors = {f"{i}.{name}": tensor for i, pair in enumerate(layers) for name, tensor in pair.items()}
        if "log_std" in state:
            tensors["log_std"] = state["log_std"]
        activation = _activation(data, kind, self._path)
        space, wanted = env.action_space, env.observations.size(privileged=privileged)
        takes, gives = layers[0]["weight"].shape[1], layers[-1]["weight"].shape[0]
        if takes != wanted:
            raise ConfigError(
                f"expert.path={self._path} takes observations of {takes} numbers, but env shows it {wanted}; "
                f"expert.privileged={str(not privileged).lower()} would show it another part"
            )
        numbers = kind in _SQUASHED or "log_std" in state
        if numbers != space.continuous or gives != (space.dim if numbers else sum(space.n_choices)):
            what = "numbers" if numbers else "values of choices"
            raise ConfigError(f"expert.path={self._path} gives {gives} {what}, but the actions of env are {space}")
        return tensors, {"kind": kind, "activation": activation, "n_layers": len(layers)}

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        config, state = load_weights(path := folder / "policy.safetensors")
        with reading(path):
            layers = [(state[f"{i}.weight"].numpy().T, state[f"{i}.bias"].numpy()) for i in range(config["n_layers"])]
        log_std = state["log_std"].numpy() if "log_std" in state else None
        space, samples = env.action_space, config["kind"] == "actor-critic"
        if log_std is not None:  # SB3's PPO and A2C act in the simulator's units
            half = (np.array(space.high) - np.array(space.low)) / 2
            center = (np.array(space.high) + np.array(space.low)) / 2
            weight, bias = layers[-1]
            layers[-1] = ((weight / half).astype(np.float32), ((bias - center) / half).astype(np.float32))
            log_std = for_deviation(log_std - np.log(half)).astype(np.float32)
        if space.continuous:
            head: ActionHead = Regression(action_space=space) if log_std is None else Gaussian(action_space=space)
        else:
            head = Categorical(action_space=space)
        network = _Network(config["kind"], config["activation"], layers, log_std)
        return NetworkPolicy(network, head, space, deterministic=deterministic or not samples, privileged=privileged)


class _Network:
    """The layers in NumPy. Maps observations (n, obs_dim) to the inputs of an action head, in model units."""

    def __init__(
        self, kind: str, activation: str, layers: list[tuple[np.ndarray, np.ndarray]], log_std: np.ndarray | None
    ) -> None:
        self._squashed, self._layers, self._log_std = kind in _SQUASHED, layers, log_std
        self._between: Callable[[np.ndarray], np.ndarray] = np.tanh if activation == "Tanh" else _relu

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        x = observations
        *inner, (weight, bias) = self._layers
        for w, b in inner:
            x = self._between(x @ w + b)
        outputs = x @ weight + bias
        if self._squashed:
            return np.tanh(outputs)
        if self._log_std is not None:
            return np.concatenate([outputs, np.broadcast_to(self._log_std, outputs.shape)], axis=1)
        return outputs


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def _layers(state: dict[str, Tensor], path: Path) -> tuple[str, list[dict[str, Tensor]]]:
    """Return the kind of policy, and its linear layers in order."""
    for kind, (prefixes, _) in _LAYOUTS.items() if not any("features_extractor" in key for key in state) else ():
        found = [key.removesuffix("weight") for key in state if key.startswith(prefixes) and key.endswith("weight")]
        if all(any(name.startswith(prefix) for name in found) for prefix in prefixes) and all(
            state[f"{name}weight"].ndim == 2 for name in found
        ):
            return kind, [{"weight": state[f"{name}weight"], "bias": state[f"{name}bias"]} for name in found]
    raise ConfigError(f"expert.path={path} must contain an MLP policy, got layers {sorted(state)[:6]} …")


def _activation(data: dict[str, Any], kind: str, path: Path) -> str:
    """Return the activation: the one that the file names in plain text, or SB3's default."""
    given = (data.get("policy_kwargs") or {}).get("activation_fn")
    if given is None:
        return _LAYOUTS[kind][1]
    for name in ("Tanh", "ReLU"):
        if str(given).endswith(f".{name}'>"):
            return name
    raise ConfigError(f"expert.path={path} must have Tanh or ReLU between its layers, got {given}")
