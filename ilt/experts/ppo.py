"""PPO by Stable-Baselines3, on a vector env of ours that adds nothing to `Env.step`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from ilt.envs.batch import EnvBatch
from ilt.envs.spec import EnvSpec
from ilt.experts.actor import Actor
from ilt.experts.seeding import SeedStream
from ilt.experts.training import Report, Score, TrainingLog


class BatchedVecEnv(VecEnv):
    """An `EnvBatch` behind Stable-Baselines3's interface: resets by itself, hands over the last observation."""

    def __init__(self, spec: EnvSpec, n_envs: int, entropy: list[int], *, privileged: bool = False) -> None:
        self._batch = EnvBatch(spec, n_envs, privileged=privileged)
        self._slots = np.arange(n_envs)
        self._stream = SeedStream(spec, entropy)
        super().__init__(n_envs, self._batch.observation_space, self._batch.action_space)

    def reset(self) -> np.ndarray:
        for slot in self._slots:
            self._batch.reset(slot, self._stream.next())
        return self._batch.observations.copy()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        rewards, terminated, truncated = self._batch.step(self._slots, self._actions)
        infos: list[dict[str, Any]] = [{} for _ in self._slots]
        for slot in np.flatnonzero(terminated | truncated):
            infos[slot] = {
                "terminal_observation": self._batch.observations[slot].copy(),
                "TimeLimit.truncated": bool(truncated[slot]),
            }
            self._batch.reset(slot, self._stream.next())
        return self._batch.observations.copy(), rewards.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        self._batch.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs  # the one attribute asked for is render_mode, and nothing is rendered

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class _Callback(BaseCallback):
    """After each rollout of PPO: report, score, save."""

    def __init__(self, log: TrainingLog) -> None:
        super().__init__()
        self._log = log

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        model = self.model
        assert isinstance(model, PPO)
        self._log.after(self.num_timesteps, lambda: actor_of(model), lambda: state_of(model))


def actor_of(model: OnPolicyAlgorithm) -> Actor:
    """Copy the policy network of an MLP policy with tanh layers and nothing shared into an `Actor`."""
    policy = model.policy
    layers = [*policy.mlp_extractor.policy_net, policy.action_net]
    linears = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    actor = Actor(
        observation_dim=linears[0].in_features,
        n_actions=linears[-1].out_features,
        hidden=[layer.out_features for layer in linears[:-1]],
    )
    targets = [layer for layer in actor.layers if isinstance(layer, torch.nn.Linear)]
    for target, source in zip(targets, linears, strict=True):
        target.load_state_dict(source.state_dict())
    return actor.eval()


def state_of(model: PPO) -> dict[str, Any]:
    """Weights, optimizer and step count: tensors and plain containers (SB3's own zips hold pickles)."""
    return {
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "steps": model.num_timesteps,
    }


def train_ppo(
    spec: EnvSpec,
    *,
    privileged: bool = False,
    seed: int,
    folder: Path,
    score: Score,
    score_every: int,
    total_steps: int,
    hidden: Sequence[int],
    n_envs: int,
    learning_rate: float,
    final_learning_rate_fraction: float,
    report: Report | None = None,
    **hyperparameters: Any,
) -> TrainingLog:
    """Train for `total_steps` environment steps; the best actor by `score` is left at the log's `best_path`.

    Args:
        spec: the environment; training episodes take their seeds from its demonstrations block.
        privileged: whether the expert sees what the environment hides from a student.
        seed: decides weights, sampling and episodes.
        folder: holds checkpoints; training goes on from the one that is there.
        score, score_every: what the actor is worth on selection seeds, asked every so many steps.
        hidden: width of each hidden layer of actor and critic.
        n_envs: envs stepped together.
        learning_rate: at the start; falls linearly to `final_learning_rate_fraction` of it at `total_steps`.
        hyperparameters: handed to `stable_baselines3.PPO`.
    """
    log = TrainingLog(folder, score=score, every=score_every, report=report)
    state = log.resume()
    steps = 0 if state is None else state["steps"]
    model = PPO(
        "MlpPolicy",
        BatchedVecEnv(spec, n_envs, [seed, steps], privileged=privileged),
        seed=seed + steps,  # a resumed training must not draw the same numbers again
        device="cpu",
        policy_kwargs={"net_arch": list(hidden), "activation_fn": torch.nn.Tanh},
        learning_rate=LinearSchedule(learning_rate, learning_rate * final_learning_rate_fraction, 1.0),
        **hyperparameters,
    )
    if state is not None:
        model.policy.load_state_dict(state["policy"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        model.num_timesteps = steps
    if steps < total_steps:
        model.learn(total_steps - steps, callback=_Callback(log), reset_num_timesteps=False)
    if not log.history or log.history[-1]["steps"] < model.num_timesteps:
        log.score_now(model.num_timesteps, actor_of(model), lambda: state_of(model))
    return log
