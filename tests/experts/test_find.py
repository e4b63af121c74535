"""Experts are found by their config or trained; messages and errors about that."""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from ilt.evaluation.saved_policies import read_policy
from ilt.experts.find import expert_policy, find, find_or_collect, find_or_train, load
from ilt.experts.gate import GateError, check_gate
from ilt.registry import load_option, merge
from ilt.rollout.recorded import Context
from ilt.rollout.run import rollout
from ilt.schema import ConfigError
from ilt.tracking.store import Artifact, Store
from tests.experts.toys import target

TINY = {"total_steps": 64, "score_every": 64, "n_envs": 4, "n_steps": 8, "batch_size": 32, "hidden": [8]}


def config(option: str = "ppo", **changes: Any) -> DictConfig:
    """Return an option of conf/expert that trains for seconds and has no gate."""
    values = {"gate": None, "selection_episodes": 2, "gate_episodes": 3, **({} if option == "random" else TINY)}
    return OmegaConf.create(merge(load_option("expert", option), {**values, **changes}))


def context(folder: Path, kind: str = "box") -> Context:
    return Context(target(kind), Store(folder), n_envs=4)


def test_an_expert_is_trained_once_and_found_afterwards(tmp_path: Path) -> None:
    ctx, scored = context(tmp_path), list[int]()
    made = find_or_train(ctx, config(), lambda steps, return_mean: scored.append(steps))
    assert scored == [64]
    assert sorted(path.name for path in made.path.iterdir()) == ["actor.safetensors", "history.json", "manifest.json"]
    assert made.metrics["selection"]["seeds"] == [2002, 3]  # after the seeds that picked the checkpoint
    for same in (config(), config(gate=-3.0), config(name="ppo", train=False)):
        assert find_or_train(ctx, same).name == find(ctx, same).name == made.name
    with pytest.raises(ValueError, match=r"the run's expert .* is not in"):
        find(ctx, config(seed=1))


def test_training_is_announced_with_a_reason_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ctx = context(tmp_path)
    with caplog.at_level(logging.INFO):
        first = find_or_train(ctx, config())
        find_or_train(ctx, config(gamma=0.5))
    said = [record.getMessage() for record in caplog.records if "must be trained" in record.getMessage()]
    assert "no such expert exists for this environment, for 64 steps, about" in said[0]
    assert f"{first.name}, which differs in expert.gamma=0.5 (there: 0.999)), for 64 steps, about" in said[1]
    assert re.search(r"about \d+ (seconds|minutes)$", said[1])
    message = r"expert\.train must be true.*differs in expert\.seed=1 \(there: its default\)"
    with pytest.raises(ConfigError, match=message):
        find_or_train(ctx, config(seed=1, train=False))
    assert len(list((tmp_path / "experts").glob("ppo-*"))) == 2
    find_or_train(ctx, config("random", train=False))  # needs no training


def test_a_cap_shortens_training_and_a_fully_trained_expert_is_preferred(tmp_path: Path) -> None:
    ctx, long = context(tmp_path), {"total_steps": 128}
    capped = find_or_train(ctx, config(**long, train_at_most=64))
    assert capped.metrics["training"]["steps"] == 64
    assert find(ctx, config(**long, train_at_most=64)).name == capped.name == find_or_train(ctx, config()).name
    whole = find_or_train(ctx, config(**long))
    assert whole.metrics["training"]["steps"] == 128
    assert find_or_train(ctx, config(**long, train_at_most=64)).name == whole.name


def test_demonstrations_need_an_expert_that_passes_its_gate(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    demos = OmegaConf.create({**load_option("demos", "expert"), "n_episodes": 2, "n_validation_episodes": 1})
    expert = config("random", gate=0.0)
    loaded = load(ctx, expert, find_or_train(ctx, expert))
    with pytest.raises(
        GateError, match=r"expert\.gate asks for a mean return of at least 0\.0.*\. Lower expert\.gate\."
    ):
        find_or_collect(ctx, demos, expert, loaded)
    expert.gate = None
    assert find_or_collect(ctx, demos, expert, loaded).metrics["demonstrations"]["n_episodes"] == 2


MEASURED = Artifact(
    Path("outputs/experts/ppo-0123456789"),
    {
        "metrics": {
            "selection": {"deterministic": {"return_mean": 240.04}, "sampled": {"return_mean": 180.0}},
            "training": {"steps": 128},
        }
    },
)


@pytest.mark.parametrize(
    ("gate", "deterministic"), [(240.0, True), (240.04, True), (180.0, False), (-50.0, False), (None, False)]
)
def test_an_expert_at_or_above_its_gate_passes(gate: float | None, deterministic: bool) -> None:
    check_gate(MEASURED, gate=gate, deterministic=deterministic)


@pytest.mark.parametrize(
    ("gate", "deterministic", "reached"),
    [(240.05, True, "acting deterministically, reaches 240.0"), (180.5, False, "sampling its actions, reaches 180.0")],
)
def test_an_expert_below_its_gate_is_refused_with_advice(gate: float, deterministic: bool, reached: str) -> None:
    advice = r"\(expert\.total_steps\), with another expert\.seed, or lower expert\.gate\..* in outputs/experts/ppo-"
    with pytest.raises(GateError, match=rf"^expert\.gate .* at least {gate} .* ppo-0123456789, {reached}\..*{advice}"):
        check_gate(MEASURED, gate=gate, deterministic=deterministic)


@pytest.mark.parametrize("option", ["ppo", "a2c", "random"])
def test_the_gate_is_null_if_the_environment_has_none(option: str) -> None:
    both = {"env": {**load_option("env", "gymnasium"), "id": "CartPole-v1"}, "expert": load_option("expert", option)}
    assert OmegaConf.create(both).expert.gate is None


@pytest.mark.parametrize("kind", ["discrete", "multi_discrete", "box"])
def test_an_expert_can_be_rebuilt_from_its_folder(kind: str, tmp_path: Path) -> None:
    ctx, expert = context(tmp_path, kind), config("a2c", deterministic=False)
    artifact = find_or_train(ctx, expert)
    ctx = replace(ctx, env=replace(ctx.env, trust=("tests",)))
    saved = read_policy("policy", artifact.name, ctx, deterministic=False, trust=("tests",))
    seeds = np.arange(3000, 3005)
    there, here = (rollout(ctx.env, p, seeds) for p in (saved.policy, expert_policy(ctx, expert, artifact)))
    assert np.array_equal(there.actions, here.actions)
    assert (saved.name, saved.parents[0].name) == ("a2c", artifact.name)
