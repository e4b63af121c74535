"""Collecting demonstrations to a file, beside the environment limit and beside SB3's `evaluate_policy`."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from ilt.envs import EnvSpec
from ilt.rollouts import rollout
from ilt.workers import cores
from tests.benchmarks.flights import environment_limit, shipped_expert
from tests.benchmarks.measuring import Row, at_least, compare

N_EPISODES = 1000
N_REFERENCE = 64


class _Sb3Policy:
    """The same expert in the form that `evaluate_policy` takes."""

    def __init__(self) -> None:
        self._policy = shipped_expert()

    def predict(self, observations: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
        return self._policy.act(np.arange(len(observations)), observations), None


def rows(spec: EnvSpec) -> list[Row]:
    """Steps per second."""
    n, expert, seeds = cores(), shipped_expert(), spec.seeds("demonstrations", N_EPISODES)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            episodes = rollout(spec, expert, seeds, n_processes=n)
            episodes.save(Path(folder) / "demonstrations.npz")
            return len(episodes.actions) / (time.perf_counter() - started)

    def sb3() -> float:
        envs = make_vec_env(spec.id, n_envs=16, seed=0)
        started = time.perf_counter()
        _, lengths = evaluate_policy(_Sb3Policy(), envs, n_eval_episodes=N_REFERENCE, return_episode_rewards=True)  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        envs.close()
        assert isinstance(lengths, list)
        return sum(lengths) / seconds

    limit = environment_limit(spec)  # starts the workers, too
    return [
        compare(
            f"collect {N_EPISODES:,} demonstrations, to the file",
            "steps/s",
            ours,
            [("environment limit", limit, at_least(0.85)), ("SB3 evaluate_policy, 16 envs", sb3, at_least(15))],
        )
    ]
