"""The spec of an environment: how to make it, what counts as success, and what each seed is used for."""

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ilt.rules import MAPPING, integer, list_of
from ilt.schema import ConfigError, accepted, component, key, locate, plain
from ilt.schema import canonical as canonical_config

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np

    from ilt.envs.actions import ActionSpace
    from ilt.envs.observations import ObservationLayout

BLOCKS = ("demonstrations", "validation", "selection", "test")

NO_ENV = "none"
"""The id where there is no environment, only recordings: `env=none`."""

_BLOCK = list_of(integer(0), 2)
_LIMIT = integer(-1).or_null()


@component("env", "gymnasium", "ilt.envs.spec.EnvSpec")
@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """One environment: anything that `gymnasium.make` returns, including the wrappers of its registration.

    Observations may be any space that Gymnasium flattens. A `Dict` with the keys `observation` and `privileged` hides
    `privileged` from students. `reset` may report the parameters drawn for an episode as `info["episode_params"]`
    (name → number). `ActionSpace` describes the actions.

    With the id `none` there is no environment: nothing can be rolled out, and the spaces are those of the recordings;
    see `ilt.data.sources.env_of`.
    """

    id: str = key("???", "Gymnasium's id; `module:Name-v0` imports the module that registers it; none for none.")
    kwargs: Mapping[str, Any] = key({}, "Arguments of `gymnasium.make`, such as {gravity: -8.0}.", rule=MAPPING)
    wrappers: Mapping[str, Any] = key(
        {}, "Additional wrappers by name, innermost first, each with a `_target_` and its arguments.", rule=MAPPING
    )
    success_return: float | None = key(
        None, "An episode with at least this return is a success; null for no such rule.", identity=False
    )
    crash_reward: float | None = key(
        None, "An episode that terminates with this reward is a crash; null for no such rule.", identity=False
    )
    gate: float | None = key(
        None,
        "Minimum mean return on selection seeds that an expert needs to demonstrate; null for none.",
        identity=False,
    )
    heuristic: str | None = key(
        None,
        "Dotted path of the hand-written controller that expert=heuristic runs: a function from observations to "
        "actions, or a subclass of ilt.Policy that is made without arguments.",
        identity=False,
    )
    seed_blocks: Mapping[str, Sequence[int]] = key(
        {
            "demonstrations": [0, 10_000_000],
            "validation": [10_000_000, 1_000_000],
            "selection": [20_000_000, 1_000_000],
            "test": [30_000_000, 1_000_000],
        },
        "First seed and number of seeds of each block.",
        rule=MAPPING,
        identity=False,
    )
    mirror: Mapping[str, str] | None = key(
        None,
        "The mirror image of `observations` and `actions` for dataset.mirror, such as {observations: -0 -1, actions: "
        "1 0}: for each number of the image, the index and sign of the original number; for each discrete action, its "
        "mirror image; null if the environment has none.",
        rule=MAPPING.or_null(),
        identity=False,
    )
    trust: tuple[str, ...] | None = None
    spaces: tuple[Any, Any] | None = None
    """The Gymnasium spaces of observations and actions in recordings without an environment."""

    def __post_init__(self) -> None:
        check_disjoint(self.seed_blocks)
        _check_kwargs(self.kwargs)
        for name in () if self.simulated else ("kwargs", "wrappers", "gate", "heuristic"):
            if value := getattr(self, name):
                raise ConfigError(f"env.{name} cannot be set where env=none, got {plain(value)}")

    @classmethod
    def from_config(cls, values: Any, *, trust: Sequence[str] | None = None) -> "EnvSpec":
        """Create the spec from a config's `env`.

        Args:
            trust: packages besides `ilt` whose code may be run, if the config is somebody else's; see
                `ilt.schema.locate`. Gymnasium's own environments can always be made.
        """
        given = {str(name): plain(value) for name, value in values.items() if name != "_target_"}
        return cls(**given, trust=None if trust is None else tuple(trust))

    @property
    def simulated(self) -> bool:
        """Whether there is an environment to act in."""
        return self.id != NO_ENV

    def seeds(self, block: str, count: int, offset: int = 0) -> "np.ndarray":
        """Return `count` seeds of a block, starting at `offset`: (count,) int64.

        Raise ValueError if the block has too few seeds.
        """
        import numpy as np  # not earlier: importing it takes a fifth of the time to a command's first line

        first, size = self.seed_blocks[block]
        if count < 1 or offset < 0 or offset + count > size:
            raise ValueError(
                f"seeds {offset} to {offset + count - 1} of the {block} block were asked for, "
                f"but env.seed_blocks.{block} holds {size}"
            )
        return np.arange(first + offset, first + offset + count, dtype=np.int64)

    def block_of(self, seeds: "np.ndarray") -> str:
        """Return the block that contains all of `seeds`. Raise ValueError if none does."""
        if len(seeds) == 0:
            raise ValueError("seeds must not be empty")
        for name, (first, count) in self.seed_blocks.items():
            if first <= seeds.min() and seeds.max() < first + count:
                return name
        raise ValueError(f"seeds {seeds.min()} to {seeds.max()} do not lie in one block of env.seed_blocks")

    def make(self, **kwargs: Any) -> "gym.Env[Any, Any]":
        """Make one environment, without Gymnasium's checker, order enforcer and time limit. `EnvBatch` limits the time.

        Wrappers in the environment's registration are kept, and so is the time limit inside them. Some environments
        of Gymnasium are repaired; see `ilt.envs.repairs`.

        Args:
            kwargs: arguments of `gymnasium.make`, in addition to `self.kwargs`.

        Raises:
            ConfigError: the environment or a wrapper cannot be made, or there is none.
        """
        import gymnasium as gym

        from ilt.envs.repairs import repair

        if not self.simulated:
            raise ConfigError(_NOTHING_TO_ACT_IN)
        registered = copy.deepcopy(self._registered)
        registered.order_enforce = False
        registered.disable_env_checker = True
        given = {name: value for name, value in self.kwargs.items() if name != "max_episode_steps"}
        if registered.additional_wrappers:
            registered.max_episode_steps = self.max_episode_steps
        else:
            registered.max_episode_steps = None
        try:
            env: gym.Env[Any, Any] = gym.make(registered, **{**given, **kwargs})
        except (TypeError, AssertionError, ValueError, gym.error.Error) as error:
            raise ConfigError(f"env.kwargs must be arguments of {self.id}, got {dict(given)}: {error}") from error
        repair(env.unwrapped)
        for name, arguments in self.wrappers.items():
            env = self._wrap(env, str(name), dict(arguments or {}))
        return env

    def _wrap(self, env: "gym.Env[Any, Any]", name: str, arguments: dict[str, Any]) -> "gym.Env[Any, Any]":
        prefix = f"env.wrappers.{name}"
        if "_target_" not in arguments:
            raise ConfigError(f"{prefix} must have a _target_, the dotted path of a wrapper, got {arguments}")
        target = locate(arguments.pop("_target_"), key=f"{prefix}._target_", trust=self.trust)
        options = accepted(target, arguments, {"env": env}, prefix=prefix)
        try:
            return target(options.pop("env", env), **options)
        except ConfigError:
            raise
        except (TypeError, AssertionError, ValueError) as error:
            raise ConfigError(f"{prefix} cannot wrap {self.id}: {error}") from error

    @cached_property
    def _registered(self) -> Any:
        import gymnasium as gym

        module, _, name = self.id.rpartition(":")
        if module:
            if self.trust is not None and module.split(".")[0] not in self.trust:
                raise ConfigError(f"env.id={self.id} names a module, which is only imported with trust=[{module}]")
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ConfigError(f"env.id={self.id}: {module} cannot be imported: {error}") from error
        try:
            return gym.spec(name)
        except gym.error.Error as error:
            advice = f"register it in {module} with gymnasium.register" if module else "yours is named module:Name-v0"
            raise ConfigError(
                f"env.id must be an environment that Gymnasium knows, got {self.id}: {error} ({advice})"
            ) from error

    @cached_property
    def _probe(self) -> "tuple[ObservationLayout, ActionSpace, tuple[str, ...]]":
        """The properties of one environment, made and reset once, or of recordings."""
        from ilt.envs.actions import ActionSpace
        from ilt.envs.observations import ObservationLayout

        if self.spaces is not None:
            import gymnasium as gym

            recorded: gym.Env[Any, Any] = gym.Env()
            recorded.observation_space, recorded.action_space = self.spaces
            layout = ObservationLayout.of(recorded, key="demos")
            return layout, ActionSpace.of(recorded.action_space, key="demos"), ()
        env = self.make()
        try:
            layout = ObservationLayout.of(env, key=f"env.id={self.id}")
            action_space = ActionSpace.of(env.action_space, key=f"env.id={self.id}")
            first, size = self.seed_blocks["selection"]
            _, info = env.reset(seed=int(first + size - 1))
            return layout, action_space, tuple(info.get("episode_params", {}))
        finally:
            env.close()

    @property
    def observations(self) -> "ObservationLayout":
        """The observations of students and privileged teachers. Raise ConfigError if they cannot be flattened."""
        return self._probe[0]

    @property
    def action_space(self) -> "ActionSpace":
        """The actions. Raise ConfigError if they are not supported."""
        return self._probe[1]

    @property
    def episode_params(self) -> tuple[str, ...]:
        """Names of the parameters drawn for each episode, which rollouts record as `episode/<name>`."""
        return self._probe[2]

    @property
    def max_episode_steps(self) -> int | None:
        """Time limit in steps: from `kwargs` (−1 for none, as in `gymnasium.make`), otherwise as registered."""
        limit = self.kwargs.get("max_episode_steps")
        if limit is None:
            return self._registered.max_episode_steps
        return None if limit == -1 else int(limit)

    @property
    def registration(self) -> "gym.envs.registration.EnvSpec | None":
        """Gymnasium's spec with `kwargs` and time limit; None if JSON cannot hold it, or if there are `wrappers`."""
        if not self.simulated:
            return None
        spec = copy.deepcopy(self._registered)
        spec.kwargs |= {name: value for name, value in self.kwargs.items() if name != "max_episode_steps"}
        spec.max_episode_steps = self.max_episode_steps
        try:
            spec.to_json()
        except (TypeError, ValueError):
            return None
        return None if self.wrappers else spec

    def identity(self) -> dict[str, Any]:
        """Return what determines an episode besides its seed and the policy. It is part of every artifact's hash."""
        identity: dict[str, Any] = {"id": self.id, "kwargs": dict(self.kwargs)}
        if self.wrappers:
            identity["wrappers"] = [
                canonical_config("env.wrappers", dict(arguments), prefix=f"env.wrappers.{name}")
                for name, arguments in self.wrappers.items()
            ]
        return identity


_NOTHING_TO_ACT_IN = "env must be an environment to act in, got none; only training on recordings needs none"


def _check_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Raise ConfigError for an invalid time limit, and for `render_mode`, which each rollout decides."""
    limit = kwargs.get("max_episode_steps")
    if not _LIMIT.allows(limit) or limit == 0:
        raise ConfigError(f"env.kwargs.max_episode_steps must be a number of steps, or -1 for no limit, got {limit!r}")
    if "render_mode" in kwargs:
        raise ConfigError("env.kwargs.render_mode cannot be set: only videos render; evaluation.video=true makes one")


def check_disjoint(seed_blocks: Mapping[Any, Any]) -> None:
    """Raise ConfigError unless all four blocks exist and no two share a seed."""
    if sorted(map(str, seed_blocks)) != sorted(BLOCKS):
        raise ConfigError(f"env.seed_blocks must name {list(BLOCKS)}, got {list(seed_blocks)}")
    for name, block in seed_blocks.items():
        if not _BLOCK.allows(block if not isinstance(block, tuple) else list(block)):
            raise ConfigError(f"env.seed_blocks.{name} must be {_BLOCK.wanted}, got {block!r}")
        if sum(block) > 2**63:
            raise ConfigError(f"env.seed_blocks.{name} must end below 2^63, got {block!r}")
    spans = sorted((first, first + count, name) for name, (first, count) in seed_blocks.items())
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise ConfigError(
                f"env.seed_blocks must be disjoint, but {name} and {other} overlap: {other} must start at {end} or "
                f"later, got {start}"
            )
