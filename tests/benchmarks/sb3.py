"""Comparison with Stable-Baselines3: collecting demonstrations, and learning to land with RL Zoo's settings."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import nn

from ilt.envs.spec import EnvSpec
from ilt.experts.actor import actor_policy
from ilt.experts.base import Score, make_expert
from ilt.experts.ppo import actor_of
from ilt.registry import load_option
from ilt.rollout.policies import Policy
from ilt.rollout.run import rollout
from ilt.rollout.workers import cores
from tests.benchmarks.measuring import Beside, Row, compare, per_second
from tests.benchmarks.rollouts import environment_limit, shipped_actor, shipped_expert

N_EPISODES, N_REFERENCE = 1000, 480


def collect(spec: EnvSpec) -> list[Row]:
    """Measure steps per second, compared with the environment limit and with SB3's `evaluate_policy`."""
    n, expert, seeds = cores(), shipped_expert(), spec.seeds("demonstrations", N_EPISODES)

    def ours() -> int:
        with tempfile.TemporaryDirectory() as folder:
            episodes = rollout(spec, expert, seeds, n_processes=n)
            episodes.save(Path(folder) / "demonstrations.npz")
            return len(episodes.actions)

    limit = environment_limit(spec)  # this also starts the workers
    besides = [
        ("environment limit", limit, "≥ 0.85"),
        ("SB3 evaluate_policy, 16 envs, one process", partial(evaluation, spec), f"≥ {n}"),
    ]
    return [compare(f"collect {N_EPISODES:,} demonstrations, to the file", "steps/s", per_second(ours), *besides)]


def evaluation(spec: EnvSpec) -> float:
    """Return the steps per second of SB3's `evaluate_policy` with the shipped expert, over 16 envs in one process."""
    # as fast as it goes: no Monitor, no checks of every step, and enough episodes that few envs wait for the last
    envs = DummyVecEnv([partial(gym.make, spec.id, disable_env_checker=True)] * 16)
    envs.seed(0)
    model = sb3_expert(envs)
    evaluate = partial(evaluate_policy, n_eval_episodes=N_REFERENCE, return_episode_rewards=True, warn=False)
    rate = per_second(lambda: sum(evaluate(model, envs)[1]))()
    envs.close()
    return rate


def sb3_expert(envs: VecEnv) -> PPO:
    """Return the shipped expert as a Stable-Baselines3 model."""
    model = PPO("MlpPolicy", envs, policy_kwargs={"net_arch": [64, 64]}, device="cpu")
    sources = [layer for layer in shipped_actor().layers if isinstance(layer, nn.Linear)]
    layers = [*model.policy.mlp_extractor.policy_net, model.policy.action_net]
    for target, source in zip([layer for layer in layers if isinstance(layer, nn.Linear)], sources, strict=True):
        target.load_state_dict(source.state_dict())
    return model


# --- learning to land ---

SEEDS = (0, 1, 2)
SCORE_EVERY = 50_000
PPO_ZOO = {"n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4, "ent_coef": 0.01}
A2C_ZOO = {"gamma": 0.995, "n_steps": 5, "learning_rate": LinearSchedule(0.00083, 0.0, 1.0), "ent_coef": 1e-5}
REFERENCES: dict[str, tuple[Any, int, dict[str, Any], int]] = {
    "PPO": (PPO, 16, PPO_ZOO, 1_500_000),
    "A2C": (A2C, 8, A2C_ZOO, 200_000),
}
"""The algorithm, its number of envs, RL Zoo's hyperparameters, and the steps after which it gives up; for A2C that is
the length of RL Zoo's training."""


def a2c(spec: EnvSpec) -> list[Row]:
    """Measure the seconds until a mean return of 200, for ours and both references in turn, from each of `SEEDS`."""
    runs: dict[str, list[tuple[float, bool]]] = {"ours": [], "PPO": [], "A2C": []}
    for seed in SEEDS:
        runs["ours"].append(race(spec, partial(train_ours, spec, seed)))
        for name in REFERENCES:
            runs[name].append(race(spec, partial(train_sb3, name, spec, seed)))
    seconds = {name: [taken for taken, _ in results] for name, results in runs.items()}
    besides = []
    for name, (*_, cap) in REFERENCES.items():
        missed = sum(not reached for _, reached in runs[name])
        note = f" ({missed} of {len(SEEDS)} not there after {cap:,} steps)" if missed else ""
        # a capped training would have taken longer; one that never reaches the goal is not a reference
        bar = "≤ 0.4" if missed < len(SEEDS) else None
        besides.append(Beside(f"SB3 {name}, RL Zoo{note}", seconds[name], bar))
    return [Row("train A2C to a mean of 200", "s", seconds["ours"], besides)]


class _ReachedError(Exception):
    """Raised when the goal is reached."""


def race(spec: EnvSpec, train: Callable[[Score], object]) -> tuple[float, bool]:
    """Return the seconds until the deterministic actor's mean return over 100 selection seeds is a success, or until
    training ends, and whether it succeeded."""
    seeds = spec.seeds("selection", 100)

    def score(policy: Policy) -> float:
        mean = float(rollout(spec, policy, seeds).returns.mean())
        if mean >= spec.success_return:
            raise _ReachedError
        return mean

    started, reached = time.perf_counter(), False
    try:
        train(score)
    except _ReachedError:
        reached = True
    return time.perf_counter() - started, reached


def train_ours(spec: EnvSpec, seed: int, score: Score) -> None:
    """Train with the settings of `conf/expert/a2c.yaml`."""
    expert = make_expert({**load_option("expert", "a2c"), "score_every": SCORE_EVERY})
    with tempfile.TemporaryDirectory() as folder:
        expert.train(spec, Path(folder), seed=seed, privileged=False, score=score, report=lambda *_: None)


def train_sb3(name: str, spec: EnvSpec, seed: int, score: Score) -> None:
    """Train with Stable-Baselines3 on its own vector env."""
    algorithm, n_envs, settings, cap = REFERENCES[name]
    model = algorithm("MlpPolicy", make_vec_env(spec.id, n_envs, seed=seed), seed=seed, device="cpu", **settings)
    model.learn(cap, callback=_Scoring(score, spec))


class _Scoring(BaseCallback):
    """Scores the actor after an update, every `SCORE_EVERY` steps, and at the end."""

    def __init__(self, score: Score, spec: EnvSpec) -> None:
        super().__init__()
        self._score, self._space, self._scored_at = score, spec.action_space, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps // SCORE_EVERY > self._scored_at // SCORE_EVERY:
            self._on_training_end()

    def _on_training_end(self) -> None:
        assert isinstance(self.model, OnPolicyAlgorithm)
        self._scored_at = self.num_timesteps
        self._score(actor_policy(actor_of(self.model), self._space, privileged=False, deterministic=True))
