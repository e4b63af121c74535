"""Stable-Baselines3's PPO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from ilt.envs.spec import EnvSpec
from ilt.experts.actor import ACTIVATIONS, Actor, actor_policy
from ilt.experts.base import Expert, Report, Score
from ilt.experts.sb3 import BatchedVecEnv, ScoringCallback, global_rng, restore_global_rng
from ilt.experts.training import TrainingLog
from ilt.rollout.policies import Policy


def actor_of(model: OnPolicyAlgorithm) -> Actor:
    """Copy the network of an MLP policy into an `Actor`. It must use tanh or ReLU.

    Actor and critic must share no layers.
    """
    policy = model.policy
    layers = [*policy.mlp_extractor.policy_net, policy.action_net]
    linears = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    log_std = getattr(policy, "log_std", None)
    actor = Actor(
        observation_dim=linears[0].in_features,
        n_outputs=int(linears[-1].out_features),  # a NumPy integer for MultiDiscrete
        hidden=[layer.out_features for layer in linears[:-1]],
        continuous=log_std is not None,
        activation="relu" if policy.activation_fn is torch.nn.ReLU else "tanh",
    )
    targets = [layer for layer in actor.layers if isinstance(layer, torch.nn.Linear)]
    for target, source in zip(targets, linears, strict=True):
        target.load_state_dict(source.state_dict())
    if actor.log_std is not None:
        actor.log_std.data.copy_(torch.as_tensor(log_std))
    if isinstance(model.env, VecNormalize) and model.env.norm_obs:
        moments: Any = model.env.obs_rms
        actor.observation_mean.copy_(torch.from_numpy(moments.mean))
        actor.observation_std.copy_(torch.from_numpy(np.sqrt(moments.var + model.env.epsilon)))
    return actor.eval()


def state_of(model: OnPolicyAlgorithm) -> dict[str, Any]:
    """Return everything that a resumed run needs, as tensors and plain containers; SB3's own files contain pickles."""
    envs: Any = model.env
    moments = {}
    if isinstance(envs, VecNormalize):
        for name in ("obs_rms", "ret_rms") if envs.norm_obs else ("ret_rms",):
            rms = getattr(envs, name)
            moments[name] = {"mean": torch.tensor(rms.mean), "var": torch.tensor(rms.var), "count": float(rms.count)}
    # SB3 has no public name for the observations that the next rollout starts from
    last = {"observations": torch.tensor(model._last_obs), "starts": torch.tensor(model._last_episode_starts)}
    return {
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "moments": moments,
        "discounted": torch.tensor(getattr(envs, "returns", np.zeros(0))),
        "last": last,
        "envs": envs.unwrapped.envs.state(),
        "steps": model.num_timesteps,
        **global_rng(),
    }


def restore(model: OnPolicyAlgorithm, state: dict[str, Any]) -> None:
    """Restore what `state_of` returned."""
    envs: Any = model.env
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(state["optimizer"])
    model.num_timesteps = state["steps"]
    for name, moments in state["moments"].items():
        rms = getattr(envs, name)
        rms.mean, rms.var, rms.count = moments["mean"].numpy(), moments["var"].numpy(), moments["count"]
    if isinstance(envs, VecNormalize):
        envs.returns = state["discounted"].numpy()
    envs.unwrapped.envs.restore(state["envs"])
    model._last_obs, model._last_episode_starts = (state["last"][name].numpy() for name in ("observations", "starts"))
    restore_global_rng(state)


class PPO(Expert):
    """Stable-Baselines3's proximal policy optimization, with separate networks for actor and critic.

    Schulman et al. 2017, ["Proximal policy optimization algorithms"](https://arxiv.org/abs/1707.06347).

    Args:
        total_steps: environment steps of training.
        score_every: environment steps between scorings on selection seeds.
        hidden: width of each hidden layer of actor and critic.
        n_envs: environments stepped together.
        learning_rate: initial rate; decays linearly to `final_learning_rate_fraction` of it.
        normalize_observations, normalize_rewards: by running moments, as in SB3's VecNormalize.
        log_std_init: initial log standard deviation, for Box actions.
        activation: between the layers, `tanh` or `relu`.
        hyperparameters: other arguments of `stable_baselines3.PPO`.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        score_every: int,
        hidden: Sequence[int],
        n_envs: int,
        learning_rate: float,
        final_learning_rate_fraction: float,
        normalize_observations: bool,
        normalize_rewards: bool,
        log_std_init: float,
        activation: str = "tanh",  # experts made before the key existed have none
        **hyperparameters: Any,
    ) -> None:
        self.total_steps, self._score_every, self._n_envs = total_steps, score_every, n_envs
        self.rollout_steps = n_envs * hyperparameters["n_steps"]
        self.gradient_steps = total_steps * hyperparameters["n_epochs"] // hyperparameters["batch_size"]
        self._policy_kwargs = {
            "net_arch": list(hidden), "activation_fn": ACTIVATIONS[activation], "log_std_init": log_std_init
        }  # fmt: skip
        self._normalize = {"norm_obs": normalize_observations, "norm_reward": normalize_rewards}
        final = learning_rate * final_learning_rate_fraction
        self._hyperparameters = {"learning_rate": LinearSchedule(learning_rate, final, 1.0), **hyperparameters}

    def train(
        self, env: EnvSpec, folder: Path, *, seed: int, privileged: bool, score: Score, report: Report
    ) -> dict[str, Any]:
        log = TrainingLog(
            folder / "training", env, score=score, every=self._score_every, report=report, privileged=privileged
        )
        envs: VecEnv = BatchedVecEnv(env, self._n_envs, [seed, 0], privileged=privileged)
        if any(self._normalize.values()):
            # the exported `Actor` does not clip observations, so training must not either
            envs = VecNormalize(envs, gamma=self._hyperparameters["gamma"], clip_obs=np.inf, **self._normalize)  # type: ignore[arg-type]
        model = stable_baselines3.PPO(
            "MlpPolicy", envs, seed=seed, device="cpu", policy_kwargs=self._policy_kwargs, **self._hyperparameters
        )
        if (state := log.resume()) is not None:
            restore(model, state)
        if model.num_timesteps < self.total_steps:
            model.learn(
                self.total_steps - model.num_timesteps,
                callback=ScoringCallback(log, actor_of, state_of),
                reset_num_timesteps=False,
            )
        return log.finish(model.num_timesteps, actor_of(model), lambda: state_of(model), folder)

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        actor = Actor.load(folder / "actor.safetensors")
        return actor_policy(actor, env.action_space, privileged=privileged, deterministic=deterministic)
