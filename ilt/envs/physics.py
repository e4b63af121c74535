"""New physics in every episode (domain randomization), for any simulator whose quantities can be set.

What can vary is a table of `Factor`s by name. The tables of Gymnasium's simulators are in `FAMILIES`, found by the
environment's class. An environment or wrapper of your own declares its table as the attribute `physics_factors`:

    class Crane(gym.Env):
        def __init__(self):
            self.cable = 2.0  # meters
            self.physics_factors = {"cable": scaled(self, "cable", low=0.5, high=2.0)}

Each reset draws one number for each factor of a table, in order. So a table may grow at its end, but another order
changes every episode's physics.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ilt.envs.observations import OBSERVATION, PRIVILEGED
from ilt.schema import ConfigError, path_of

_PHYSICS = 0x9417  # separates the random stream of the physics from the simulator's, which has the same seed


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A physical quantity that can differ between episodes, by default relative to the environment's own value.

    Attributes:
        set: sets the value in the environment. It is called before each reset and must not depend on earlier values.
        shared: constants that all environments in the process share, each as an object, such as a module, and the name
            of its attribute. They are multiplied by the value during each reset and step, and restored afterwards.
        low, high: the smallest and largest value that the simulator allows.
        nominal: the value with which episodes equal those of the bare environment.
        scale: what the distance from the nominal value is divided by in privileged observations.
    """

    set: Callable[[float], None] | None = None
    shared: Sequence[tuple[Any, str]] = ()
    low: float = 0.1
    high: float = 10.0
    nominal: float = 1.0
    scale: float = 0.5


class RandomizedPhysics(gym.Wrapper[Any, Any, Any, Any]):
    """An environment with new physics in every episode, which depend only on its seed (domain randomization).

    Students see the environment's own observations. A privileged teacher also sees one number for each factor in
    `ranges`: the distance from its nominal value divided by its scale. With nominal values, episodes equal those of the
    bare environment bit for bit.

    Args:
        env: an environment of Gymnasium's classic control, BipedalWalker or MuJoCo, or one that has the attribute
            `physics_factors`; see `ilt.envs.physics`.
        ranges: `[low, high]` of the uniform distribution of each factor that varies; equal ends fix its value.

    Attributes:
        privileged_names: names of the factors in `ranges`, in the order of the environment's table.

    Raises:
        ConfigError: a factor is unknown, a range exceeds its bounds, or nothing can vary in `env`.
    """

    def __init__(self, env: gym.Env[Any, Any], **ranges: Sequence[float]) -> None:
        super().__init__(env)
        if isinstance(env.observation_space, spaces.Dict) and PRIVILEGED in env.observation_space.spaces:
            raise ConfigError("env.wrappers: RandomizedPhysics must come before wrappers that hide something")
        table = factors_of(env)
        check_ranges(ranges, {name: (factor.low, factor.high) for name, factor in table.items()})
        if not ranges:
            raise ConfigError(f"env.wrappers: RandomizedPhysics must be given ranges of some of {list(table)}")
        self.privileged_names = tuple(name for name in table if name in ranges)
        self._places, self._n_drawn = [place for place, name in enumerate(table) if name in ranges], len(table)
        self._factors = [table[name] for name in self.privileged_names]
        self._low, high = np.array([ranges[name] for name in self.privileged_names], dtype=np.float64).T
        self._span = high - self._low
        self._nominal, self._scale = np.array([[each.nominal, each.scale] for each in self._factors]).T
        least, most = (self._observe(ends) for ends in np.array([[each.low, each.high] for each in self._factors]).T)
        self.observation_space = spaces.Dict({OBSERVATION: env.observation_space, PRIVILEGED: spaces.Box(least, most)})
        self._shared = [
            (owner, name, getattr(owner, name), place)
            for place, factor in enumerate(self._factors)
            for owner, name in factor.shared
        ]
        self._values: list[float] = []
        self._hidden = self._observe(self._nominal)
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng([_PHYSICS, seed])
        # always one number for each factor of the table, so that the range of one does not change the others
        values = self._low + self._span * self._rng.random(self._n_drawn)[self._places]
        self._hidden = self._observe(values)
        self._values = values.tolist()
        for factor, value in zip(self._factors, self._values, strict=True):
            if factor.set is not None:
                factor.set(value)
        observation, info = self._run(self.env.reset, seed=seed, options=options)
        params = dict(zip(self.privileged_names, self._values, strict=True))
        return {OBSERVATION: observation, PRIVILEGED: self._hidden}, {**info, "episode_params": params}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._shared:
            observation, reward, terminated, truncated, info = self._run(self.env.step, action)
        else:
            observation, reward, terminated, truncated, info = self.env.step(action)
        return {OBSERVATION: observation, PRIVILEGED: self._hidden}, reward, terminated, truncated, info

    def _observe(self, values: np.ndarray) -> np.ndarray:
        """Return what a privileged teacher sees of the factors' values."""
        return ((values - self._nominal) / self._scale).astype(np.float32)

    def _run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function while shared constants have this episode's values."""
        try:
            for owner, name, nominal, place in self._shared:
                setattr(owner, name, nominal * self._values[place])
            return call(*args, **kwargs)
        finally:
            for owner, name, nominal, _ in self._shared:
                setattr(owner, name, nominal)


def check_ranges(ranges: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]) -> None:
    """Raise ConfigError, naming the config key, unless each range lies within the bounds of a known name."""
    for name, given in ranges.items():
        key = f"env.wrappers.randomized_physics.{name}"
        if name not in bounds:
            raise ConfigError(f"{key} must be one of {list(bounds)}")
        low, high = bounds[name]
        numbers = isinstance(given, Sequence) and all(type(value) in (int, float) for value in given)
        if not numbers or len(given) != 2 or not low <= given[0] <= given[1] <= high:
            raise ConfigError(f"{key} must be [lowest, highest] within [{low:g}, {high:g}], got {given}")


def factors_of(env: gym.Env[Any, Any]) -> Mapping[str, Factor]:
    """Return what can vary in an environment, by name. Raise ConfigError if it declares nothing and is of no family."""
    if env.has_wrapper_attr("physics_factors"):
        return env.get_wrapper_attr("physics_factors")
    for base in type(env.unwrapped).__mro__:
        if (family := FAMILIES.get(path_of(base))) is not None:
            return family(env.unwrapped)
    raise ConfigError(
        f"env.wrappers: RandomizedPhysics does not know what can vary in {env.unwrapped}; give the environment an "
        f"attribute physics_factors, or use one of {[path.rpartition('.')[2] for path in FAMILIES]}"
    )


def scaled(
    owner: Any, *names: str, low: float = 0.1, high: float = 10.0, then: Callable[[], None] | None = None
) -> Factor:
    """Return a factor that multiplies attributes.

    Args:
        owner: the object with the attributes; their present values are the nominal ones.
        names: names of the attributes: numbers, or lists of numbers.
        low, high: bounds of the factor.
        then: called after the attributes are set, such as to update what is derived from them.
    """
    nominal = {name: getattr(owner, name) for name in names}

    def set(value: float) -> None:
        for name, own in nominal.items():
            setattr(owner, name, [each * value for each in own] if isinstance(own, list) else own * value)
        if then is not None:
            then()

    return Factor(set=set, low=low, high=high)


def _cartpole(env: Any) -> dict[str, Factor]:
    def derive() -> None:
        env.total_mass = env.masspole + env.masscart
        env.polemass_length = env.masspole * env.length

    return {
        "gravity": scaled(env, "gravity", low=0.0),
        "masscart": scaled(env, "masscart", then=derive),
        "masspole": scaled(env, "masspole", then=derive),
        "length": scaled(env, "length", then=derive),
        "force_mag": scaled(env, "force_mag"),
        "tau": scaled(env, "tau", high=5.0),  # seconds between states
    }


def _pendulum(env: Any) -> dict[str, Factor]:
    return {
        "g": scaled(env, "g", low=0.0),
        "m": scaled(env, "m"),
        "l": scaled(env, "l"),
        # not more than the bounds of actions and observations, which stay what they are
        "max_torque": scaled(env, "max_torque", high=1.0),
        "max_speed": scaled(env, "max_speed", high=1.0),
    }


def _acrobot(env: Any) -> dict[str, Factor]:
    # gravity is a local variable of Gymnasium's code; the second link's length matters by its center of mass alone
    return {
        "link_mass_1": scaled(env, "LINK_MASS_1"),
        "link_mass_2": scaled(env, "LINK_MASS_2"),
        "link_length_1": scaled(env, "LINK_LENGTH_1", "LINK_COM_POS_1"),
        "link_length_2": scaled(env, "LINK_LENGTH_2", "LINK_COM_POS_2"),
        "link_moi": scaled(env, "LINK_MOI"),
        "torque": scaled(env, "AVAIL_TORQUE"),
    }


def _mountain_car(env: Any) -> dict[str, Factor]:
    return {"force": scaled(env, "force"), "gravity": scaled(env, "gravity", low=0.0)}


def _continuous_mountain_car(env: Any) -> dict[str, Factor]:
    return {"power": scaled(env, "power")}  # gravity is a number in Gymnasium's code


def _bipedal_walker(env: Any) -> dict[str, Factor]:
    from gymnasium.envs.box2d import bipedal_walker as constants

    gravity = tuple(env.world.gravity)

    def pull(value: float) -> None:
        env.world.gravity = tuple(each * value for each in gravity)

    def rub(value: float) -> None:
        env.fd_edge.friction = env.fd_polygon.friction = constants.FRICTION * value  # of the ground

    return {
        "gravity": Factor(set=pull),
        "friction": Factor(set=rub, low=0.0),
        "motor_torque": Factor(shared=[(constants, "MOTORS_TORQUE")]),  # its cost in the reward as well
        # joint speeds are observed relative to the largest speed
        "motor_speed": Factor(shared=[(constants, "SPEED_HIP"), (constants, "SPEED_KNEE")]),
        "hull_mass": Factor(shared=[(constants.HULL_FD, "density")]),
        "leg_mass": Factor(shared=[(constants.LEG_FD, "density"), (constants.LOWER_FD, "density")]),
    }


class _Rows:
    """Arrays of a simulator whose rows are multiplied by factors, such as the masses of all bodies and of one.

    Args:
        arrays: views of the simulator's arrays; their present values are the nominal ones.
        then: called after the arrays are set.
    """

    def __init__(self, *arrays: np.ndarray, then: Callable[[], None] = lambda: None) -> None:
        self._arrays, self._then = [(array, array.copy()) for array in arrays], then
        self._values: list[tuple[Any, float]] = []  # rows, and the present value of their factor

    def factor(self, rows: Any = slice(None), *, low: float = 0.1) -> Factor:
        """Return a factor of these rows."""
        place = len(self._values)
        self._values.append((rows, 1.0))

        def set(value: float) -> None:
            self._values[place] = rows, value
            for array, nominal in self._arrays:
                array[:] = nominal
                for chosen, factor in self._values:
                    if factor != 1.0:
                        array[chosen] *= factor
            self._then()

        return Factor(set=set, low=low)


def _mujoco(env: Any) -> dict[str, Factor]:
    """Gravity; mass, friction, gear and damping of everything, and of each body, geom, actuator and joint by its name.

    Those without a name are called by their index. MuJoCo's friction of a contact is the larger one of its two geoms.
    """
    import mujoco

    model, data = env.model, env.data
    gravity = _Rows(model.opt.gravity)
    mass = _Rows(model.body_mass, model.body_inertia, then=lambda: mujoco.mj_setConst(model, data))
    friction, gear, damping = _Rows(model.geom_friction), _Rows(model.actuator_gear), _Rows(model.dof_damping)
    whole = {
        "gravity": gravity.factor(low=0.0),
        "mass": mass.factor(),
        "friction": friction.factor(low=0.0),
        "gear": gear.factor(),
        "damping": damping.factor(low=0.0),
    }
    bodies = {f"mass_{model.body(i).name or i}": mass.factor(i) for i in range(model.nbody) if model.body_mass[i] > 0}
    geoms = {f"friction_{model.geom(i).name or i}": friction.factor(i, low=0.0) for i in range(model.ngeom)}
    actuators = {f"gear_{model.actuator(i).name or i}": gear.factor(i) for i in range(model.nu)}
    dofs = {i: np.flatnonzero(model.dof_jntid == i) for i in range(model.njnt)}
    joints = {
        f"damping_{model.joint(i).name or i}": damping.factor(rows, low=0.0)
        for i, rows in dofs.items()
        if model.dof_damping[rows].any()
    }
    return whole | bodies | geoms | actuators | joints


FAMILIES: Mapping[str, Callable[[Any], Mapping[str, Factor]]] = {
    "gymnasium.envs.classic_control.cartpole.CartPoleEnv": _cartpole,
    "gymnasium.envs.classic_control.pendulum.PendulumEnv": _pendulum,
    "gymnasium.envs.classic_control.acrobot.AcrobotEnv": _acrobot,
    "gymnasium.envs.classic_control.mountain_car.MountainCarEnv": _mountain_car,
    "gymnasium.envs.classic_control.continuous_mountain_car.Continuous_MountainCarEnv": _continuous_mountain_car,
    "gymnasium.envs.box2d.bipedal_walker.BipedalWalker": _bipedal_walker,
    "gymnasium.envs.mujoco.mujoco_env.MujocoEnv": _mujoco,
}
"""What can vary in Gymnasium's simulators: the class of an environment, and a function that returns its table."""
