"""The Lunar Lander: randomized physics and a hand-written controller."""

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d import lunar_lander
from PIL import Image, ImageDraw

from ilt.envs.observations import OBSERVATION, PRIVILEGED
from ilt.envs.physics import check_ranges
from ilt.schema import ConfigError

_PHYSICS = 0x9417  # separates the random stream of the physics from the simulator's, which has the same seed
_DISCRETE, _CONTINUOUS = (SimpleNamespace(unwrapped=SimpleNamespace(continuous=kind)) for kind in (False, True))
_ARROW = 180  # length in pixels of the arrow for the strongest wind


class Parameter(NamedTuple):
    """One physical quantity of the Lunar Lander.

    Attributes:
        nominal: the value in Gymnasium's lander.
        low, high: the simulator's bounds.
        scale: what the distance from the nominal value is divided by in privileged observations.
    """

    nominal: float
    low: float
    high: float
    scale: float


PARAMETERS: Mapping[str, Parameter] = {
    "gravity": Parameter(-10.0, -11.99, -0.01, 5.0),  # Gymnasium rejects values outside (−12, 0)
    "wind_power": Parameter(0.0, 0.0, 20.0, 20.0),  # the ranges in Gymnasium's documentation
    "turbulence_power": Parameter(0.0, 0.0, 2.0, 2.0),
    # relative to the nominal power; with less than this range the lander falls, with more it rises
    "main_engine_power": Parameter(1.0, 0.5, 1.5, 0.2),
    "side_engine_power": Parameter(1.0, 0.5, 1.5, 0.2),
}
"""What `RandomizedPhysics` can vary. Gravity is in m/s²; wind and turbulence powers are as in `gymnasium.make`."""


class RandomizedPhysics(gym.Wrapper[Any, Any, Any, Any]):
    """A Lunar Lander with new physics in every episode, which depend only on its seed (domain randomization).

    Students see the lander's own 8 numbers. A privileged teacher sees 7 more: for each of `PARAMETERS` the distance
    from its nominal value divided by its scale, and the wind's force and torque in the next step, relative to their
    largest values. If nothing varies, episodes equal those of the bare lander bit for bit.

    Args:
        env: the bare lander.
        ranges: `[low, high]` of the uniform distribution of each parameter that varies; the others keep the bare
            lander's values.

    Attributes:
        privileged_names: names of the 7 privileged numbers.

    Raises:
        ConfigError: a range exceeds the simulator's bounds, or `env` is not a bare lander.
    """

    privileged_names = (*PARAMETERS, "wind_force", "wind_torque")

    def __init__(self, env: gym.Env[Any, Any], **ranges: Sequence[float]) -> None:
        check_ranges(ranges, {name: (each.low, each.high) for name, each in PARAMETERS.items()})
        super().__init__(env)
        if not isinstance(env, lunar_lander.LunarLander):
            raise ConfigError(f"env.wrappers: RandomizedPhysics must be the first wrapper of a LunarLander, got {env}")
        self._lander = env
        wind = (env.wind_power, env.turbulence_power) if env.enable_wind else (0.0, 0.0)
        own = dict(zip(PARAMETERS, (env.gravity, *wind, 1.0, 1.0), strict=True))
        self._ranges = {name: ranges.get(name, (own[name], own[name])) for name in PARAMETERS}
        bound = np.full(len(self.privileged_names), np.inf, dtype=np.float32)
        self.observation_space = spaces.Dict(
            {OBSERVATION: env.observation_space, PRIVILEGED: spaces.Box(-bound, bound)}
        )
        self._rng = np.random.default_rng()
        self._params: dict[str, float] = {}
        self._hidden = np.zeros(len(self.privileged_names), dtype=np.float32)
        self._nominal_engines = lunar_lander.MAIN_ENGINE_POWER, lunar_lander.SIDE_ENGINE_POWER

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng([_PHYSICS, seed])
        # always one number for each parameter, so that the range of one does not change the others
        shares = self._rng.random(len(PARAMETERS)).tolist()
        drawn = zip(self._ranges.items(), shares, strict=True)
        params = {name: low + (high - low) * share for (name, (low, high)), share in drawn}
        self._hidden[:-2] = [(params[name] - each.nominal) / each.scale for name, each in PARAMETERS.items()]
        lander, self._params = self._lander, params
        lander.gravity = params["gravity"]
        lander.wind_power, lander.turbulence_power = params["wind_power"], params["turbulence_power"]
        lander.enable_wind = lander.wind_power > 0 or lander.turbulence_power > 0
        observation, info = lander.reset(seed=seed, options=options)
        return self._with_hidden(observation), {**info, "episode_params": params}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        # the simulator reads its engine powers from module globals, which all landers share
        main, side = self._nominal_engines
        lunar_lander.MAIN_ENGINE_POWER = main * self._params["main_engine_power"]
        lunar_lander.SIDE_ENGINE_POWER = side * self._params["side_engine_power"]
        try:
            observation, *others = self._lander.step(action)
        finally:
            lunar_lander.MAIN_ENGINE_POWER, lunar_lander.SIDE_ENGINE_POWER = main, side
        return self._with_hidden(observation), *others

    def render(self) -> Any:
        """Render the lander with an arrow whose length shows the wind's strength; a tick marks where it starts."""
        frame = self._lander.render()
        if not isinstance(frame, np.ndarray):
            return frame
        image = Image.fromarray(frame)
        draw = ImageDraw.Draw(image)
        x, y = image.width - _ARROW - 20, 60
        force, _ = self._wind()
        draw.line([(x, y - 11), (x, y + 11)], fill=(190, 190, 190), width=2)
        tip = x + round(_ARROW * force)
        if abs(tip - x) >= 2:
            back = tip - min(18, abs(tip - x)) * (1 if force > 0 else -1)
            draw.line([(x, y), (back, y)], fill=(110, 180, 255), width=7)
            draw.polygon([(tip, y), (back, y - 11), (back, y + 11)], fill=(110, 180, 255))
        return np.asarray(image)

    def _with_hidden(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        hidden = self._hidden.copy()
        hidden[-2], hidden[-1] = self._wind()
        return {OBSERVATION: observation, PRIVILEGED: hidden}

    def _wind(self) -> tuple[float, float]:
        """Return the wind's force and torque in the next step, by Gymnasium's formula; zero once a leg is down."""
        lander = self._lander
        if not lander.enable_wind or lander.legs[0].ground_contact or lander.legs[1].ground_contact:
            return 0.0, 0.0
        force = _gust(int(lander.wind_idx)) * lander.wind_power / PARAMETERS["wind_power"].high
        torque = _gust(int(lander.torque_idx)) * lander.turbulence_power / PARAMETERS["turbulence_power"].high
        return force, torque


def heuristic(observations: np.ndarray) -> np.ndarray:
    """Map observations (n, 8) float32 to actions (n,) int64 with Gymnasium's own controller."""
    return np.array([lunar_lander.heuristic(_DISCRETE, observation) for observation in observations], dtype=np.int64)


def heuristic_continuous(observations: np.ndarray) -> np.ndarray:
    """Map observations (n, 8) float32 to actions (n, 2) float32 in [−1, 1] with Gymnasium's own controller."""
    actions = [lunar_lander.heuristic(_CONTINUOUS, observation) for observation in observations]
    return np.array(actions, dtype=np.float32)


def _gust(index: int) -> float:
    """Return Gymnasium's wind in [−1, 1], which never repeats."""
    return math.tanh(math.sin(0.02 * index) + math.sin(math.pi * 0.01 * index))
