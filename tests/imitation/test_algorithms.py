"""BC, DART and DAgger: equal label budgets, rounds as artifacts, and resuming after a kill."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.experts.find import find_or_train, load
from ilt.imitation.base import Round
from ilt.imitation.dart import _beside_the_expert, confusion
from ilt.imitation.rounds import split_labels
from ilt.registry import store_schemas
from ilt.rollout.policies import RandomPolicy, SequencePolicy
from ilt.rollout.recorded import Context
from ilt.rollout.run import rollout
from ilt.settings import run_config, training_config
from ilt.tracking.run_folder import RunFolder
from ilt.tracking.store import Artifact, Store, open_artifact
from ilt.training.callbacks import LearningCurve
from ilt.training.fit import Fitted
from ilt.training.fit import fit as learn
from tests.experts.toys import SPACES, target
from tests.marks import slow
from tests.toys import recall

store_schemas(ConfigStore.instance().store)

TOY = ["model=nano", "trainer=smoke", "logger=none", "processes=1", "run_name=run", "env=gymnasium", "env.id=toy"]
TOY += ["dataset.context_length=4", "dataset.batch_size=7", "model.dropout=0.3"]
TOY += ["expert=random", "expert.selection_episodes=1", "expert.gate_episodes=2", "demos.n_episodes=4"]
TOY += ["trainer.max_steps=12", "trainer.val_check_interval=3", "callbacks.rollout.n_episodes=2"]
TOY += ["callbacks.ema.decay=0.8"]
ONE_ROUND = ["imitation=dagger", "imitation.rounds=1"]


def toy(folder: Path, *overrides: str, spec: EnvSpec | None = None) -> tuple[DictConfig, EnvSpec, Artifact]:
    """Return the config of a 12-step training on four random episodes (48 steps) of `Recall`, and these episodes."""
    with initialize_config_module("ilt.conf", version_base="1.3"):
        cfg = compose("train", [*TOY, *overrides, f"outputs={folder}"])
    spec, demos = spec or recall(), folder / "demos"
    cfg.env.id, cfg.env.kwargs = spec.id, dict(spec.kwargs)
    demos.mkdir(exist_ok=True)
    for block, n_episodes in (("demonstrations", 4), ("validation", 40)):
        rollout(spec, RandomPolicy(spec.action_space), spec.seeds(block, n_episodes)).save(demos / f"{block}.npz")
    return cfg, spec, Artifact(demos, {})


def fit(cfg: DictConfig, spec: EnvSpec, demos: Artifact, folder: Path | None = None) -> Fitted:
    ctx = Context(spec, Store(demos.path.parent), n_envs=4)
    run_folder, identity = folder or demos.path.parent / "run", training_config(cfg)
    with RunFolder(run_folder, run_config(cfg), identity, resume=True, started=0.0) as run:
        fitted = learn(ctx, cfg, run, demos, load(ctx, cfg.expert, find_or_train(ctx, cfg.expert)))
    assert fitted is not None
    return fitted


def rounds_of(fitted: Fitted, folder: Path) -> list[Artifact]:
    names = [each["artifact"] for each in fitted.imitation["by_round"][1:]]
    return [open_artifact(folder / "rounds" / name) for name in names]


def episodes_of(made: Artifact) -> Episodes:
    return Episodes.load(made.file("episodes.npz"))


# --- the budget ---


@pytest.mark.parametrize(
    ("budget", "initial_fraction", "n_rounds", "expected"),
    [
        (100, 1.0, 0, [100]),
        (100, 0.25, 3, [25, 25, 25, 25]),
        (103, 0.25, 3, [26, 25, 26, 26]),
        (100, 0.5, 1, [50, 50]),
        (7, 0.3, 5, [2, 1, 1, 1, 1, 1]),
    ],
)
def test_the_label_budget_is_split_over_rounds(
    budget: int, initial_fraction: float, n_rounds: int, expected: list[int]
) -> None:
    assert split_labels(budget, initial_fraction=initial_fraction, n_rounds=n_rounds) == expected


@pytest.mark.parametrize(("initial_fraction", "n_rounds"), [(0.5, 6), (0.01, 2)])
def test_a_round_without_a_label_is_refused(initial_fraction: float, n_rounds: int) -> None:
    message = r"imitation\.rounds and imitation\.initial_fraction leave a round without"
    with pytest.raises(ValueError, match=message):
        split_labels(10, initial_fraction=initial_fraction, n_rounds=n_rounds)


@pytest.mark.parametrize("way", ["bc", "dart", "dagger"])
def test_every_algorithm_uses_as_many_labels_as_the_demonstrations_have(way: str, tmp_path: Path) -> None:
    beta = ["imitation.beta=0.5"] if way == "dagger" else []
    fitted = fit(*toy(tmp_path, f"imitation={way}", "dataset.episodes=3", *beta))
    results, rounds = fitted.imitation, rounds_of(fitted, tmp_path)
    by_round = [each["expert_labels"] for each in results["by_round"]]
    assert results["expert_labels"] == 3 * 12
    assert by_round == ([36] if way == "bc" else [9, 9, 9, 9])
    assert (results["name"], results["rounds"]) == (way, len(by_round) - 1)
    for number, made in enumerate(rounds, start=1):
        assert made.name.startswith(f"{way}-{number}-")
        assert len(episodes_of(made).actions) == len(episodes_of(made).extras["step/label"]) == 9
        assert episodes_of(made).seeds.tolist() == [
            4 + 18 * (number - 1)
        ]  # after the demonstrations, and different for each round
    assert way != "dagger" or [made.metrics["beta"] for made in rounds] == [0.5, 0.25, 0.125]
    assert json.loads(json.dumps(results)) == results


def test_a_round_has_its_labels_and_records_its_expert_and_demonstrations(tmp_path: Path) -> None:
    (made,) = rounds_of(fit(*toy(tmp_path, *ONE_ROUND, "imitation.initial_fraction=0.4")), tmp_path)
    assert episodes_of(made).lengths.tolist() == [12, 12, 5]  # the last episode is cut short
    assert episodes_of(made).terminated.tolist() == [True, True, False]
    assert (made.metrics["expert_labels"], made.metrics["kept"], made.metrics["n_episodes"]) == (29, 3, 3)
    assert made.metrics["return_mean"] == pytest.approx(made.metrics["return_median"], abs=6)  # over whole episodes
    expert, demonstrations = made.manifest["parents"]
    assert expert.startswith("random-")
    assert demonstrations == "demos"


def test_short_episodes_are_collected_until_there_are_enough_labels(tmp_path: Path) -> None:
    cfg, spec, demos = toy(
        tmp_path, *ONE_ROUND, "imitation.initial_fraction=0.5"
    )  # collection expects 12 steps per episode
    (made,) = rounds_of(fit(cfg, replace(spec, kwargs={"max_episode_steps": 5}), demos), tmp_path)
    assert episodes_of(made).lengths.tolist() == [5, 5, 5, 5, 4]
    assert episodes_of(made).seeds.tolist() == [4, 5, 6, 7, 8]


def test_too_small_a_seed_block_is_refused_before_training(tmp_path: Path) -> None:
    small = replace(recall(), seed_blocks={**recall().seed_blocks, "demonstrations": (0, 50)})
    made = toy(tmp_path, "imitation=dagger", spec=small)
    with pytest.raises(ValueError, match=r"env\.seed_blocks\.demonstrations holds 50"):
        fit(*made)
    assert not (tmp_path / "rounds").exists()


# --- who acts ---


@pytest.mark.parametrize(
    ("spec", "deterministic", "tolerance"),
    [(recall(), True, 1e-6), (recall(), False, 0.12), (target("box"), True, 1e-6)],
    ids=["choices", "samples", "numbers"],
)
def test_the_noise_matches_the_students_errors_on_the_validation_demonstrations(
    spec: EnvSpec, deterministic: bool, tolerance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    students: list[SequencePolicy] = []

    def spied(round: Round) -> tuple[np.ndarray, np.ndarray]:
        students.append(deepcopy(round.student))
        return _beside_the_expert(round)

    monkeypatch.setattr("ilt.imitation.dart._beside_the_expert", spied)
    options = ["imitation=dart", "imitation.rounds=1", f"evaluation.deterministic={deterministic}"]
    cfg, _, demos = toy(tmp_path, *options, spec=spec)
    (made,) = rounds_of(fit(cfg, spec, demos), tmp_path)
    policy, slot, chosen = students[0], np.array([0]), []
    validation = Episodes.load(demos.file("validation.npz"))
    for one in (validation.select(np.array([e])) for e in range(len(validation))):
        policy.reset(slot, one.seeds + 1000)  # other random numbers than the expert's
        for observation, action in zip(one.observations, one.actions, strict=False):
            chosen.append(policy.act(slot, observation[None])[0])
            policy.observe_action(slot, action[None])
    expected, chosen = spec.action_space.encode(validation.actions), spec.action_space.encode(np.array(chosen))
    if spec.action_space.continuous:
        found, wanted = made.metrics["covariance"], (chosen - expected).T @ (chosen - expected) / len(chosen)
    else:
        found, wanted = made.metrics["confusion"][0], confusion(expected, chosen, 2)
    np.testing.assert_allclose(found, wanted, atol=tolerance)
    assert made.metrics["executed_as_labeled"] < 1


@pytest.mark.parametrize("kind", [*SPACES])
@pytest.mark.parametrize("way", ["dagger", "dart"])
def test_rounds_work_with_actions_of_every_kind(way: str, kind: str, tmp_path: Path) -> None:
    fitted = fit(*toy(tmp_path, f"imitation={way}", "imitation.rounds=1", spec=target(kind)))
    (made,) = rounds_of(fitted, tmp_path)
    episodes, space = episodes_of(made), target(kind).action_space
    assert episodes.extras["step/label"].shape == episodes.actions.shape == space.zeros(18).shape
    assert made.metrics["executed_as_labeled"] < 1
    if way == "dart":
        sizes = [np.shape(made.metrics["covariance"])] if kind == "box" else map(np.shape, made.metrics["confusion"])
        assert [*sizes] == ([(2, 2)] if kind == "box" else [(n, n) for n in space.n_choices])


# --- rounds are artifacts ---


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("evaluation.n_episodes=4", True),
        ("model.dropout=0.1", False),
        ("callbacks.ema.decay=0.9", False),
        ("evaluation.deterministic=false", False),
    ],
)
def test_a_round_is_reused_only_if_nothing_that_affects_it_changed(change: str, same: bool, tmp_path: Path) -> None:
    short = [*ONE_ROUND, "trainer.max_steps=2", "trainer.val_check_interval=1"]
    before = fit(*toy(tmp_path, *short), folder=tmp_path / "before")
    after = fit(*toy(tmp_path, *short, change), folder=tmp_path / "after")
    assert (rounds_of(before, tmp_path)[0].name == rounds_of(after, tmp_path)[0].name) == same


def test_a_missing_round_of_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    made = toy(tmp_path, "imitation=dagger")
    fit(*made)
    shutil.rmtree(tmp_path / "rounds")
    with pytest.raises(ValueError, match=r"round 1 of this run, .* resume=false starts over"):
        fit(*made)


# --- killed and resumed ---


@pytest.mark.parametrize(
    ("way", "before_step"),
    [*slow(("dagger", 2), ("dagger", 3)), ("dagger", 5), ("dart", 10)],  # before, after, within a round, in the last
)
def test_a_killed_training_ends_like_an_uninterrupted_one(
    way: str, before_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(self: LearningCurve, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == before_step:
            raise RuntimeError("killed")

    (tmp_path / "whole").mkdir()
    whole = fit(*toy(tmp_path / "whole", f"imitation={way}"))
    made = toy(tmp_path, f"imitation={way}")
    with monkeypatch.context() as patch:
        patch.setattr(LearningCurve, "on_train_batch_start", kill)
        with pytest.raises(RuntimeError, match="killed"):
            fit(*made)
    assert len(list((tmp_path / "rounds").glob(f"{way}-?-*"))) == before_step // 3
    resumed = fit(*made)
    assert resumed.weights["last"].read_bytes() == whole.weights["last"].read_bytes()
    for mine, other in zip(rounds_of(resumed, tmp_path), rounds_of(whole, tmp_path / "whole"), strict=True):
        assert mine.name == other.name
        assert mine.file("episodes.npz").read_bytes() == other.file("episodes.npz").read_bytes()
