"""Learning to land: seconds from nothing to a mean of 200, ours beside Stable-Baselines3 with RL Zoo's settings."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from ilt.envs import EnvSpec
from ilt.experts.a2c import train_a2c
from ilt.experts.actor import Actor
from ilt.experts.ppo import actor_of
from ilt.experts.training import Score
from ilt.rollouts import ExpertPolicy, rollout

SEEDS = (0, 1, 2)
SCORE_EVERY = 50_000
CAPS = {"PPO": 1_500_000, "A2C": 200_000}  # steps at which a reference gives up; RL Zoo's A2C ends there by itself

Report = Callable[[int], None]


@dataclass(frozen=True)
class Race:
    """Seconds to the goal, one entry per training seed, scoring included; None where it was not reached.

    Attributes:
        ours_steps, their_steps: environment steps at the goal, or at the end without it.
    """

    work: str
    reference: str
    ours: list[float | None]
    theirs: list[float | None]
    ours_steps: list[int]
    their_steps: list[int]

    def cells(self) -> list[str]:
        """The row as text: medians over seeds, and the ratio of the medians."""
        ratio = _median(self.ours) / _median(self.theirs)
        ours, theirs = _told(self.ours, self.ours_steps), _told(self.theirs, self.their_steps)
        return [self.work, ours, self.reference, theirs, f"{ratio:.2f}" if ratio > 0 else "–"]


def rows(spec: EnvSpec) -> list[Race]:
    """Ours and both references in turn, from each of `SEEDS`."""
    runs: dict[str, list[tuple[float | None, int]]] = {"ours": [], "PPO": [], "A2C": []}
    for seed in SEEDS:
        runs["ours"].append(race(spec, partial(train_ours, spec, seed)))
        for name in CAPS:
            runs[name].append(race(spec, partial(train_sb3, name, spec, seed)))
    seconds = {name: [run[0] for run in of_name] for name, of_name in runs.items()}
    steps = {name: [run[1] for run in of_name] for name, of_name in runs.items()}
    return [
        Race("train `a2c` to 200", f"SB3 {name}, RL Zoo", seconds["ours"], seconds[name], steps["ours"], steps[name])
        for name in CAPS
    ]


class _ReachedError(Exception):
    """The goal was reached."""


def race(spec: EnvSpec, train: Callable[[Score, Report], None]) -> tuple[float | None, int]:
    """Seconds until the deterministic actor's mean over 100 selection seeds is a success, or None; and steps done."""
    seeds, steps = spec.seeds("selection", 100), [0]

    def score(actor: Actor) -> float:
        mean = float(rollout(spec, ExpertPolicy(actor, deterministic=True), seeds).returns.mean())
        if mean >= spec.success_return:
            raise _ReachedError
        return mean

    started = time.perf_counter()
    try:
        train(score, steps.append)
    except _ReachedError:
        return time.perf_counter() - started, steps[-1]
    return None, steps[-1]


def train_ours(spec: EnvSpec, seed: int, score: Score, report: Report) -> None:
    """As `conf/expert/a2c.yaml` says."""
    config = yaml.safe_load(Path("conf/expert/a2c.yaml").read_text())["training"]
    settings = {key: value for key, value in config.items() if key not in ("_target_", "score_every")}
    with tempfile.TemporaryDirectory() as folder:
        train_a2c(
            spec,
            seed=seed,
            folder=Path(folder),
            score=score,
            score_every=SCORE_EVERY,
            report=lambda steps, return_mean: report(steps),
            **settings,
        )


def train_sb3(name: str, spec: EnvSpec, seed: int, score: Score, report: Report) -> None:
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
    model.learn(CAPS[name], callback=_Scoring(score, report))


class _Scoring(BaseCallback):
    """After an update, every `SCORE_EVERY` steps, and at the end."""

    def __init__(self, score: Score, report: Report) -> None:
        super().__init__()
        self._score, self._report, self._scored_at = score, report, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps // SCORE_EVERY > self._scored_at // SCORE_EVERY:
            self._on_training_end()

    def _on_training_end(self) -> None:
        assert isinstance(self.model, OnPolicyAlgorithm)
        self._scored_at = self.num_timesteps
        self._report(self.num_timesteps)
        self._score(actor_of(self.model))


def _median(seconds: list[float | None]) -> float:
    return statistics.median(float("inf") if value is None else value for value in seconds)


def _told(seconds: list[float | None], steps: list[int]) -> str:
    median = _median(seconds)
    if median == float("inf"):
        return f"not in {max(steps):,} steps"
    return f"{median:.0f} s, {statistics.median(steps) / 1e6:.2f} M steps"
