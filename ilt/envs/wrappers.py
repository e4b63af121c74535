"""What a student is not shown, by the name under which an env's config asks for it.

An observation is one flat vector. What the student sees stands first, what only a privileged expert sees behind it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d import lunar_lander

_PHYSICS = (
    0x9417  # keeps the numbers that decide the physics apart from the simulator's, which start from the same seed
)


class Factor(NamedTuple):
    """One physical quantity of the Lunar Lander.

    Attributes:
        nominal: what Gymnasium's own lander has.
        low, high: the simulator's bounds.
        scale: what its distance from the nominal value is divided by, for the privileged expert.
        words: how people write a value of it.
    """

    nominal: float
    low: float
    high: float
    scale: float
    words: str


FACTORS: Mapping[str, Factor] = {
    "gravity": Factor(-10.0, -11.99, -0.01, 5.0, "gravity {:.1f}"),  # refused by Gymnasium outside (−12, 0)
    "wind_power": Factor(0.0, 0.0, 20.0, 20.0, "wind {:.0f} of 20"),  # of its documentation
    "turbulence_power": Factor(0.0, 0.0, 2.0, 2.0, "turbulence {:.1f} of 2"),
    # of the nominal power; with less it falls, with more it rises
    "main_engine_power": Factor(1.0, 0.5, 1.5, 0.2, "main engine {:.0%}"),
    "side_engine_power": Factor(1.0, 0.5, 1.5, 0.2, "side engines {:.0%}"),
}
"""What `RandomizedPhysics` can vary. Gravity is in m/s², powers of wind and turbulence as in `gymnasium.make`."""


class RandomizedPhysics(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """A Lunar Lander whose physics are drawn anew for every episode, from its seed alone.

    The student sees the lander's own 8 numbers. Behind them stand 7 for a privileged expert: each of `FACTORS`, as its
    distance from the nominal value in units of its scale, and the wind's force and torque that the next step meets,
    over the greatest there are. Where nothing varies, an episode is that of the bare lander bit for bit.

    Args:
        env: the bare lander.
        ranges: for each factor that varies, `[low, high]` of the uniform distribution that it is drawn from; the
            others are as the bare lander has them. ValueError if a range leaves the simulator's bounds.

    Attributes:
        visible: how many numbers of an observation the student sees; they stand first.
        hidden: names of the others.
        facts: the physics of the present episode by the name of its factor.
    """

    hidden = (*FACTORS, "wind_force", "wind_torque")

    def __init__(self, env: gym.Env, **ranges: Sequence[float]) -> None:
        check_ranges(ranges)
        super().__init__(env)
        if not isinstance(env, lunar_lander.LunarLander):
            raise ValueError(f"env.wrappers.hidden_physics must be the first wrapper of a LunarLander, got {env}")
        self._lander = env
        wind = (env.wind_power, env.turbulence_power) if env.enable_wind else (0.0, 0.0)
        own = dict(zip(FACTORS, (env.gravity, *wind, 1.0, 1.0), strict=True))
        self._ranges = {name: ranges.get(name, (own[name], own[name])) for name in FACTORS}
        assert isinstance(env.observation_space, spaces.Box)
        self.visible = len(env.observation_space.low)
        more = np.full(len(self.hidden), np.inf, dtype=np.float32)
        self.observation_space = spaces.Box(
            np.concatenate([env.observation_space.low, -more]), np.concatenate([env.observation_space.high, more])
        )
        self._rng = np.random.default_rng()
        self.facts: dict[str, float] = {}
        self._scaled = np.zeros(len(FACTORS), dtype=np.float32)
        self._nominal_engines = lunar_lander.MAIN_ENGINE_POWER, lunar_lander.SIDE_ENGINE_POWER

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng([_PHYSICS, seed])
        # one number for each factor, in their order, so that the range of one changes no other
        shares = self._rng.random(len(FACTORS)).tolist()
        drawn = zip(self._ranges.items(), shares, strict=True)
        self.facts = {name: low + (high - low) * share for (name, (low, high)), share in drawn}
        self._scaled[:] = [(self.facts[name] - factor.nominal) / factor.scale for name, factor in FACTORS.items()]
        lander, facts = self._lander, self.facts
        lander.gravity = facts["gravity"]
        lander.wind_power, lander.turbulence_power = facts["wind_power"], facts["turbulence_power"]
        lander.enable_wind = lander.wind_power > 0 or lander.turbulence_power > 0
        observation, info = lander.reset(seed=seed, options=options)
        return self._with_hidden(observation), info

    def step(self, action: int) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        # the simulator reads the power of its engines from its module, where all landers find it
        main, side = self._nominal_engines
        lunar_lander.MAIN_ENGINE_POWER = main * self.facts["main_engine_power"]
        lunar_lander.SIDE_ENGINE_POWER = side * self.facts["side_engine_power"]
        try:
            observation, *others = self._lander.step(action)
        finally:
            lunar_lander.MAIN_ENGINE_POWER, lunar_lander.SIDE_ENGINE_POWER = main, side
        return self._with_hidden(observation), *others

    def _with_hidden(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate([observation, self._scaled, self._wind()])

    def _wind(self) -> np.ndarray:
        """(2,) float32: force and torque in the next step, by Gymnasium's formula; none once a leg is on the ground."""
        lander, wind = self._lander, np.zeros(2, dtype=np.float32)
        if lander.enable_wind and not (lander.legs[0].ground_contact or lander.legs[1].ground_contact):
            wind[0] = _gust(int(lander.wind_idx)) * lander.wind_power / FACTORS["wind_power"].high
            wind[1] = _gust(int(lander.torque_idx)) * lander.turbulence_power / FACTORS["turbulence_power"].high
        return wind


class MaskObservation(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """Takes numbers of the observation away from the student and leaves them to a privileged expert.

    Args:
        env: an environment with flat observations.
        hide: their places among those that the student would see.

    Attributes:
        visible: how many numbers of an observation the student sees; they stand first.
        hidden: names of the others.
        facts: as the wrapped environment's.
    """

    def __init__(self, env: gym.Env, *, hide: Sequence[int]) -> None:
        super().__init__(env)
        before, shape = visible(env), env.observation_space.shape
        hidden = sorted(set(hide))
        if len(hidden) != len(hide) or not 0 < len(hidden) < before or hidden[0] < 0 or hidden[-1] >= before:
            raise ValueError(
                f"env.wrappers.blind.hide must be some of the places 0 to {before - 1}, each once, got {list(hide)}"
            )
        assert shape is not None
        assert isinstance(env.observation_space, spaces.Box)
        kept = [place for place in range(before) if place not in hidden]
        self._order = np.array([*kept, *hidden, *range(before, shape[0])])
        self.visible = len(kept)
        self.hidden = (*(f"observation[{place}]" for place in hidden), *hidden_names(env))
        self.observation_space = spaces.Box(
            env.observation_space.low[self._order], env.observation_space.high[self._order]
        )

    @property
    def facts(self) -> Mapping[str, float]:
        return facts(self.env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return observation[self._order], info

    def step(self, action: int) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        observation, *others = self.env.step(action)
        return observation[self._order], *others


WRAPPERS: Mapping[str, Callable[..., gym.Env]] = {"hidden_physics": RandomizedPhysics, "blind": MaskObservation}
"""By the name under which `env.wrappers` asks for them, with the arguments that stand there."""


def visible(env: gym.Env) -> int:
    """How many numbers of an observation a student sees: they stand first. All of them where nothing hides any."""
    if isinstance(env, RandomizedPhysics | MaskObservation):
        return env.visible
    assert env.observation_space.shape is not None
    return int(env.observation_space.shape[0])


def hidden_names(env: gym.Env) -> tuple[str, ...]:
    """What the numbers are that a student does not see, in their order behind those that it sees."""
    return env.hidden if isinstance(env, RandomizedPhysics | MaskObservation) else ()


def facts(env: gym.Env) -> Mapping[str, float]:
    """What the present episode was drawn to be, by name; empty where nothing is drawn."""
    return env.facts if isinstance(env, RandomizedPhysics | MaskObservation) else {}


def in_words(facts: Mapping[str, float]) -> list[str]:
    """What an episode was drawn to be, for people to read: one line for each fact."""
    return [FACTORS[name].words.format(value) for name, value in facts.items()]


def check_ranges(ranges: Mapping[str, Sequence[float]]) -> None:
    """Raise ValueError, naming the config key, unless each range is one of a factor's, within its bounds."""
    for name, given in ranges.items():
        key = f"env.wrappers.hidden_physics.{name}"
        if name not in FACTORS:
            raise ValueError(f"{key} must be one of {list(FACTORS)}")
        low, high = FACTORS[name].low, FACTORS[name].high
        numbers = isinstance(given, Sequence) and all(type(value) in (int, float) for value in given)
        if not numbers or len(given) != 2 or not low <= given[0] <= given[1] <= high:
            raise ValueError(f"{key} must be [lowest, highest] within [{low:g}, {high:g}], got {given}")


def _gust(index: int) -> float:
    """Gymnasium's wind in [−1, 1], which never repeats."""
    return math.tanh(math.sin(0.02 * index) + math.sin(math.pi * 0.01 * index))
