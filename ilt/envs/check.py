"""Check that an environment meets its contract; call this in the environment's own tests."""

from typing import Any

import numpy as np

from ilt.envs.spec import EnvSpec

MOST_STEPS = 10_000  # an episode without a time limit must end within these


def check_env(env: EnvSpec) -> None:
    """Run a few random episodes. Raise ValueError, saying what is wrong, unless the environment meets its contract.

    Observations, including privileged ones, must be finite and of one size. The environment must accept every action.
    Episodes must end by their time limit, or within 10,000 steps if they have none. The reset seed must determine the
    episode and its `info["episode_params"]` bit for bit, in a fresh environment and in a used one. The parameters must
    have the same names in every episode. Raise ConfigError if the environment or its spaces are not supported.
    """
    used, fresh = env.make(), env.make()
    try:
        _Run(env, used, seed=1)
        again, first = _Run(env, used, seed=0), _Run(env, fresh, seed=0)
    finally:
        used.close()
        fresh.close()
    for what in ("observations", "rewards", "ends", "episode_params"):
        if not np.array_equal(getattr(again, what), getattr(first, what)):
            raise ValueError(
                f"{env.id}: the seed given to reset must determine an episode, but with the same seed and actions the "
                f"{what} of a used environment differ from those of a fresh one; draw from self.np_random, after "
                "super().reset(seed=seed)"
            )


class _Run:
    """A random episode: observations (T + 1, size), rewards, ends, and the values of `episode_params`."""

    def __init__(self, env: EnvSpec, made: Any, *, seed: int) -> None:
        self._env, space, rng = env, env.action_space, np.random.default_rng(seed)
        limit = env.max_episode_steps or MOST_STEPS
        observation, info = made.reset(seed=int(env.seeds("selection", 2)[seed]))
        params = info.get("episode_params", {})
        if tuple(params) != env.episode_params:
            raise ValueError(
                f'{env.id}: info["episode_params"] must have the same names at every reset, got '
                f"{list(env.episode_params)} and {list(params)}"
            )
        self.episode_params = np.array([float(value) for value in params.values()])
        rows, self.ends = [self._row(observation)], (False, False)
        rewards: list[float] = []
        while not any(self.ends) and len(rewards) < limit:
            (action,) = space.for_simulator(space.sample(rng.random((1, space.dim))))
            try:
                observation, reward, terminated, truncated, _ = made.step(action)
            except Exception as error:
                raise ValueError(f"{env.id}: step must accept every action of {space}, but {action} fails") from error
            self.ends = bool(terminated), bool(truncated)
            rows.append(self._row(observation))
            rewards.append(float(reward))
        if not any(self.ends) and env.max_episode_steps is None:
            raise ValueError(
                f"{env.id}: an episode must end, but one with random actions did not end within {limit} steps; pass "
                "max_episode_steps to gymnasium.register"
            )
        self.observations, self.rewards = np.array(rows), np.array(rewards)
        if not np.isfinite(self.rewards).all():
            raise ValueError(f"{env.id}: rewards must be finite, got {self.rewards[~np.isfinite(self.rewards)][0]}")

    def _row(self, observation: Any) -> np.ndarray:
        layout = self._env.observations
        n, seen = layout.size(privileged=True), 0
        try:
            row, seen = layout.flatten(observation, privileged=True), layout.flatten(observation).size
        except (KeyError, IndexError, TypeError, ValueError):
            row = np.zeros(0)
        if row.shape != (n,) or seen != layout.dim or not np.isfinite(row).all():
            raise ValueError(
                f"{self._env.id}: observations must be {n} finite numbers, {layout.dim} of them for students, as its "
                f"observation_space says, got {observation}"
            )
        return row
