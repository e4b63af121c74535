"""What both trainers need, and what both of them do."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.experts.a2c import A2C
from ilt.experts.actor import Actor
from ilt.experts.base import Expert, Report, Score
from ilt.experts.ppo import PPO
from ilt.experts.training import TrainingLog
from ilt.rollout.policies import Policy
from ilt.rollout.run import rollout
from tests.experts.toys import SPACES, target
from tests.toys import BLOCKS, countdown

TRAINERS: dict[str, tuple[type[Expert], dict[str, Any]]] = {
    "a2c": (A2C, {"n_steps": 4, "n_envs": 8, "batch_size": 32, "critic_epochs": 2, "gae_lambda": 0.9}),
    "ppo": (PPO, {"n_steps": 8, "n_envs": 4, "batch_size": 32, "n_epochs": 2}),
}

each_trainer = pytest.mark.parametrize("trainer", [*TRAINERS])


class KilledError(Exception):
    """Stands for a kill."""


def nothing(steps: int, return_mean: float | None) -> None:
    """Report nothing."""


def train(
    trainer: str,
    folder: Path,
    score: Score = lambda policy: 0.0,
    *,
    env: EnvSpec | None = None,
    seed: int = 0,
    report: Report = nothing,
    **changes: Any,
) -> dict[str, Any]:
    """Train on episodes of five seeds for 320 steps, 32 at a time, scored every 64; what the manifest is to say."""
    kind, own = TRAINERS[trainer]
    common = {
        "score_every": 64,
        "total_steps": 320,
        "hidden": [16],
        "gamma": 0.9,
        "ent_coef": 0.01,
        "max_grad_norm": 0.5,
        "learning_rate": 0.01,
        "final_learning_rate_fraction": 0.1,
        "normalize_observations": True,
        "normalize_rewards": True,
        "log_std_init": -0.5,
    }
    spec = replace(env or countdown(), seed_blocks={**BLOCKS, "demonstrations": (0, 5)})
    made = kind(**{**common, **own, **changes})
    return made.train(spec, folder, seed=seed, privileged=False, score=score, report=report) or {}


def history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "history.json").read_text())


def actions_on(folder: Path, trainer: str, env: EnvSpec) -> Episodes:
    """What the trained expert does in five episodes."""
    kind, own = TRAINERS[trainer]
    policy = kind(total_steps=1, score_every=1, hidden=[], learning_rate=1.0, final_learning_rate_fraction=0.0,
                  normalize_observations=False, normalize_rewards=False, log_std_init=0.0, **own).policy(
        env, folder, privileged=False, deterministic=True
    )  # fmt: skip
    return rollout(env, policy, np.arange(5))


def count_and_die_at(last: int | None) -> Score:
    """A score that counts its calls, and is killed at the `last` one."""
    counts = iter(range(1, 1000))

    def score(policy: Policy) -> float:
        count = next(counts)
        if count == last:
            raise KilledError
        return float(count)

    return score


def actor_of(value: float) -> Actor:
    """An actor that can be told by its normalization."""
    actor = Actor(observation_dim=2, n_outputs=3, hidden=[])
    actor.observation_mean.fill_(value)
    return actor


def value_of(path: Path) -> float:
    return float(Actor.load(path).observation_mean[0])


def score(policy: Policy) -> float:
    return float(policy._network._mean[0])  # type: ignore[attr-defined]


def new_log(folder: Path, *, score: Score = score, report: Report = nothing, **changes: Any) -> TrainingLog:
    env = replace(countdown(), **changes)
    return TrainingLog(folder, env, score=score, every=10, report=report, privileged=False)


def log_of(folder: Path, values: list[float], **changes: Any) -> TrainingLog:
    """A training scored with these values at 10, 20, … steps, whose state is the value."""
    log = new_log(folder, **changes)
    for i, value in enumerate(values, start=1):
        log.score_now(10 * i, actor_of(value), lambda value=value: {"weights": torch.tensor([value])})
    return log


def scores(log: TrainingLog) -> list[tuple[float, float]]:
    return [(entry["steps"], entry["return_mean"]) for entry in log.history]


def test_the_actor_is_scored_when_it_is_time_and_only_then(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    for steps in (5, 10, 15, 27, 30, 55, 59, 60):
        log.after(steps, lambda: actor_of(0.0), dict)
    assert [entry["steps"] for entry in log.history] == [10, 27, 30, 55, 60]


@pytest.mark.parametrize(("values", "best"), [([1, 5, 2], 5), ([-3, -2, -9], -2), ([4], 4)])
def test_the_best_actor_by_score_is_the_one_that_is_kept(tmp_path: Path, values: list[float], best: float) -> None:
    assert value_of(log_of(tmp_path, values).best_path) == best


def test_of_equally_good_actors_the_first_is_kept(tmp_path: Path) -> None:
    log = new_log(tmp_path, score=lambda policy: 7.0)
    for value in (1.0, 2.0):
        log.score_now(10, actor_of(value), dict)
    assert value_of(log.best_path) == 1.0


def test_a_fresh_training_has_nothing_to_resume(tmp_path: Path) -> None:
    log = new_log(tmp_path / "new")
    assert log.resume() is None
    assert (log.history, log.resumed_at) == ([], [])


def test_a_resumed_training_has_the_last_state_and_the_whole_history(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5, 2])
    log = new_log(tmp_path)
    state = log.resume()
    assert state is not None
    assert state["weights"].tolist() == [2.0]
    assert scores(log) == [(10, 1), (20, 5), (30, 2)]
    assert log.resumed_at == [30]


def test_every_resumption_is_remembered(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5])
    log = new_log(tmp_path)
    log.resume()
    log.score_now(40, actor_of(2.0), dict)
    log = new_log(tmp_path)
    log.resume()
    assert log.resumed_at == [20, 40]


def test_a_worse_actor_after_a_resumption_does_not_replace_the_best_one(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5])
    log = new_log(tmp_path)
    log.resume()
    log.score_now(30, actor_of(4.0), dict)
    assert value_of(log.best_path) == 5.0


def test_a_resumed_training_is_not_scored_again_at_the_same_steps(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5])
    log = new_log(tmp_path)
    log.resume()
    log.after(20, lambda: actor_of(9.0), dict)
    assert scores(log) == [(10, 1), (20, 5)]


def test_seconds_go_on_after_a_resumption(tmp_path: Path) -> None:
    log_of(tmp_path, [1, 5])
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({**checkpoint, "seconds": 1000.0}, tmp_path / "checkpoint.pt")
    log = new_log(tmp_path)
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
    log = new_log(tmp_path, report=lambda *report: reports.append(report))
    log.after(5, lambda: actor_of(3.0), dict)
    log.after(10, lambda: actor_of(3.0), dict)
    assert reports == [(5, None), (10, None), (10, 3.0)]


@pytest.mark.parametrize(("solved_at", "steps"), [(0.5, 10), (4.0, 20), (5.0, 20), (6.0, None), (None, None)])
def test_what_the_manifest_tells_about_the_training(tmp_path: Path, solved_at: float | None, steps: int | None) -> None:
    log = log_of(tmp_path / "training", [1, 5, 2], success_return=solved_at)
    summary = log.finish(30, actor_of(9.0), dict, tmp_path)
    solved = summary["first_at_success_return"]
    assert (summary["steps"], summary["best"]["steps"], summary["resumed_at_steps"]) == (30, 20, [])
    assert (None if solved is None else solved["steps"]) == steps
    assert value_of(tmp_path / "actor.safetensors") == 5.0
    assert [entry["return_mean"] for entry in history(tmp_path)] == [1, 5, 2]


def test_the_best_actor_is_the_historys_even_after_a_kill_in_the_middle_of_a_scoring(tmp_path: Path) -> None:
    log = log_of(tmp_path, [1.0])
    shutil.copy(log.best_path, tmp_path / "99.safetensors")  # scored higher, but its checkpoint was never written
    again = new_log(tmp_path)
    again.resume()
    assert again.best_path == log.best_path


@each_trainer
@pytest.mark.parametrize(("score_every", "at"), [(64, [64, 128, 192, 256, 320]), (100, [128, 224, 320]), (1000, [320])])
def test_it_is_scored_on_the_way_and_at_the_end(trainer: str, score_every: int, at: list[int], tmp_path: Path) -> None:
    told = train(trainer, tmp_path, count_and_die_at(None), score_every=score_every)
    assert [(e["steps"], e["return_mean"]) for e in history(tmp_path)] == [(s, i) for i, s in enumerate(at, start=1)]
    assert (told["steps"], told["best"]["steps"], told["resumed_at_steps"]) == (320, 320, [])


@each_trainer
@pytest.mark.parametrize("kind", [*SPACES])
def test_it_learns_to_hit_a_target_with_actions_of_every_kind(trainer: str, kind: str, tmp_path: Path) -> None:
    options = {"env": target(kind), "total_steps": 6400, "score_every": 6400, "gamma": 0.0, "ent_coef": 0.0}
    train(trainer, tmp_path / "learned", **options)
    train(trainer, tmp_path / "not", **{**options, "learning_rate": 1e-9})
    learned, not_learned = (actions_on(tmp_path / name, trainer, target(kind)) for name in ("learned", "not"))
    assert learned.returns.mean() > -0.9 > not_learned.returns.mean()


@each_trainer
def test_the_seed_decides_the_training(trainer: str, tmp_path: Path) -> None:
    for name, seed in {"first": 0, "again": 0, "other": 1}.items():
        train(trainer, tmp_path / name, seed=seed)
    first, again, other = ((tmp_path / n / "actor.safetensors").read_bytes() for n in ("first", "again", "other"))
    assert first == again
    assert first != other


@each_trainer
@pytest.mark.parametrize(("scores", "reported"), [(3, None), (None, 160)], ids=["while scoring", "between scorings"])
def test_a_killed_training_goes_on_from_its_checkpoint(
    trainer: str, scores: int | None, reported: int | None, tmp_path: Path
) -> None:
    def die(steps: int, return_mean: float | None) -> None:
        if steps == reported:
            raise KilledError

    with pytest.raises(KilledError):
        train(trainer, tmp_path, count_and_die_at(scores), report=die)
    steps: list[int] = []
    told = train(trainer, tmp_path, lambda policy: 9.0, report=lambda step, _: steps.append(step))
    assert (told["resumed_at_steps"], min(steps)) == ([128], 128)
    assert [entry["return_mean"] for entry in history(tmp_path)] == [1, 2, 9, 9, 9]
    state = torch.load(tmp_path / "training" / "checkpoint.pt", weights_only=True)["state"]  # it holds no code
    assert state["steps"] == 320
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.001)  # fell as in a whole training


@each_trainer
def test_a_resumed_training_has_the_weights_and_moments_of_its_checkpoint(trainer: str, tmp_path: Path) -> None:
    train(trainer, tmp_path, total_steps=128)
    path = tmp_path / "training" / "checkpoint.pt"
    before = torch.load(path, weights_only=True)["state"]
    train(trainer, tmp_path, total_steps=160, score_every=32, learning_rate=1e-12)
    after = torch.load(path, weights_only=True)["state"]
    weights = {"a2c": "net", "ppo": "policy"}[trainer]
    for name, tensor in before[weights].items():
        if not name.startswith("actor.observation_"):
            torch.testing.assert_close(after[weights][name], tensor, msg=name)
    counts = [
        [state["observation_moments"]["count"], state["return_moments"]["count"]]
        if trainer == "a2c"
        else [state["moments"]["obs_rms"]["count"], state["moments"]["ret_rms"]["count"]]
        for state in (before, after)
    ]
    assert all(128 <= first < 160 < second < 200 for first, second in zip(*counts, strict=True))


@each_trainer
def test_a_finished_training_is_not_trained_again(trainer: str, tmp_path: Path) -> None:
    train(trainer, tmp_path)
    before, reported = history(tmp_path), list[int]()
    train(trainer, tmp_path, report=lambda steps, return_mean: reported.append(steps))
    assert (history(tmp_path), reported) == (before, [320])


@each_trainer
@pytest.mark.parametrize(("observations", "rewards"), [(False, False), (True, False), (False, True)])
def test_each_normalization_is_a_key_of_its_own(
    trainer: str, observations: bool, rewards: bool, tmp_path: Path
) -> None:
    train(trainer, tmp_path, normalize_observations=observations, normalize_rewards=rewards, total_steps=64)
    actor = Actor.load(tmp_path / "actor.safetensors")
    assert bool((actor.observation_mean != 0).any()) == observations
