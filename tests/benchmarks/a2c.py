"""Learning to land: seconds from nothing to a mean of 200, ours beside Stable-Baselines3 with RL Zoo's settings."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from ilt.envs.spec import EnvSpec
from ilt.experts.actor import actor_policy
from ilt.experts.base import Score, make_expert
from ilt.experts.ppo import actor_of
from ilt.registry import load_option
from ilt.rollout.policies import Policy
from ilt.rollout.run import rollout
from tests.benchmarks.measuring import Beside, Row, at_most

SEEDS = (0, 1, 2)
SCORE_EVERY = 50_000
CAPS = {"PPO": 1_500_000, "A2C": 200_000}  # steps at which a reference gives up; RL Zoo's A2C ends there by itself


def rows(spec: EnvSpec) -> list[Row]:
    """Seconds of ours and of both references in turn, from each of `SEEDS`."""
    runs: dict[str, list[tuple[float, bool]]] = {"ours": [], "PPO": [], "A2C": []}
    for seed in SEEDS:
        runs["ours"].append(race(spec, partial(train_ours, spec, seed)))
        for name in CAPS:
            runs[name].append(race(spec, partial(train_sb3, name, spec, seed)))
    besides = []
    for name, cap in CAPS.items():
        landed = sum(reached for _, reached in runs[name])
        told = "" if landed == len(SEEDS) else f" ({len(SEEDS) - landed} of {len(SEEDS)} not there after {cap:,} steps)"
        # whoever was stopped would have taken longer; one that never gets there is not the faster reference
        bar = at_most(0.4) if landed else None
        besides.append(Beside(f"SB3 {name}, RL Zoo{told}", [seconds for seconds, _ in runs[name]], bar))
    return [Row("train A2C to a mean of 200", "s", [seconds for seconds, _ in runs["ours"]], besides)]


class _ReachedError(Exception):
    """The goal was reached."""


def race(spec: EnvSpec, train: Callable[[Score], object]) -> tuple[float, bool]:
    """Seconds until the deterministic actor's mean over 100 selection seeds is a success, or until training ends; and
    whether it was one."""
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
    """As `conf/expert/a2c.yaml` says."""
    expert = make_expert({**load_option("expert", "a2c"), "score_every": SCORE_EVERY})
    with tempfile.TemporaryDirectory() as folder:
        expert.train(spec, Path(folder), seed=seed, privileged=False, score=score, report=lambda *_: None)


def train_sb3(name: str, spec: EnvSpec, seed: int, score: Score) -> None:
    """RL Zoo's hyperparameters for LunarLander, on Stable-Baselines3's own vector env."""
    if name == "PPO":
        model: OnPolicyAlgorithm = PPO(
            "MlpPolicy",
            make_vec_env(spec.id, n_envs=16, seed=seed),
            n_steps=1024,
            batch_size=64,
            gae_lambda=0.98,
            gamma=0.999,
            n_epochs=4,
            ent_coef=0.01,
            seed=seed,
            device="cpu",
        )
    else:
        model = A2C(
            "MlpPolicy",
            make_vec_env(spec.id, n_envs=8, seed=seed),
            gamma=0.995,
            n_steps=5,
            learning_rate=LinearSchedule(0.00083, 0.0, 1.0),
            ent_coef=1e-5,
            seed=seed,
            device="cpu",
        )
    model.learn(CAPS[name], callback=_Scoring(score, spec))


class _Scoring(BaseCallback):
    """After an update, every `SCORE_EVERY` steps, and at the end."""

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
