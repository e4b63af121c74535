"""What an environment's config says: how to make it, its rules of success, and which seeds serve which purpose."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ilt.config import BLOCKS, check_disjoint
from ilt.envs.wrappers import WRAPPERS, check_ranges, facts, hidden_names, visible


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """One environment, as `conf/env/` describes it.

    Attributes:
        id: Gymnasium's id.
        kwargs: keyword arguments for `gymnasium.make`.
        wrappers: arguments by name of one of `ilt.envs.wrappers.WRAPPERS`, the innermost first.
        success_return: an episode with at least this return is a success.
        crash_reward: an episode whose last reward equals this is a crash; None where crashing means nothing.
        heuristic: name of its hand-written controller in `ilt.envs.heuristics.HEURISTICS`, if it has one.
        seed_blocks: for each of `BLOCKS`, `[first seed, number of seeds]`. Blocks never overlap.
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    success_return: float
    crash_reward: float | None = None
    heuristic: str | None = None
    seed_blocks: Mapping[str, tuple[int, int]]

    def __post_init__(self) -> None:
        if sorted(self.seed_blocks) != sorted(BLOCKS):
            raise ValueError(f"env.seed_blocks must name {list(BLOCKS)}, got {list(self.seed_blocks)}")
        check_disjoint(self.seed_blocks)
        for name in self.wrappers:
            if name not in WRAPPERS:
                raise ValueError(f"env.wrappers must be of {sorted(WRAPPERS)}, got {name}")
        check_ranges(self.wrappers.get("hidden_physics", {}))

    def seeds(self, block: str, count: int, offset: int = 0) -> np.ndarray:
        """`count` seeds of a block, from its `offset`-th on: (count,) int64. ValueError if the block is too small."""
        first, size = self.seed_blocks[block]
        if count < 1 or offset < 0 or offset + count > size:
            raise ValueError(
                f"seeds {offset} to {offset + count - 1} of the {block} block were asked for, "
                f"but env.seed_blocks.{block} holds {size}"
            )
        return np.arange(first + offset, first + offset + count, dtype=np.int64)

    def block_of(self, seeds: np.ndarray) -> str:
        """The block that holds all of `seeds`. ValueError if none does."""
        if len(seeds) == 0:
            raise ValueError("no seeds lie in no block")
        for name, (first, count) in self.seed_blocks.items():
            if first <= seeds.min() and seeds.max() < first + count:
                return name
        raise ValueError(f"seeds {seeds.min()} to {seeds.max()} do not lie in one block of env.seed_blocks")

    def make(self, **kwargs: Any) -> gym.Env:
        """A bare environment: no checker, no time limit, no order enforcer (`EnvBatch` keeps the time limit).

        With `wrappers`, its observations are all there is to see, what the student sees first.
        """
        env: gym.Env = gym.make(self.id, disable_env_checker=True, **{**self.kwargs, **kwargs}).unwrapped
        for name, arguments in self.wrappers.items():
            env = WRAPPERS[name](env, **arguments)
        return env

    def sizes(self, *, privileged: bool = False) -> tuple[int, int]:
        """Size of one observation, and number of discrete actions. ValueError for other kinds of spaces.

        Args:
            privileged: count what is hidden from the student too.
        """
        env = self.make()
        observations, actions = env.observation_space, env.action_space
        env.close()
        if not isinstance(observations, spaces.Box) or len(observations.shape) != 1:
            raise ValueError(f"env.id={self.id}: observations must be flat vectors, got {observations}")
        if not isinstance(actions, spaces.Discrete) or actions.start != 0:
            raise ValueError(f"env.id={self.id}: actions must be discrete, from 0, got {actions}")
        return int(observations.shape[0]) if privileged else visible(env), int(actions.n)

    def hidden_names(self) -> tuple[str, ...]:
        """What the columns of `step/privileged` are: the numbers that a student does not see, if there are any."""
        env = self.make()
        env.close()
        return hidden_names(env)

    def shows(self, *, privileged: bool = False) -> list[str]:
        """Names of the numbers of an observation, in their order; without `privileged`, of those a student sees."""
        hidden, n_visible = self.hidden_names(), self.sizes()[0]
        names = [f"observation[{place}]" for place in range(n_visible + len(hidden))]
        kept = [name for name in names if name not in hidden][:n_visible]
        return [*kept, *hidden] if privileged else kept

    def drawn(self) -> list[str]:
        """Names of what is drawn for each episode, which a flight keeps as `episode/<name>`."""
        env = self.make()
        env.reset(seed=0)
        env.close()
        return list(facts(env))

    @property
    def max_episode_steps(self) -> int | None:
        """The time limit in steps: of `kwargs` (where −1 means none, as in `gymnasium.make`), else as registered."""
        limit = self.kwargs.get("max_episode_steps")
        if limit is None:
            return gym.spec(self.id).max_episode_steps
        return None if limit == -1 else int(limit)

    def identity(self) -> dict[str, Any]:
        """What decides an episode beside its seed and the policy: goes into the hash of every artifact."""
        identity = {"id": self.id, "kwargs": dict(self.kwargs)}
        if self.wrappers:  # a bare environment has the names of before there were any
            identity["wrappers"] = {name: dict(arguments) for name, arguments in self.wrappers.items()}
        return identity
