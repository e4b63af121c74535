"""Return conditioning from demonstrations of two kinds to a student that follows its target."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from omegaconf import OmegaConf

import ilt
from ilt.data.episodes import Episodes
from ilt.data.returns import RETURN_TO_GO
from ilt.envs.spec import EnvSpec
from ilt.models.spec import ModelSpec
from ilt.rollout.policies import EpisodeRNG, FunctionPolicy, Policy, SequencePolicy
from ilt.rollout.run import rollout
from ilt.schema import ConfigError
from ilt.tracking.store import read_json
from tests.cli.commands import run_command
from tests.marks import slow
from tests.test_pipeline import run
from tests.training.toy_training import train_config


class Choose(gym.Env[np.ndarray, int]):
    """Observes noise; the reward is the action, 0 or 1. Terminates after 6 steps."""

    observation_space = spaces.Box(-10, 10, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._t = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._t += 1
        return self._observe(), float(action), self._t == 6, False, {}

    def _observe(self) -> np.ndarray:
        return self.np_random.normal(size=1).clip(-9, 9).astype(np.float32)


gym.register("ilt-toys/Choose-v0", Choose)


class TwoModes(Policy):
    """Takes one action throughout an episode: 0 in seven episodes of ten, otherwise 1."""

    def __init__(self) -> None:
        self._rng, self._mode = EpisodeRNG(), dict[int, int]()

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._rng.reset(slots, seeds)
        self._mode.update(zip(slots.tolist(), (self._rng.uniform(slots) > 0.7).astype(int).tolist(), strict=True))

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return np.array([self._mode[slot] for slot in slots.tolist()])


def two_modes(env: EnvSpec, block: str) -> Episodes:
    """Return demonstrations with returns 0 and 6; a data source."""
    return rollout(env, TwoModes(), env.seeds(block, 60 if block == "demonstrations" else 10))


def always_one(observations: np.ndarray) -> np.ndarray:
    """Act optimally; an expert."""
    return np.ones(len(observations), dtype=np.int64)


def learned(folder: Path, *overrides: str) -> dict[str, Any]:
    """Train in `Choose` and return the results."""
    steps = ["trainer.max_steps=120", "trainer.val_check_interval=60", "dataset.batch_size=32"]
    cfg = train_config(folder, *steps, *overrides, env=f"{__name__}:ilt-toys/Choose-v0")
    OmegaConf.update(cfg, "demos", {"_target_": f"{__name__}.two_modes"}, merge=False)
    return run(cfg, folder / "runs" / "run")


CONDITIONED = "dataset.tokens=returns_states_actions"


@pytest.mark.parametrize("model", ["nano", *slow("mlp", "gru")])
def test_a_student_earns_what_it_is_told_to_where_cloning_follows_the_majority(model: str, tmp_path: Path) -> None:
    results = learned(tmp_path, f"model={model}", CONDITIONED)
    assert (results["target_return"], results["return_mean"], results["selection_return_mean"]) == (6.0, 6.0, 6.0)
    where = [f"run={tmp_path}/runs/run", f"outputs={tmp_path}", "processes=1", "logger=none", "trust=[tests]"]
    assert run_command("evaluate", *where, "seeds=test:4") == 6.0
    assert run_command("evaluate", *where, "seeds=test:4", "target_return=0") == 0.0
    [again] = (tmp_path / "runs" / "run" / "evaluations").glob("*-R0.json")
    assert read_json(again)["target_return"] == 0.0


def test_cloning_the_same_demonstrations_earns_nothing(tmp_path: Path) -> None:
    results = learned(tmp_path)
    assert results["return_mean"] == 0.0
    assert "target_return" not in results
    with pytest.raises(ConfigError, match=r"target_return must be null unless the run has dataset\.tokens="):
        run_command("evaluate", f"run={tmp_path}/runs/run", f"outputs={tmp_path}", "target_return=6", "trust=[tests]")


def test_a_saved_student_acts_alone_by_its_target_or_another(tmp_path: Path) -> None:
    results = learned(tmp_path, CONDITIONED, "evaluation.target_return=0")
    assert (results["target_return"], results["return_mean"]) == (0.0, 0.0)
    env = ilt.make_env(f"{__name__}:ilt-toys/Choose-v0")
    for options, earned in (({}, 0.0), ({"target_return": 6.0}, 6.0)):
        policy = ilt.load_policy(tmp_path / "runs" / "run", env, outputs=tmp_path, **options)
        assert ilt.evaluate(policy, env, n_episodes=3)["return_mean"] == earned
        simulator = env.make()
        observation, _ = simulator.reset(seed=0)
        state, reward, total, over = None, None, 0.0, False
        while not over:
            action, state = policy.predict(observation, state, reward=reward)
            observation, reward, over, _, _ = simulator.step(action)
            total += reward
        assert total == earned
    with pytest.raises(ConfigError, match=r"target_return must be null unless where is a run with .*, but random is"):
        ilt.load_policy("random", env, outputs=tmp_path, target_return=6.0)


@pytest.mark.parametrize("algorithm", ["dagger", *slow("dart")])
def test_rounds_are_seen_with_the_returns_of_their_executed_actions(algorithm: str, tmp_path: Path) -> None:
    rounds = [f"imitation={algorithm}", "imitation.rounds=1", "imitation.initial_fraction=0.51"]
    results = learned(tmp_path, CONDITIONED, f"expert._target_={__name__}.always_one", *rounds)
    assert results["target_return"] == 6.0
    [path] = (tmp_path / "rounds").glob("*/episodes.npz")
    episodes = Episodes.load(path)
    whole = episodes.lengths == 6
    assert not whole[-1]  # the budget ends within the last episode
    to_go = episodes.extras[RETURN_TO_GO][episodes.step_offsets]
    assert np.array_equal(to_go[whole], episodes.returns[whole])
    assert to_go[-1] >= episodes.returns[-1]


def test_weights_keep_the_target_and_its_statistics(tmp_path: Path) -> None:
    learned(tmp_path, CONDITIONED)
    spec, model, head = ModelSpec.load(tmp_path / "runs" / "run" / "weights" / "last.safetensors")
    assert (spec.return_conditioned, spec.observation_dim, float(model.target_return or 0)) == (True, 2, 6.0)
    demos = two_modes(EnvSpec(id=f"{__name__}:ilt-toys/Choose-v0"), "demonstrations")
    assert model.observation_mean[1] == pytest.approx(demos.returns.mean() * 3.5 / 6, abs=1e-4)
    assert SequencePolicy(model, head).target_return == 6.0
    expert = FunctionPolicy(always_one, model.action_space)
    assert not expert.return_conditioned
