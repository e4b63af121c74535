"""An expert's training that is killed and resumed ends with the same weights as an uninterrupted one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ilt.envs.spec import EnvSpec
from ilt.experts.a2c import A2C
from ilt.experts.base import Expert
from ilt.experts.off_policy import SAC, TQC
from ilt.experts.ppo import PPO
from ilt.registry import load_option
from ilt.rollout.policies import Policy
from ilt.schema import ConfigError, own_keys
from tests.marks import slow

SMALL = {"total_steps": 3072, "score_every": 512, "hidden": [8], "n_envs": 4, "n_steps": 32, "batch_size": 32}
EXPERTS = {"a2c": A2C, "ppo": PPO}


class Killed(BaseException):
    """Ends a training like a kill: nothing is caught or cleaned up."""


def train(name: str, folder: Path, *, scores_before_kill: int | None = None, **options: Any) -> dict[str, torch.Tensor]:
    """Train a small CartPole expert, killed after `scores_before_kill` scores if given, and return its weights."""
    expert: Expert = EXPERTS[name](**{**own_keys("expert", load_option("expert", f"{name}_keys")), **SMALL, **options})
    scored = [0]

    def score(policy: Policy) -> float:
        if scored[0] == scores_before_kill:
            raise Killed
        scored[0] += 1
        actions = policy.act(np.arange(64), np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
        return float(actions.mean())

    folder.mkdir(exist_ok=True)
    expert.train(
        EnvSpec(id="CartPole-v1"), folder, seed=0, privileged=False, score=score, report=lambda steps, mean: None
    )
    return load_file(folder / "actor.safetensors")


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize("normalize", [True, *slow(False)])
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    name: str, normalize: bool, tmp_path: Path
) -> None:
    options = {"normalize_observations": normalize, "normalize_rewards": normalize}
    whole = train(name, tmp_path / "whole", **options)
    for kills in (3, 1):
        with pytest.raises(Killed):
            train(name, tmp_path / "killed", scores_before_kill=kills, **options)
    resumed = train(name, tmp_path / "killed", **options)
    last = [
        torch.load(tmp_path / each / "training" / "checkpoint.pt", weights_only=True) for each in ("whole", "killed")
    ]
    assert last[1]["resumed_at"] == [1536, 2048]
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    networks = [each["state"].get("net") or each["state"]["policy"] for each in last]
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])


@pytest.mark.parametrize("name", slow("sac", "tqc"))
def test_a_killed_off_policy_training_resumes_with_its_replay_buffer(name: str, tmp_path: Path) -> None:
    small = {"total_steps": 600, "score_every": 100, "hidden": [8], "learning_starts": 250, "batch_size": 16}
    options = {**own_keys("expert", load_option("expert", f"{name}_keys")), **small}

    def run(folder: Path, scores_before_kill: int | None = None) -> dict[str, torch.Tensor]:
        scored = [0]

        def score(policy: Policy) -> float:
            if scored[0] == scores_before_kill:
                raise Killed
            scored[0] += 1
            return float(
                policy.act(np.arange(64), np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)).mean()
            )

        folder.mkdir(exist_ok=True)
        expert = {"sac": SAC, "tqc": TQC}[name](**options)
        report = lambda steps, mean: None  # noqa: E731
        expert.train(EnvSpec(id="Pendulum-v1"), folder, seed=0, privileged=False, score=score, report=report)
        return load_file(folder / "actor.safetensors")

    whole = run(tmp_path / "whole")
    for kills in (1, 2, 1):
        with pytest.raises(Killed):
            run(tmp_path / "killed", kills)
    resumed = run(tmp_path / "killed")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("algorithm", [SAC, TQC])
def test_off_policy_experts_need_continuous_actions(algorithm: type[SAC]) -> None:
    name = algorithm.__name__.lower()
    expert = algorithm(**own_keys("expert", load_option("expert", f"{name}_keys")))
    expert.check(EnvSpec(id="Pendulum-v1"), privileged=False)
    with pytest.raises(ConfigError, match=rf"expert must be .* env\.id=CartPole-v1 has the actions .*, got {name}"):
        expert.check(EnvSpec(id="CartPole-v1"), privileged=False)
