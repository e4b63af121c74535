"""What both trainers need, and what both of them do."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ilt.experts.a2c import train_a2c
from ilt.experts.actor import Actor
from ilt.experts.ppo import train_ppo
from ilt.experts.training import TrainingLog
from ilt.rollout.policies import ExpertPolicy
from ilt.rollout.run import rollout
from tests.toys import BLOCKS, countdown

TRAINERS: dict[str, tuple[Callable[..., TrainingLog], dict[str, Any]]] = {
    "a2c": (
        train_a2c,
        {
            "n_steps": 4,
            "n_envs": 8,
            "batch_size": 32,
            "critic_epochs": 2,
            "gae_lambda": 0.9,
            "ent_coef": 0.01,
            "max_grad_norm": 0.5,
            "normalize_observations": True,
            "normalize_rewards": True,
        },
    ),
    "ppo": (train_ppo, {"n_steps": 8, "n_envs": 4, "batch_size": 32, "n_epochs": 2, "ent_coef": 0.01}),
}

each_trainer = pytest.mark.parametrize("trainer", [*TRAINERS])


class KilledError(Exception):
    """Stands for a kill."""


def train(
    trainer: str, folder: Path, score: Callable[[Actor], float] = lambda actor: 0.0, **changes: Any
) -> TrainingLog:
    """Train on episodes of five seeds for 320 steps, 32 at a time, scored every 64."""
    function, own = TRAINERS[trainer]
    common = {
        "seed": 0,
        "score_every": 64,
        "total_steps": 320,
        "hidden": [16],
        "gamma": 0.9,
        "learning_rate": 0.01,
        "final_learning_rate_fraction": 0.1,
    }
    spec = replace(countdown(), seed_blocks={**BLOCKS, "demonstrations": (0, 5)})
    return function(spec, folder=folder, score=score, **{**common, **own, **changes})


def count_and_die_at(last: int | None) -> Callable[[Actor], float]:
    """A score that counts its calls, and is killed at the `last` one."""
    counts = iter(range(1, 1000))

    def score(actor: Actor) -> float:
        count = next(counts)
        if count == last:
            raise KilledError
        return float(count)

    return score


def weights_of(actor: Actor) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in actor.parameters()])


def actor_of(value: float) -> Actor:
    """An actor that can be told by its normalization."""
    actor = Actor(observation_dim=1, n_actions=2, hidden=[])
    actor.observation_mean.fill_(value)
    return actor


def score(actor: Actor) -> float:
    return float(actor.observation_mean)


def log_of(folder: Path, values: list[float], every: int = 10) -> TrainingLog:
    """A training scored with these values at 10, 20, … steps, whose state is the value."""
    log = TrainingLog(folder, score=score, every=every)
    for i, value in enumerate(values, start=1):
        log.score_now(10 * i, actor_of(value), lambda value=value: {"weights": torch.tensor([value])})
    return log


def scores(log: TrainingLog) -> list[tuple[float, float]]:
    return [(entry["steps"], entry["return_mean"]) for entry in log.history]


def test_the_actor_is_scored_when_it_is_time_and_only_then(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, score=score, every=10)
    for steps in (5, 10, 15, 27, 30, 55, 59, 60):
        log.after(steps, lambda: actor_of(0.0), dict)
    assert [entry["steps"] for entry in log.history] == [10, 27, 30, 55, 60]


@pytest.mark.parametrize(("values", "best"), [([1, 5, 2], 5), ([-3, -2, -9], -2), ([4], 4)])
def test_the_best_actor_by_score_is_the_one_that_is_kept(tmp_path: Path, values: list[float], best: float) -> None:
    assert score(Actor.load(log_of(tmp_path, values).best_path)) == best


def test_of_equally_good_actors_the_first_is_kept(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, score=lambda actor: 7.0, every=10)
    for value in (1.0, 2.0):
        log.score_now(10, actor_of(value), dict)
    assert score(Actor.load(log.best_path)) == 1.0


def test_a_fresh_training_has_nothing_to_resume(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "new", score=score, every=10)
    assert log.resume() is None
    assert (log.history, log.resumed_at) == ([], [])


def test_a_resumed_training_has_the_last_state_and_the_whole_history(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5, 2])
    log = TrainingLog(tmp_path, score=score, every=10)
    state = log.resume()
    assert state is not None
    assert state["weights"].tolist() == [2.0]
    assert scores(log) == [(10, 1), (20, 5), (30, 2)]
    assert log.resumed_at == [30]


def test_every_resumption_is_remembered(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5])
    log = TrainingLog(tmp_path, score=score, every=10)
    log.resume()
    log.score_now(40, actor_of(2.0), dict)
    log = TrainingLog(tmp_path, score=score, every=10)
    log.resume()
    assert log.resumed_at == [20, 40]


def test_a_worse_actor_after_a_resumption_does_not_replace_the_best_one(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5])
    log = TrainingLog(tmp_path, score=score, every=10)
    log.resume()
    log.score_now(30, actor_of(4.0), dict)
    assert score(Actor.load(log.best_path)) == 5.0


def test_a_resumed_training_is_not_scored_again_at_the_same_steps(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5])
    log = TrainingLog(tmp_path, score=score, every=10)
    log.resume()
    log.after(20, lambda: actor_of(9.0), dict)
    assert scores(log) == [(10, 1), (20, 5)]


def test_seconds_go_on_after_a_resumption(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5])
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({**checkpoint, "seconds": 1000.0}, tmp_path / "checkpoint.pt")
    log = TrainingLog(tmp_path, score=score, every=10)
    log.resume()
    log.score_now(30, actor_of(4.0), dict)
    assert log.history[-1]["seconds"] >= 1000.0


def test_the_checkpoint_holds_no_code_and_nothing_half_written_is_left(tmp_path: Path) -> None:
    log = log_of(tmp_path, [1, 5])
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (checkpoint["steps"], checkpoint["history"]) == (20, log.history)
    assert json.loads((tmp_path / "history.json").read_text()) == log.history
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20.safetensors", "checkpoint.pt", "history.json"]


def test_steps_and_scores_are_reported(tmp_path: Path) -> None:
    reports: list[tuple[int, float | None]] = []
    log = TrainingLog(tmp_path, score=score, every=10, report=lambda *report: reports.append(report))
    log.after(5, lambda: actor_of(3.0), dict)
    log.after(10, lambda: actor_of(3.0), dict)
    assert reports == [(5, None), (10, None), (10, 3.0)]


@pytest.mark.parametrize(("solved_at", "steps"), [(0.5, 10), (4.0, 20), (5.0, 20), (6.0, None)])
def test_what_the_manifest_tells_about_the_training(tmp_path: Path, solved_at: float, steps: int | None) -> None:
    summary: dict[str, Any] = log_of(tmp_path, [1, 5, 2]).summary(solved_at)
    solved = summary["first_at_success_return"]
    assert (summary["steps"], summary["best"]["steps"], summary["resumed_at_steps"]) == (30, 20, [])
    assert (None if solved is None else solved["steps"]) == steps


@each_trainer
def test_training_goes_to_the_end_and_scores_on_the_way(trainer: str, tmp_path: Path) -> None:
    log = train(trainer, tmp_path, count_and_die_at(None))
    assert scores(log) == [(64, 1.0), (128, 2.0), (192, 3.0), (256, 4.0), (320, 5.0)]
    assert log.resumed_at == []


@each_trainer
@pytest.mark.parametrize("score_every", [100, 320, 1000])
def test_the_last_actor_is_scored_whenever_training_ends(trainer: str, tmp_path: Path, score_every: int) -> None:
    log = train(trainer, tmp_path, score_every=score_every)
    assert log.history[-1]["steps"] == 320
    assert log.best_path.exists()


@each_trainer
def test_it_learns_the_toy(trainer: str, tmp_path: Path) -> None:
    """In which action 2 is always best."""

    def actions(folder: str, **changes: Any) -> set[int]:
        log = train(trainer, tmp_path / folder, total_steps=3200, score_every=3200, **changes)
        actor = ExpertPolicy(Actor.load(log.best_path), deterministic=True)
        return set(rollout(countdown(), actor, np.arange(5)).actions.tolist())

    assert actions("learned") == {2}
    assert actions("not learned", learning_rate=0.0) != {2}


@each_trainer
def test_the_seed_decides_the_training(trainer: str, tmp_path: Path) -> None:
    logs = [train(trainer, tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1))]
    first, again, other = (weights_of(Actor.load(log.best_path)) for log in logs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@each_trainer
def test_a_training_killed_while_scoring_goes_on_from_its_checkpoint(trainer: str, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train(trainer, tmp_path, count_and_die_at(3))
    log = train(trainer, tmp_path, lambda actor: 9.0)
    assert log.resumed_at == [128]
    assert scores(log) == [(64, 1.0), (128, 2.0), (192, 9.0), (256, 9.0), (320, 9.0)]


@each_trainer
def test_a_training_killed_between_scorings_goes_on_from_its_checkpoint(trainer: str, tmp_path: Path) -> None:
    def die_at_160(steps: int, return_mean: float | None) -> None:
        if steps == 160:
            raise KilledError

    with pytest.raises(KilledError):
        train(trainer, tmp_path, report=die_at_160)
    reported: list[int] = []
    log = train(trainer, tmp_path, report=lambda steps, return_mean: reported.append(steps))
    assert log.resumed_at == [128]
    assert min(reported) == 128
    assert [entry["steps"] for entry in log.history] == [64, 128, 192, 256, 320]


@each_trainer
def test_a_resumed_training_starts_with_the_weights_of_its_checkpoint(trainer: str, tmp_path: Path) -> None:
    scored: list[torch.Tensor] = []

    def keep(actor: Actor) -> float:
        scored.append(weights_of(actor))
        return 0.0

    train(trainer, tmp_path, keep, total_steps=128)
    train(trainer, tmp_path, keep, total_steps=160, score_every=32, learning_rate=0.0)
    assert not torch.equal(scored[0], scored[1])
    assert torch.equal(scored[1], scored[2])


@each_trainer
@pytest.mark.parametrize("last_score", [None, 3])
def test_the_learning_rate_falls_to_its_final_fraction_killed_or_not(
    trainer: str, tmp_path: Path, last_score: int | None
) -> None:
    if last_score is not None:
        with pytest.raises(KilledError):
            train(trainer, tmp_path, count_and_die_at(last_score))
    train(trainer, tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert checkpoint["state"]["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.001)


@each_trainer
def test_a_finished_training_is_not_trained_again(trainer: str, tmp_path: Path) -> None:
    history = train(trainer, tmp_path).history
    reported: list[int] = []
    assert train(trainer, tmp_path, report=lambda steps, return_mean: reported.append(steps)).history == history
    assert reported == [320]


@each_trainer
def test_a_trainers_checkpoint_holds_no_code(trainer: str, tmp_path: Path) -> None:
    train(trainer, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["steps"] == 320


def test_the_best_actor_is_the_historys_even_after_a_kill_in_the_middle_of_a_scoring(tmp_path: Path) -> None:
    log = log_of(tmp_path, [1.0])
    shutil.copy(log.best_path, tmp_path / "99.safetensors")  # scored higher, but its checkpoint was never written
    again = TrainingLog(tmp_path, score=score, every=10)
    again.resume()
    assert again.best_path == log.best_path
