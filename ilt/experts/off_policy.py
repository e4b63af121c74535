"""Stable-Baselines3's SAC and sb3-contrib's TQC, for continuous actions that on-policy learning finds hard."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ilt.envs.spec import EnvSpec
from ilt.experts.actor import Actor, actor_policy
from ilt.experts.base import Expert, Report, Score
from ilt.experts.sb3 import BatchedVecEnv, ScoringCallback, global_rng, restore_global_rng
from ilt.experts.training import TrainingLog
from ilt.experts.training_envs import restore_rng, rng_state
from ilt.rollout.policies import Policy
from ilt.schema import ConfigError

_STORED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""Arrays of SB3's replay buffer."""


def actor_of(model: Any) -> Actor:
    """Copy the actor of SAC or TQC into an `Actor`, without its state-dependent deviation."""
    linears = [layer for layer in (*model.actor.latent_pi, model.actor.mu) if isinstance(layer, torch.nn.Linear)]
    actor = Actor(
        observation_dim=linears[0].in_features,
        n_outputs=linears[-1].out_features,
        hidden=[layer.out_features for layer in linears[:-1]],
        activation="relu",
        squash=True,
    )
    targets = [layer for layer in actor.layers if isinstance(layer, torch.nn.Linear)]
    for target, source in zip(targets, linears, strict=True):
        target.load_state_dict(source.state_dict())
    return actor.eval()


def state_of(model: Any) -> dict[str, Any]:
    """Return everything that a resumed run needs, its replay buffer included, as tensors and plain containers."""
    buffer = model.replay_buffer
    stored = {name: torch.tensor(getattr(buffer, name)[: buffer.size()]) for name in _STORED}
    return {
        "policy": model.policy.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in _optimizers(model)],
        "log_ent_coef": None if model.log_ent_coef is None else model.log_ent_coef.detach().clone(),
        "buffer": {**stored, "pos": buffer.pos, "full": buffer.full},
        "last": torch.tensor(model._last_obs),  # SB3 has no public name for it
        "envs": model.env.envs.state(),
        "warm_up": rng_state(model.action_space.np_random),
        "updates": model._n_updates,
        "steps": model.num_timesteps,
        **global_rng(),
    }


def restore(model: Any, state: dict[str, Any]) -> None:
    """Restore what `state_of` returned."""
    model.policy.load_state_dict(state["policy"])
    if state["log_ent_coef"] is not None:
        model.log_ent_coef.data.copy_(state["log_ent_coef"])
    for optimizer, saved in zip(_optimizers(model), state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    buffer, stored = model.replay_buffer, state["buffer"]
    for name in _STORED:
        getattr(buffer, name)[: len(stored[name])] = stored[name].numpy()
    buffer.pos, buffer.full = stored["pos"], stored["full"]
    model._last_obs = state["last"].numpy()
    model.env.envs.restore(state["envs"])
    restore_rng(model.action_space.np_random, state["warm_up"])
    model._n_updates, model.num_timesteps = state["updates"], state["steps"]
    restore_global_rng(state)


def _optimizers(model: Any) -> list[torch.optim.Optimizer]:
    found = [model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer]
    return [optimizer for optimizer in found if optimizer is not None]


class SAC(Expert):
    """Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905), which acts by the mode of its policy.

    Args:
        total_steps: environment steps of training.
        score_every: environment steps between scorings on selection seeds.
        hidden: width of each hidden layer of actor and critics.
        n_envs: environments stepped together.
        buffer_size: steps that the replay buffer holds; never more than `total_steps`.
        hyperparameters: other arguments of the algorithm.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        score_every: int,
        hidden: Sequence[int],
        n_envs: int,
        buffer_size: int,
        **hyperparameters: Any,
    ) -> None:
        self.total_steps, self._score_every, self._n_envs = total_steps, score_every, n_envs
        self.gradient_steps = total_steps * hyperparameters["gradient_steps"] // hyperparameters["train_freq"] // n_envs
        self._policy_kwargs: dict[str, Any] = {"net_arch": list(hidden)}
        self._hyperparameters = {"buffer_size": min(buffer_size, total_steps), **hyperparameters}

    def check(self, env: EnvSpec, *, privileged: bool) -> None:
        if not env.action_space.continuous:
            raise ConfigError(
                f"expert must be one for choices, such as ppo or a2c, where env.id={env.id} has the actions "
                f"{env.action_space}, got {type(self).__name__.lower()}, which needs numbers"
            )

    def algorithm(self) -> Callable[..., OffPolicyAlgorithm]:
        """Return the class of the algorithm. Raise ConfigError if its package is missing."""
        return SB3SAC

    def train(
        self, env: EnvSpec, folder: Path, *, seed: int, privileged: bool, score: Score, report: Report
    ) -> dict[str, Any]:
        self.check(env, privileged=privileged)
        log = TrainingLog(
            folder / "training", env, score=score, every=self._score_every, report=report, privileged=privileged
        )
        envs = BatchedVecEnv(env, self._n_envs, [seed, 0], privileged=privileged)
        model: Any = self.algorithm()(
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


class TQC(SAC):
    """Truncated quantile critics (Kuznetsov et al. 2020, arXiv:2005.04269), by sb3-contrib.

    Args:
        n_critics, n_quantiles: size of the critics' ensemble, and quantiles of each.
        hyperparameters: see `SAC`; `top_quantiles_to_drop_per_net` counts the truncated quantiles of each critic.
    """

    def __init__(self, *, n_critics: int, n_quantiles: int, **hyperparameters: Any) -> None:
        super().__init__(**hyperparameters)
        self._policy_kwargs |= {"n_critics": n_critics, "n_quantiles": n_quantiles}

    def algorithm(self) -> Callable[..., OffPolicyAlgorithm]:
        try:
            from sb3_contrib import TQC as SB3TQC
        except ImportError as error:
            raise ConfigError(f"expert=tqc needs sb3-contrib: pip install 'ilt[experts]' ({error})") from error
        return SB3TQC
