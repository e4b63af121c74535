"""Training of experts: the log, and the behavior shared by PPO and A2C."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ilt.experts.a2c import A2C
from ilt.experts.actor import Actor
from ilt.experts.base import Expert, Score
from ilt.experts.ppo import PPO
from ilt.experts.training import TrainingLog
from ilt.experts.training_envs import SeedStream
from ilt.rollout.policies import Policy
from ilt.rollout.run import rollout
from tests.experts.toys import SPACES, learned_from, target
from tests.marks import slow
from tests.toys import countdown

TRAINERS: dict[str, tuple[type[Expert], dict[str, Any]]] = {
    "a2c": (A2C, {"n_steps": 4, "n_envs": 8, "batch_size": 32, "critic_epochs": 2, "gae_lambda": 0.9}),
    "ppo": (PPO, {"n_steps": 8, "n_envs": 4, "batch_size": 32, "n_epochs": 2}),
}
COMMON = {"score_every": 64, "total_steps": 320, "hidden": [16], "gamma": 0.9, "ent_coef": 0.01, "max_grad_norm": 0.5}
COMMON |= {"learning_rate": 0.01, "final_learning_rate_fraction": 0.1, "log_std_init": -0.5}
COMMON |= {"normalize_observations": True, "normalize_rewards": True}

each_trainer = pytest.mark.parametrize("trainer", [*TRAINERS])


class KilledError(Exception):
    """Stands for a kill."""


def make(trainer: str, **changes: Any) -> Expert:
    kind, own = TRAINERS[trainer]
    return kind(**{**COMMON, **own, **changes})


def train(trainer: str, folder: Path, score: Score = lambda policy: 0.0, **changes: Any) -> dict[str, Any]:
    """Train for 320 steps, 32 per update, on five seeds, scored every 64; return the manifest's entry."""
    defaults = {"seed": 0, "privileged": False, "report": lambda *_: None}
    spec = replace(changes.pop("env", countdown()), seed_blocks=learned_from(0, 5).seed_blocks)
    options = {name: changes.pop(name, value) for name, value in defaults.items()}
    return make(trainer, **changes).train(spec, folder, score=score, **options) or {}


def history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "history.json").read_text())


def count_and_die_at(last: int | None) -> Score:
    """Return a score function that counts its calls and is killed at call number `last`."""
    counts = iter(range(1, 1000))

    def score(policy: Policy) -> float:
        count = next(counts)
        if count == last:
            raise KilledError
        return float(count)

    return score


def actor_of(value: float) -> Actor:
    """Return an actor that can be recognized by its normalization."""
    actor = Actor(observation_dim=2, n_outputs=3, hidden=[])
    actor.observation_mean.fill_(value)
    return actor


def value_of(path: Path) -> float:
    return float(Actor.load(path).observation_mean[0])


def score(policy: Policy) -> float:
    return float(policy._network._mean[0])  # type: ignore[attr-defined]


def new_log(folder: Path, *, score: Score = score, **changes: Any) -> TrainingLog:
    env = replace(countdown(), **changes)
    return TrainingLog(folder, env, score=score, every=10, report=lambda *_: None, privileged=False)


def log_of(folder: Path, values: list[float], **changes: Any) -> TrainingLog:
    """Return the log of a training with these values as scores and states at 10, 20, … steps."""
    log = new_log(folder, **changes)
    for i, value in enumerate(values, start=1):
        log.score_now(10 * i, actor_of(value), lambda value=value: {"weights": torch.tensor([value])})
    return log


@pytest.mark.parametrize(("returns", "best"), [([1, 5, 2], 1), ([-3, -2, -9], 1), ([4], 0), ([7, 7], 0)])
def test_the_best_actor_is_kept_and_the_first_of_ties(tmp_path: Path, returns: list[int], best: int) -> None:
    log = log_of(tmp_path, [*range(len(returns))], score=lambda policy: float(returns[int(score(policy))]))
    assert value_of(log.best_path) == best


def test_a_resumed_training_restores_state_history_best_actor_and_seconds(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5, 2])
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (checkpoint["steps"], checkpoint["history"]) == (30, history(tmp_path))
    kept = ["20.safetensors", "checkpoint.pt", "checkpoint.pt.before", "history.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    torch.save({**checkpoint, "seconds": 1000.0}, tmp_path / "checkpoint.pt")
    log = new_log(tmp_path)
    assert log.resume() == {"weights": torch.tensor([2.0])}
    log.after(30, lambda: actor_of(9.0), dict)  # already scored
    log.score_now(40, actor_of(4.0), dict)
    assert [(entry["steps"], entry["return_mean"]) for entry in log.history] == [(10, 1), (20, 5), (30, 2), (40, 4)]
    assert log.history[-1]["seconds"] >= 1000.0
    assert value_of(log.best_path) == 5.0
    shutil.copy(log.best_path, tmp_path / "99.safetensors")  # scored higher, but killed before its checkpoint
    again = new_log(tmp_path)
    again.resume()
    assert (again.resumed_at, again.best_path) == ([30, 40], log.best_path)


@pytest.mark.parametrize(("solved_at", "steps"), [(0.5, 10), (4.0, 20), (5.0, 20), (6.0, None), (None, None)])
def test_the_manifest_summarizes_the_training(tmp_path: Path, solved_at: float | None, steps: int | None) -> None:
    log = log_of(tmp_path / "training", [1, 5, 2], success_return=solved_at)
    summary = log.finish(30, actor_of(9.0), dict, tmp_path)
    solved = summary["first_at_success_return"]
    assert (summary["steps"], summary["best"]["steps"], summary["resumed_at_steps"]) == (30, 20, [])
    assert (None if solved is None else solved["steps"]) == steps
    assert value_of(tmp_path / "actor.safetensors") == 5.0
    assert [entry["return_mean"] for entry in history(tmp_path)] == [1, 5, 2]


@each_trainer
@pytest.mark.parametrize(("score_every", "at"), [(64, [64, 128, 192, 256, 320]), (100, [128, 224, 320]), (1000, [320])])
def test_training_is_scored_at_intervals_and_at_the_end(
    trainer: str, score_every: int, at: list[int], tmp_path: Path
) -> None:
    about = train(trainer, tmp_path, count_and_die_at(None), score_every=score_every)
    assert [(e["steps"], e["return_mean"]) for e in history(tmp_path)] == [(s, i) for i, s in enumerate(at, start=1)]
    assert (about["steps"], about["best"]["steps"], about["resumed_at_steps"]) == (320, 320, [])


@each_trainer
@pytest.mark.parametrize("kind", [*SPACES][-1:] + slow(*[*SPACES][:-1]))
def test_every_kind_of_action_learns_to_hit_a_target(trainer: str, kind: str, tmp_path: Path) -> None:
    options = {"env": target(kind), "total_steps": 6400, "score_every": 6400, "gamma": 0.0, "ent_coef": 0.0}
    returns = {}
    for name, changes in {"learned": {}, "not": {"learning_rate": 1e-9, "total_steps": 64}}.items():
        train(trainer, tmp_path / name, **{**options, **changes})
        policy = make(trainer).policy(target(kind), tmp_path / name, privileged=False, deterministic=True)
        returns[name] = rollout(target(kind), policy, np.arange(5)).returns.mean()
    assert returns["learned"] > -0.9 > returns["not"]


@each_trainer
def test_the_seed_decides_the_training(trainer: str, tmp_path: Path) -> None:
    for name, seed in {"first": 0, "again": 0, "other": 1}.items():
        train(trainer, tmp_path / name, seed=seed)
    first, again, other = ((tmp_path / n / "actor.safetensors").read_bytes() for n in ("first", "again", "other"))
    assert first == again != other


@each_trainer
@pytest.mark.parametrize("killed_while", ["scoring", "training"])
def test_a_killed_training_resumes_and_finishes_once(trainer: str, killed_while: str, tmp_path: Path) -> None:
    def die(steps: int, return_mean: float | None) -> None:
        if (killed_while, steps) == ("training", 160):
            raise KilledError

    with pytest.raises(KilledError):
        train(trainer, tmp_path, count_and_die_at(3 if killed_while == "scoring" else None), report=die)
    steps: list[int] = []
    about = train(trainer, tmp_path, lambda policy: 9.0, report=lambda step, _: steps.append(step))
    assert (about["resumed_at_steps"], min(steps)) == ([128], 128)
    assert [entry["return_mean"] for entry in history(tmp_path)] == [1, 2, 9, 9, 9]
    state = torch.load(tmp_path / "training" / "checkpoint.pt", weights_only=True)["state"]  # contains no code
    assert state["steps"] == 320
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(
        0.001
    )  # decayed as in an uninterrupted training
    before, reported = history(tmp_path), list[int]()
    train(trainer, tmp_path, report=lambda step, _: reported.append(step))
    assert (history(tmp_path), reported) == (before, [320])  # already finished


@each_trainer
def test_a_resumed_training_starts_from_the_weights_and_moments_of_its_checkpoint(trainer: str, tmp_path: Path) -> None:
    path, states = tmp_path / "training" / "checkpoint.pt", []
    for changes in ({"total_steps": 128}, {"total_steps": 160, "score_every": 32, "learning_rate": 1e-12}):
        train(trainer, tmp_path, **changes)
        states.append(torch.load(path, weights_only=True)["state"])
    before, after = (state["net" if trainer == "a2c" else "policy"] for state in states)
    for name, tensor in before.items():
        if not name.startswith("actor.observation_"):
            torch.testing.assert_close(after[name], tensor, msg=name)
    moments = [
        [state["observation_moments"], state["return_moments"]] if trainer == "a2c" else state["moments"].values()
        for state in states
    ]
    assert len([*moments[0]]) == 2
    assert all(128 <= one["count"] < 160 < other["count"] < 200 for one, other in zip(*moments, strict=True))


@each_trainer
@pytest.mark.parametrize(("seen", "rewards"), [(False, False), (True, False), (False, True)])
def test_each_normalization_has_its_own_key(trainer: str, seen: bool, rewards: bool, tmp_path: Path) -> None:
    train(trainer, tmp_path, normalize_observations=seen, normalize_rewards=rewards, total_steps=64)
    assert bool((Actor.load(tmp_path / "actor.safetensors").observation_mean != 0).any()) == seen


@each_trainer
@pytest.mark.parametrize("privileged", [False, True])
def test_only_a_privileged_expert_sees_hidden_quantities(trainer: str, privileged: bool, tmp_path: Path) -> None:
    blind = {"mask": {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [1]}}
    train(trainer, tmp_path, env=replace(countdown(), wrappers=blind), privileged=privileged, total_steps=64)
    assert Actor.load(tmp_path / "actor.safetensors").sizes["observation_dim"] == 1 + privileged


def test_seeds_cover_the_demonstrations_block_in_an_order_set_by_the_entropy() -> None:
    streams = [SeedStream(learned_from(500, 10), entropy) for entropy in ([0, 0], [0, 0], [0, 64], [1, 0])]
    first, again, resumed, other = ([stream.next() for _ in range(500)] for stream in streams)
    assert set(first) == set(range(500, 510))
    assert first == again
    assert first not in (resumed, other)
