"""Mirror images of episodes: in a symmetric environment, every demonstration shows the mirrored task, too."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ilt.data.episodes import NO_SEED, Episodes
from ilt.data.windows import LABEL
from ilt.schema import ConfigError

if TYPE_CHECKING:
    from ilt.envs.actions import ActionSpace
    from ilt.envs.spec import EnvSpec


@dataclass(frozen=True)
class Reflection:
    """Swaps numbers, and changes the sign of some: the mirror image of x is `sign * x[..., source]`.

    Attributes:
        source: (n,) int64, a permutation that is its own inverse.
        sign: (n,) int64, 1 or −1.
    """

    source: np.ndarray
    sign: np.ndarray

    @classmethod
    def parse(cls, text: Any, n: int, *, key: str) -> "Reflection":
        """Read a text such as `-0 +2 +1`. Raise ConfigError, naming `key`, unless it reflects n numbers."""
        entries = text.split() if isinstance(text, str) else []  # YAML reads -0 as a number without its sign
        if len(entries) == n and all(re.fullmatch(r"[+-]?\d{1,9}", entry) for entry in entries):
            source = np.array([int(entry.lstrip("+-")) for entry in entries])
            sign = np.array([-1 if entry.startswith("-") else 1 for entry in entries])
            own_inverse = source.max() < n and np.array_equal(source[source], np.arange(n))
            if own_inverse and np.array_equal(sign[source], sign):
                return cls(source, sign)
        raise ConfigError(
            f"{key} must be a text of {n} indices from 0 to {n - 1}, each with an optional sign, such as '-0 +2 +1', "
            f"that changes nothing if it is applied twice (put a single number in quotes), got {text!r}"
        )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Reflect numbers (…, n)."""
        return (self.sign * x[..., self.source]).astype(x.dtype)


class Mirror:
    """What observations and actions look like in the mirror of an environment, as its config's `mirror` says.

    Args:
        env: an environment whose `mirror` is not null.

    Raises:
        ConfigError: `env.mirror` does not fit the environment's observations and actions.
    """

    def __init__(self, env: "EnvSpec") -> None:
        values, space = env.mirror, env.action_space
        if values is None:
            raise ConfigError("dataset.mirror must be false, since env.mirror is null; define it in the env's config")
        if sorted(values) != ["actions", "observations"]:
            raise ConfigError(f"env.mirror must have the keys observations and actions, got {dict(values)}")
        if len(space.n_choices) > 1:
            raise ConfigError(f"env.mirror must be null, since {env.id} has several choices in an action")
        self._space: ActionSpace = space
        key = "env.mirror.{}".format
        self._observations = Reflection.parse(values["observations"], env.observations.dim, key=key("observations"))
        self._actions = Reflection.parse(
            values["actions"], space.dim if space.continuous else space.n_choices[0], key=key("actions")
        )
        if not space.continuous and (self._actions.sign < 0).any():
            raise ConfigError(f"{key('actions')} must have no sign, since actions are choices, got {values['actions']}")

    def with_images(self, episodes: Episodes) -> Episodes:
        """Return the episodes, followed by their mirror images, whose seeds are unknown."""
        extras = dict(episodes.extras)
        if LABEL in extras:
            extras[LABEL] = self._reflected(extras[LABEL])
        images = replace(
            episodes,
            observations=self._observations(episodes.observations),
            actions=self._reflected(episodes.actions),
            seeds=np.full_like(episodes.seeds, NO_SEED),
            extras=extras,
        )
        return Episodes.concatenate([episodes, images])

    def _reflected(self, actions: np.ndarray) -> np.ndarray:
        encoded: Any = self._space.encode(actions)
        return self._space.decode(self._actions(encoded) if self._space.continuous else self._actions.source[encoded])
