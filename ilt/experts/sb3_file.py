"""Experts from files saved by Stable-Baselines3 and sb3-contrib. Only weights are read; no pickled code runs."""

import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit, ndtr
from torch import Tensor

from ilt.envs.spec import EnvSpec
from ilt.experts.base import Expert, Report, Score
from ilt.models.heads import ActionHead, Categorical, Gaussian, Regression, for_deviation
from ilt.rollout.policies import NetworkPolicy, Policy
from ilt.schema import ConfigError
from ilt.tracking.reading import check_zip, read_npz, reading
from ilt.tracking.store import file_digests
from ilt.tracking.weights import load_weights, save_tensors

log = logging.getLogger(__name__)

_LAYERS = {
    "actor-critic": ("mlp_extractor.shared_net.", "mlp_extractor.policy_net.", "action_net.weight"),  # PPO, A2C, TRPO
    "q-network": ("q_net.q_net.",),  # DQN
    "quantiles": ("quantile_net.quantile_net.",),  # QR-DQN
    "squashed": ("actor.latent_pi.", "actor.mu."),  # SAC, TQC
    "deterministic": ("actor.mu.",),  # TD3, DDPG
}
"""For each kind of policy, the prefixes of its layers, in order."""

_OTHERS = ("log_std", "value_net.", "mlp_extractor.value_net.", "critic.", "critic_target.", "actor.log_std",
           "actor_target.", "q_net_target.", "quantile_net_target.")  # fmt: skip
"""Prefixes of tensors that have no part in the most likely action."""

_TANH_OUTPUT = ("squashed", "deterministic")
_EXTRACTORS = ("FlattenExtractor", "CombinedExtractor")
"""Feature extractors that only flatten observations, in the order of Gymnasium."""

EXPORT = (
    "import numpy; v = numpy.load('vecnormalize.pkl', allow_pickle=True); numpy.savez('stats.npz', "
    "mean=v.obs_rms.mean, var=v.obs_rms.var, epsilon=v.epsilon, clip_obs=v.clip_obs)"
)
"""Python that writes the statistics of a VecNormalize's own pickle, which can run any code, to a plain file."""

_ACTIVATIONS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "tanh": ("Tanh", np.tanh),
    "relu": ("ReLU", lambda x: np.maximum(x, 0.0)),
    "elu": ("ELU", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "leaky_relu": ("LeakyReLU", lambda x: np.where(x > 0, x, 0.01 * x)),
    "silu": ("SiLU", lambda x: x * expit(x)),
    "gelu": ("GELU", lambda x: x * ndtr(x)),
}
"""For each value of `expert.activation`, the class in torch.nn, and the function with its default arguments."""


class SB3File(Expert):
    """The policy network of a PPO, A2C, TRPO, DQN, QR-DQN, SAC, TQC, TD3 or DDPG with an MLP policy.

    It takes the actions of SB3's `predict(deterministic=True)`. With `expert.deterministic=false`, only PPO, A2C and
    TRPO sample their actions, unless they were trained with gSDE.

    Args:
        path: the zip file, whose content is part of the expert's identity.
        normalization: the .npz file of VecNormalize's statistics; None if the policy sees plain observations.
        activation: the activation between the layers; None for the one that the file names, or else SB3's default.
    """

    def __init__(self, *, path: str, normalization: str | None = None, activation: str | None = None) -> None:
        self._path, self._activation = Path(path), activation
        self._normalization = None if normalization is None else Path(normalization)

    def identity(self) -> dict[str, Any]:
        return file_digests({"path": str(self._path), "normalization": str(self._normalization or "")})

    def check(self, env: EnvSpec, *, privileged: bool) -> None:
        self._read(env, privileged=privileged)

    def train(
        self, env: EnvSpec, folder: Path, *, seed: int, privileged: bool, score: Score, report: Report
    ) -> dict[str, Any]:
        tensors, about, origin = self._read(env, privileged=privileged)
        save_tensors(tensors, folder / "policy.safetensors", about)
        widths = [tensors["0.weight"].shape[1], *(len(tensors[f"{i}.bias"]) for i in range(about["n_layers"]))]
        log.info(
            "%s: %s of layers %s; activation %s, %s; observations %s",
            self._path.name, about["kind"], "–".join(map(str, widths)), about["activation"], origin,
            f"normalized by {self._normalization}" if self._normalization else
            "as they are (for a policy trained with VecNormalize, set expert.normalization)",
        )  # fmt: skip
        return {"from": self._path.name, "kind": about["kind"], "activation": about["activation"]}

    def _read(self, env: EnvSpec, *, privileged: bool) -> tuple[dict[str, Tensor], dict[str, Any], str]:
        """Read the policy's tensors, what they mean, and where its activation comes from.

        Raise ConfigError if it is not such a file, or does not fit `env`.
        """
        try:
            with self._path.open("rb") as file:
                check_zip(file)
            with zipfile.ZipFile(self._path) as archive:
                state = _tensors(archive.read("policy.pth"))
                data = dict(json.loads(archive.read("data")))
                if sum(tensor.nbytes for tensor in state.values()) > archive.getinfo("policy.pth").file_size:
                    raise ValueError("its weights claim to be larger than the file")
            kind, layers = _layers(state)
            _check_extractor(data)
            if kind == "quantiles":
                layers[-1] = _mean_of_quantiles(*layers[-1], n_quantiles=int(data["n_quantiles"]))
            clip_mean = float(_plain(data, "policy_kwargs").get("clip_mean", 2.0))
        except ConfigError as error:
            raise ConfigError(f"expert.path={self._path} {error}") from error
        except Exception as error:  # a foreign file can raise anything
            raise ConfigError(
                f"expert.path must be a file that Stable-Baselines3 saved, got {self._path}: {error}"
            ) from error
        log_std = state.get("log_std")
        self._check_fit(env, layers, privileged=privileged, continuous=kind in _TANH_OUTPUT or log_std is not None)
        activation, origin = self._activation_of(data, kind)
        about: dict[str, Any] = {"kind": kind, "activation": activation, "n_layers": len(layers)}
        tensors = {f"{i}.weight": weight for i, (weight, _) in enumerate(layers)}
        tensors |= {f"{i}.bias": bias for i, (_, bias) in enumerate(layers)}
        if kind == "actor-critic" and _plain(data, "policy_kwargs").get("squash_output") is True:  # only with gSDE
            about["kind"] = "deterministic"
        elif log_std is not None and not data.get("use_sde"):  # gSDE's deviations depend on the state
            tensors["log_std"] = log_std
        if "actor.mu.0.weight" in state and kind == "squashed":  # SAC and TQC with gSDE clip the mean before the tanh
            about["clip_mean"] = clip_mean
        if self._normalization is not None:
            tensors |= _statistics(self._normalization, layers[0][0].shape[1])
        return tensors, about, origin

    def _check_fit(
        self, env: EnvSpec, layers: list[tuple[Tensor, Tensor]], *, privileged: bool, continuous: bool
    ) -> None:
        """Raise ConfigError unless the layers take the observations, and give the actions, of an environment."""
        space, wanted = env.action_space, env.observations.size(privileged=privileged)
        takes, gives = layers[0][0].shape[1], len(layers[-1][1])
        if takes != wanted:
            raise ConfigError(
                f"expert.path={self._path} takes observations of {takes} numbers, but env shows it {wanted}; "
                f"expert.privileged={str(not privileged).lower()} would show it another part"
            )
        if continuous != space.continuous or gives != (space.dim if continuous else sum(space.n_choices)):
            what = "numbers" if continuous else "values of choices"
            raise ConfigError(f"expert.path={self._path} gives {gives} {what}, but the actions of env are {space}")

    def _activation_of(self, data: Mapping[str, Any], kind: str) -> tuple[str, str]:
        """Return the activation and where it comes from: the config, the file's plain text, or SB3's default."""
        if self._activation is not None:
            return self._activation, "as expert.activation says"
        given, policy = _plain(data, "policy_kwargs").get("activation_fn"), _plain(data, "policy_class")
        for name, (theirs, _) in _ACTIVATIONS.items():
            if given == f"<class 'torch.nn.modules.activation.{theirs}'>":
                return name, "as the file says"
        if given is not None:
            raise ConfigError(
                f"expert.activation must be given, one of {[*_ACTIVATIONS]}, since expert.path={self._path} names an "
                f"unknown one, {given}"
            )
        module = str(policy.get("__module__", "stable_baselines3"))
        ours = module.partition(".")[0] in ("stable_baselines3", "sb3_contrib")
        why = "SB3's default" if ours else f"assumed for a policy class of {module}"
        return "tanh" if kind == "actor-critic" else "relu", f"{why} (expert.activation changes it)"

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        about, state = load_weights(path := folder / "policy.safetensors")
        with reading(path):
            layers = [(state[f"{i}.weight"].numpy().T, state[f"{i}.bias"].numpy()) for i in range(about["n_layers"])]
        log_std = state["log_std"].numpy() if "log_std" in state else None
        space, on_policy = env.action_space, about["kind"] == "actor-critic"
        if space.continuous and on_policy:  # SB3's PPO and A2C act in the simulator's units
            half = (np.array(space.high) - np.array(space.low)) / 2
            center = (np.array(space.high) + np.array(space.low)) / 2
            weight, bias = layers[-1]
            layers[-1] = ((weight / half).astype(np.float32), ((bias - center) / half).astype(np.float32))
            log_std = None if log_std is None else for_deviation(log_std - np.log(half)).astype(np.float32)
        if space.continuous:
            head: ActionHead = Regression(action_space=space) if log_std is None else Gaussian(action_space=space)
        else:
            head = Categorical(action_space=space)
        samples = log_std is not None if space.continuous else on_policy
        network = _Network(about, layers, log_std, state)
        return NetworkPolicy(network, head, space, deterministic=deterministic or not samples, privileged=privileged)


class _Network:
    """The layers in NumPy. Maps observations (n, obs_dim) to the inputs of an action head, in model units."""

    def __init__(
        self,
        about: Mapping[str, Any],
        layers: list[tuple[np.ndarray, np.ndarray]],
        log_std: np.ndarray | None,
        state: Mapping[str, Tensor],
    ) -> None:
        self._layers, self._log_std, self._squashed = layers, log_std, about["kind"] in _TANH_OUTPUT
        self._clip_mean, self._activation = about.get("clip_mean", np.inf), about["activation"].lower()
        self._normalization = [state[name].numpy() for name in ("mean", "std", "clip")] if "mean" in state else None

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        x, between = observations, _ACTIVATIONS[self._activation][1]
        if self._normalization is not None:
            mean, std, clip = self._normalization
            x = np.clip((x - mean) / std, -clip, clip).astype(np.float32)  # in float64 until here, as in VecNormalize
        *inner, (weight, bias) = self._layers
        for w, b in inner:
            x = between(x @ w + b)
        outputs = x @ weight + bias
        if self._squashed:
            return np.tanh(np.clip(outputs, -self._clip_mean, self._clip_mean))
        if self._log_std is not None:
            return np.concatenate([outputs, np.broadcast_to(self._log_std, outputs.shape)], axis=1)
        return outputs


def _plain(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what a zip's JSON says about an object: its plain values, and the text of others beside a pickle."""
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def _tensors(policy: bytes) -> dict[str, Tensor]:
    """Read tensors by name. Raise ConfigError if there is anything else, such as code, which is never run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that torch did not write
            return dict(torch.load(io.BytesIO(policy), weights_only=True, map_location="cpu"))
    except Exception as error:  # a foreign file can raise anything
        found = re.search(r"GLOBAL (\S+)", str(error))
        there = f"contains {found[1]}, which is not run" if found else "contains something else or is damaged"
        raise ConfigError(f"must have nothing but tensors in policy.pth, which {there}") from error


def _layers(state: Mapping[str, Tensor]) -> tuple[str, list[tuple[Tensor, Tensor]]]:
    """Return the kind of policy, and the weight and bias of its linear layers in order, as float32.

    Raise ConfigError if it has anything else, such as a convolution or a recurrent or normalization layer.
    """
    acting = {name: tensor for name, tensor in state.items() if not name.startswith(_OTHERS)}
    kinds = {kind: prefixes[-1] for kind, prefixes in _LAYERS.items()}
    if not any(name.startswith("actor.log_std") for name in state):
        del kinds["squashed"]
    kind = next((kind for kind, last in kinds.items() if any(name.startswith(last) for name in acting)), None)
    prefixes = _LAYERS[kind] if kind else ()
    names = [name[:-6] for prefix in prefixes for name in acting if name.startswith(prefix) and name.endswith("weight")]
    strange = sorted(acting.keys() - {f"{name}{end}" for name in names for end in ("weight", "bias")})
    if kind is None or strange:
        raise ConfigError(f"must contain an MLP policy without other layers, got {', '.join(strange[:3])}")
    layers = [(acting[f"{name}weight"].float(), acting[f"{name}bias"].float()) for name in names]
    width = layers[0][0].shape[-1]
    for name, (weight, bias) in zip(names, layers, strict=True):
        if weight.shape != (len(bias), width) or not (weight.isfinite().all() and bias.isfinite().all()):
            raise ConfigError(f"must contain an MLP policy with finite weights, got {name}weight of {[*weight.shape]}")
        width = len(bias)
    return kind, layers


def _check_extractor(data: Mapping[str, Any]) -> None:
    """Raise ConfigError if observations go through more than a flattening."""
    given = str(_plain(data, "policy_kwargs").get("features_extractor_class", _EXTRACTORS[0]))
    if not re.search(rf"\b({'|'.join(_EXTRACTORS)})\b", given):
        raise ConfigError(f"must contain an MLP policy without a features extractor, got {given}")


def _mean_of_quantiles(weight: Tensor, bias: Tensor, n_quantiles: int) -> tuple[Tensor, Tensor]:
    """Return the last layer of QR-DQN's action values, whose outputs are means over quantiles (Dabney et al. 2018)."""
    return weight.reshape(n_quantiles, -1, weight.shape[1]).mean(dim=0), bias.reshape(n_quantiles, -1).mean(dim=0)


def _statistics(path: Path, size: int) -> dict[str, Tensor]:
    """Read VecNormalize's statistics for observations of `size` numbers: `mean`, `std` and `clip`, float64."""
    if not path.is_file():
        raise ConfigError(f"expert.normalization must be a file of VecNormalize's statistics, got {path}: no such file")
    try:
        arrays = read_npz(path)
        mean, var, epsilon, clip = (arrays[name].astype(np.float64) for name in ("mean", "var", "epsilon", "clip_obs"))
        if (mean.size, var.size, epsilon.size, clip.size) != (size, size, 1, 1):
            raise ValueError(f"it has means of {mean.size} numbers, but the policy takes {size}")
        std = np.sqrt(var.ravel() + epsilon)
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all() and clip > 0):
            raise ValueError("its means must be finite, and its variances and clip_obs positive")
    except Exception as error:  # a foreign file can raise anything
        raise ConfigError(
            f"expert.normalization must be a file of VecNormalize's statistics, got {path}: {error}; to make one "
            f'from a pickle that you trust, run: python -c "{EXPORT}"'
        ) from error
    return {"mean": torch.from_numpy(mean.ravel()), "std": torch.from_numpy(std), "clip": torch.from_numpy(clip)}
