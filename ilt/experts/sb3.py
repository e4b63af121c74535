"""What the algorithms of Stable-Baselines3 share: a vector env without overhead, scoring, and random states."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.experts.actor import Actor
from ilt.experts.training import TrainingLog
from ilt.experts.training_envs import TrainingEnvs


class BatchedVecEnv(VecEnv):
    """`TrainingEnvs` as a Stable-Baselines3 VecEnv, with autoreset and `terminal_observation`."""

    def __init__(self, spec: EnvSpec, n_envs: int, entropy: list[int], *, privileged: bool = False) -> None:
        self.envs = TrainingEnvs(spec, n_envs, entropy, privileged=privileged)
        self._batch = self.envs.batch
        super().__init__(self._batch.n_envs, self._batch.observation_space, model_units(self._batch.action_space))

    def reset(self) -> np.ndarray:
        self.envs.begin()
        return self._batch.observations.copy()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = self._batch.action_space.decode(np.asarray(actions))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        rewards, terminated, truncated, final = self.envs.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for slot, seen in final.items():
            infos[slot] = {"terminal_observation": seen, "TimeLimit.truncated": bool(truncated[slot])}
        return self._batch.observations.copy(), rewards.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        self._batch.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs  # SB3 only asks for render_mode, and nothing is rendered

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def model_units(action_space: ActionSpace) -> spaces.Space[Any]:
    """Return the Gymnasium space of actions in model units: choices that start at 0, or numbers in [−1, 1]."""
    if action_space.continuous:
        return spaces.Box(-1.0, 1.0, (action_space.dim,), np.float32)
    if action_space.flat:
        return spaces.Discrete(action_space.n_choices[0])
    return spaces.MultiDiscrete(np.array(action_space.n_choices))


class ScoringCallback(BaseCallback):
    """Reports, scores and saves before each rollout, when the model's state is complete.

    Args:
        log: where to.
        actor_of, state_of: functions that return the model's actor, and everything that a resumed run needs.
    """

    def __init__(
        self, log: TrainingLog, actor_of: Callable[[Any], Actor], state_of: Callable[[Any], dict[str, Any]]
    ) -> None:
        super().__init__()
        self._log, self._actor_of, self._state_of = log, actor_of, state_of

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._log.after(self.num_timesteps, lambda: self._actor_of(self.model), lambda: self._state_of(self.model))


def global_rng() -> dict[str, Any]:
    """Return the state of the global generators of torch and NumPy, which SB3 draws from."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    _, keys, *others = numpy_state
    return {"torch_rng": torch.get_rng_state(), "numpy_rng": [torch.tensor(keys.astype(np.int64)), *others]}


def restore_global_rng(state: dict[str, Any]) -> None:
    """Restore what `global_rng` returned."""
    torch.set_rng_state(state["torch_rng"])
    keys, *others = state["numpy_rng"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *others))  # noqa: NPY002
