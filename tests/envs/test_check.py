"""The contract of environments."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from ilt.envs.check import check_env
from ilt.envs.spec import EnvSpec
from ilt.registry import load_option, options_of
from tests.toys import BLOCKS, HIDING, MULTI, TENSOR, VECTOR, Echo, countdown, echo, recall

OURS = [
    EnvSpec.from_config(load_option("env", name))
    for name in options_of("env")
    if name not in ("default", "gymnasium", "none")
]


@pytest.mark.parametrize("env", [*OURS, countdown(), recall(), echo(HIDING, TENSOR), echo()], ids=lambda env: env.id)
def test_every_environment_of_conf_and_every_toy_keeps_the_contract(env: EnvSpec) -> None:
    check_env(env)


class Broken(Echo):
    """Breaks one rule of the contract."""

    n_resets = 0

    def __init__(self, how: str) -> None:
        super().__init__(HIDING if how == "size" else VECTOR, MULTI)
        self.how = how

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        Broken.n_resets += 1
        observation, _ = super().reset(seed=seed + Broken.n_resets if self.how == "seed" else seed)  # type: ignore[operator]
        drawn = {"params": {"level": float(Broken.n_resets)}, "names": {f"level_{Broken.n_resets}": 0.0}}
        return observation, {"episode_params": drawn.get(self.how, {"level": 0.0})}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.how == "action" and action[0] == 3:
            raise KeyError("three")
        observation, reward, *others = super().step(action)
        return observation, np.inf if self.how == "reward" else reward, *others

    def _observe(self) -> Any:
        observation, late = super()._observe(), len(self._history) > 3
        wrong: dict[str, Callable[[], Any]] = {
            "nan": lambda: observation * np.nan,
            "shape": lambda: observation[:1],
            "size": lambda: {**observation, "observation": {"a": np.zeros(3, np.float32), "b": 0}},
        }
        return wrong[self.how]() if late and self.how in wrong else observation


gym.register("ilt-toys/Broken-v0", Broken, max_episode_steps=6)
gym.register("ilt-toys/Endless-v0", Broken)  # episodes with an even seed never end


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("seed", "with the same seed and actions the observations"),
        ("params", "the episode_params of a used environment differ from those of a fresh one"),
        ("names", "must have the same names at every reset"),
        ("action", r"step must accept every action of integers 1 … 3, -1 … 0, but \[ ?3 "),
        ("reward", "rewards must be finite, got inf"),
        ("endless", "an episode must end, but one with random actions did not end within 50 steps"),
        ("nan", "observations must be 2 finite numbers"),
        ("shape", "observations must be 2 finite numbers"),
        ("size", "observations must be "),
    ],
)
def test_a_broken_environment_is_refused(how: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ilt.envs.check.MOST_STEPS", 50)
    id = "ilt-toys/Endless-v0" if how == "endless" else "ilt-toys/Broken-v0"
    with pytest.raises(ValueError, match=message):
        check_env(EnvSpec(id=id, kwargs={"how": how}, seed_blocks=BLOCKS))
