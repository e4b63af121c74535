"""Clone, DART and DAgger: the same number of labels, in rounds that are artifacts, through kills and resumptions."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from ilt.config import run_config
from ilt.imitation.algorithms import shares
from ilt.rollout.sequence_policy import SequencePolicy
from omegaconf import DictConfig
from torch import nn

from ilt.cli.collect import find_or_collect
from ilt.cli.expert import find_or_train
from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.imitation.rounds import confusion
from ilt.tracking.run_folder import RunFolder
from ilt.tracking.store import Artifact, Store
from ilt.tracking.wandb import MODEL_METRICS, model_of
from ilt.training.callbacks import LearningCurve
from ilt.training.fit import Fitted
from ilt.training.fit import fit as learn
from ilt.training.runtime import prepare
from tests.cli.test_train import ROOT, SMOKE, environment, only_run
from tests.toys import recall
from tests.training.test_callbacks import CONF, demonstrations, train_config

TOY = ["expert=random", "expert.selection_episodes=1", "expert.gate_episodes=2", "demos.n_episodes=4"]
TOY += ["trainer.max_steps=12", "trainer.val_check_interval=3", "callbacks.rollout.n_episodes=2"]
TOY += ["callbacks.ema.decay=0.8"]


def toy(folder: Path, *overrides: str, spec: EnvSpec | None = None) -> tuple[DictConfig, Artifact]:
    """Twelve steps on the 48 steps of four episodes of `Recall`, labelled by dice; and these episodes."""
    cfg = train_config(folder, *TOY, *overrides)
    find_or_train(cfg, spec or recall(), Store(folder))
    (folder / "demos").mkdir(exist_ok=True)
    return cfg, demonstrations(folder / "demos")


def fit(cfg: DictConfig, demos: Artifact, *, spec: EnvSpec | None = None, folder: Path | None = None) -> Fitted:
    with RunFolder(folder or demos.path.parent / "run", run_config(cfg), resume=True, started=0.0) as run:
        fitted = learn(cfg, spec or recall(), run, demos, None)
    assert fitted is not None
    return fitted


def flights(made: Artifact) -> Episodes:
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
def test_rounds_share_the_labels_that_the_first_demonstrations_leave(
    budget: int, initial_fraction: float, n_rounds: int, expected: list[int]
) -> None:
    counts = shares(budget, initial_fraction=initial_fraction, n_rounds=n_rounds)
    assert counts == expected
    assert sum(counts) == budget


@pytest.mark.parametrize(("initial_fraction", "n_rounds"), [(0.5, 6), (0.01, 2)])
def test_a_round_without_a_label_is_refused(initial_fraction: float, n_rounds: int) -> None:
    with pytest.raises(
        ValueError, match=re.escape("imitation.rounds and imitation.initial_fraction leave a round without")
    ):
        shares(10, initial_fraction=initial_fraction, n_rounds=n_rounds)


@pytest.mark.parametrize("way", ["clone", "dart", "dagger"])
def test_every_way_has_the_labels_of_the_demonstrations_that_are_used(way: str, tmp_path: Path) -> None:
    imitation = fit(*toy(tmp_path, f"imitation={way}", "dataset.episodes=3")).imitation
    results = imitation.results()
    by_round = [each["expert_labels"] for each in results["by_round"]]
    assert results["expert_labels"] == 3 * 12
    assert by_round == ([36] if way == "clone" else [9, 9, 9, 9])
    assert (results["name"], results["rounds"]) == (way, len(by_round) - 1)
    for number, made in enumerate(imitation.rounds, start=1):
        assert made.name.startswith(f"{way}-{number}-")
        assert len(flights(made).actions) == len(flights(made).extras["step/label"]) == 9
        assert flights(made).seeds.tolist() == [4 + 18 * (number - 1)]  # behind the demonstrations, and its own
    assert json.loads(json.dumps(results)) == results


def test_a_round_flies_until_there_are_enough_labels_and_cuts_its_last_episode(tmp_path: Path) -> None:
    cfg, demos = toy(tmp_path, "imitation=dagger", "imitation.rounds=1", "imitation.initial_fraction=0.4")
    (made,) = fit(cfg, demos).imitation.rounds
    assert flights(made).lengths.tolist() == [12, 12, 5]
    assert flights(made).terminated.tolist() == [True, True, False]
    assert (made.metrics["expert_labels"], made.metrics["kept"], made.metrics["flown"]) == (29, 3, 3)
    assert made.metrics["return_mean"] == pytest.approx(made.metrics["return_median"], abs=6)  # of whole episodes


def test_short_episodes_are_flown_until_there_are_enough(tmp_path: Path) -> None:
    short = replace(recall(), kwargs={"max_episode_steps": 5})
    cfg, demos = toy(tmp_path, "imitation=dagger", "imitation.rounds=1", "imitation.initial_fraction=0.5", spec=short)
    (made,) = fit(cfg, demos, spec=short).imitation.rounds
    assert flights(made).lengths.tolist() == [5, 5, 5, 5, 4]
    assert flights(made).seeds.tolist() == [4, 5, 6, 7, 8]


def test_a_block_that_is_too_small_for_the_rounds_is_refused_before_any_training(tmp_path: Path) -> None:
    small = replace(recall(), seed_blocks={**recall().seed_blocks, "demonstrations": (0, 50)})
    cfg, demos = toy(tmp_path, "imitation=dagger", spec=small)
    with pytest.raises(ValueError, match=re.escape("env.seed_blocks.demonstrations holds 50")):
        fit(cfg, demos, spec=small)
    assert not (tmp_path / "rounds").exists()


# --- who flies ---


def test_the_expert_acts_less_in_every_round(tmp_path: Path) -> None:
    cfg, demos = toy(tmp_path, "imitation=dagger", "imitation.beta=0.5")
    rounds = fit(cfg, demos).imitation.rounds
    assert [made.metrics["beta"] for made in rounds] == [0.5, 0.25, 0.125]


def test_the_noise_is_how_the_student_errs_on_the_validation_demonstrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    students = []

    def spied(student: nn.Module, *arguments: Any, **options: Any) -> np.ndarray:
        students.append(deepcopy(student))
        return confusion(student, *arguments, **options)

    monkeypatch.setattr("ilt.imitation.algorithms.confusion", spied)
    cfg, demos = toy(tmp_path, "imitation=dart", "imitation.rounds=1")
    (made,) = fit(cfg, demos).imitation.rounds
    policy, slot = SequencePolicy(students[0]), np.array([0])
    validation, counts = Episodes.load(demos.file("validation.npz")), np.zeros((2, 2))
    for e in range(len(validation)):
        one = validation.select(np.array([e]))
        policy.begin(slot, one.seeds)
        for observation, action in zip(one.observations, one.actions, strict=False):
            counts[action, policy.act(slot, observation[None])[0]] += 1
            policy.note(slot, np.array([action]))
    np.testing.assert_allclose(made.metrics["confusion"], counts / counts.sum(axis=1, keepdims=True), atol=1e-6)
    assert made.metrics["executed_as_labelled"] < 1


# --- rounds are artifacts ---


def test_a_round_says_what_it_was_made_from(tmp_path: Path) -> None:
    cfg, demos = toy(tmp_path, "imitation=dagger", "imitation.rounds=1")
    (made,) = fit(cfg, demos).imitation.rounds
    assert made.path.parent == tmp_path / "rounds"
    expert, demonstrations_ = made.manifest["parents"]
    assert expert.startswith("random-")
    assert demonstrations_ == "demos"


def test_a_model_is_made_from_its_rounds_too(tmp_path: Path) -> None:
    by_round = [{"made": name} for name in ("ppo-0", "dagger-1-0", "dagger-2-0")]
    results = dict.fromkeys((*MODEL_METRICS, "files"), 0) | {"expert": "ppo-1", "demonstrations": "ppo-0"}
    of_before, now = (model_of(tmp_path, {**results, **more}) for more in ({}, {"imitation": {"by_round": by_round}}))
    assert of_before.manifest["parents"] == ["ppo-1", "ppo-0"]
    assert now.manifest["parents"] == ["ppo-1", "ppo-0", "dagger-1-0", "dagger-2-0"]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("callbacks.rollout.n_episodes=4", True),
        ("model.dropout=0.1", False),
        ("callbacks.ema.decay=0.9", False),
        ("evaluation.deterministic=false", False),
    ],
)
def test_a_round_is_found_again_by_all_that_decides_it(change: str, same: bool, tmp_path: Path) -> None:
    short = ["imitation=dagger", "imitation.rounds=1", "trainer.max_steps=2", "trainer.val_check_interval=1"]
    before, after = (
        fit(*toy(tmp_path, *short, *more), folder=tmp_path / name).imitation.rounds[0]
        for name, more in {"before": [], "after": [change]}.items()
    )
    assert (before.name == after.name) == same


def test_a_round_that_a_checkpoint_was_trained_on_must_be_there(tmp_path: Path) -> None:
    cfg, demos = toy(tmp_path, "imitation=dagger")
    fit(cfg, demos)
    shutil.rmtree(tmp_path / "rounds")
    with pytest.raises(ValueError, match=r"round 1 of this run, .* resume=false begins afresh"):
        fit(cfg, demos)


# --- killed and resumed ---


@pytest.mark.parametrize(
    ("way", "before_step"),
    [("dagger", 2), ("dagger", 3), ("dagger", 5), ("dart", 10)],  # before a round, behind one, within one, in the last
)
def test_a_killed_training_ends_where_an_uninterrupted_one_does(
    way: str, before_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(self: LearningCurve, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == before_step:
            raise RuntimeError("killed")

    (tmp_path / "whole").mkdir()
    whole = fit(*toy(tmp_path / "whole", f"imitation={way}"))
    cfg, demos = toy(tmp_path, f"imitation={way}")
    with monkeypatch.context() as patch:
        patch.setattr(LearningCurve, "on_train_batch_start", kill)
        with pytest.raises(RuntimeError, match="killed"):
            fit(cfg, demos)
    assert len(list((tmp_path / "rounds").glob(f"{way}-?-*"))) == before_step // 3
    resumed = fit(cfg, demos)
    assert resumed.weights["last"].read_bytes() == whole.weights["last"].read_bytes()
    assert [made.name for made in resumed.imitation.rounds] == [made.name for made in whole.imitation.rounds]
    for ours, theirs in zip(resumed.imitation.rounds, whole.imitation.rounds, strict=True):
        assert ours.file("episodes.npz").read_bytes() == theirs.file("episodes.npz").read_bytes()


@pytest.mark.slow
def test_a_run_that_is_killed_after_its_first_round_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    run = [*SMOKE, "imitation=dagger"]
    killed = [sys.executable, "-m", "ilt", "train", *run, f"outputs={tmp_path}"]
    process = subprocess.Popen(killed, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (found := list(tmp_path.glob("rounds/dagger-1-*/manifest.json"))):
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("rounds/dagger-3-*"))
    flown, folder = found[0].stat().st_mtime_ns, only_run(tmp_path)
    assert folder.name.startswith("nano-K8-ppo-dagger-s0-")

    def fitted(outputs: Path, run_folder: Path) -> Fitted:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose("train", [*run, f"outputs={outputs}", "run_name=any"])
        spec, store = prepare(cfg)
        demos = find_or_collect(cfg, spec, store, find_or_train(cfg, spec, store))
        return fit(cfg, demos, spec=spec, folder=run_folder)

    resumed, whole = fitted(tmp_path, folder), fitted(tmp_path / "whole", tmp_path / "whole" / "run")
    assert found[0].stat().st_mtime_ns == flown
    assert [made.name for made in resumed.imitation.rounds] == [made.name for made in whole.imitation.rounds]
    for name, path in whole.weights.items():
        assert resumed.weights[name].read_bytes() == path.read_bytes(), name
