"""The contract of a data source: where demonstrations come from.

The simplest source is a function `(env, block) -> Episodes`, where `block` is "demonstrations" or "validation"; set
`demos._target_` to its path. A class is called with the other keys of `demos`:

    class MyRecordings(DataSource):
        def __init__(self, *, path: str):
            self.path = path

        def episodes(self, env, block, demonstrate):
            return Episodes(...)
"""

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from ilt.data.episodes import Episodes
from ilt.envs.spec import NO_ENV, EnvSpec
from ilt.registry import load_option, merge
from ilt.schema import (
    ConfigError,
    accepted,
    canonical,
    check,
    common_keys,
    complete,
    config_hash,
    locate,
    own_keys,
    path_of,
    schema_of,
)
from ilt.settings import has_expert
from ilt.tracking.store import file_digests, sha256

log = logging.getLogger(__name__)

_TOLERANCE = 1e-3
"""How far a recorded observation may lie outside its bounds, since recordings are rounded."""


class Demonstrate(Protocol):
    """Runs the expert, or another one that a config describes, and returns one episode per seed."""

    def __call__(self, seeds: np.ndarray, title: str, expert: Mapping[str, Any] | None = None, /) -> Episodes:
        """Run seeds (E,) int64, with a title for the progress bar."""


class DataSource(ABC):
    """Where demonstrations come from.

    Attributes:
        version: increase it when the episodes change, so that older artifacts are not reused.
        uses_expert: whether the episodes depend on the expert, which must then pass its gate.
        n_episodes: how many seeds of the demonstrations block it uses, starting from the first.
        experts: configs of other experts that it uses, by the key that describes them.
    """

    version = 1
    uses_expert = False
    n_episodes = 0
    experts: Mapping[str, Mapping[str, Any]] = {}

    @abstractmethod
    def episodes(self, env: EnvSpec, block: str, demonstrate: Demonstrate) -> Episodes:
        """Return the episodes of a block ("demonstrations" or "validation"), with actions in the simulator's units."""

    def identity(self) -> dict[str, Any]:
        """Return what determines the episodes besides the config, such as the content of a file."""
        return {}

    def check(self, env: EnvSpec) -> None:  # noqa: B027 (most sources fit any environment)
        """Raise ConfigError, naming the key, if the episodes do not fit the environment; before any long work."""

    def spaces(self, env: EnvSpec) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """Return the spaces of observations and actions, for `env=none`. By default they follow from the episodes.

        See `recorded_spaces`. Raise ConfigError if the episodes do not follow from recordings alone.
        """
        if self.uses_expert or self.experts:
            raise ConfigError(
                f"demos must be recordings where env={NO_ENV}, such as demos=file or demos=minari, got "
                f"demos._target_={path_of(type(self))}"
            )

        def refuse(*_: Any) -> Episodes:
            raise ConfigError(f"demos must be recordings where env={NO_ENV}, but its source asks for an expert")

        return recorded_spaces([self.episodes(env, block, refuse) for block in ("demonstrations", "validation")])

    def reference_scores(self) -> dict[str, float] | None:
        """Return the recorded mean returns of a random policy, `min`, and of an expert, `max`; None if unknown."""
        return None


class ExpertEpisodes(DataSource):
    """The expert's own episodes on the first seeds of both blocks.

    Args:
        n_episodes: episodes on the demonstrations block, one per seed.
        n_validation_episodes: episodes on the validation block, one per seed.
    """

    uses_expert = True

    def __init__(self, *, n_episodes: int, n_validation_episodes: int) -> None:
        self.n_episodes = n_episodes
        self._count = {"demonstrations": n_episodes, "validation": n_validation_episodes}

    def episodes(self, env: EnvSpec, block: str, demonstrate: Demonstrate) -> Episodes:
        return demonstrate(env.seeds(block, self._count[block]), block)


class MixedEpisodes(DataSource):
    """Episodes of several experts: data of mixed quality, as for offline reinforcement learning (Fu et al. 2020, D4RL).

    Every part has seeds of its own, one after the other in each block. The episodes are then shuffled, so that the
    first ones are a sample of all parts.

    Args:
        parts: by name, a mapping with the keys of `ilt.data.config.Part`.
    """

    def __init__(self, *, parts: Mapping[str, Mapping[str, Any]]) -> None:
        self._counts: dict[str, list[int]] = {"demonstrations": [], "validation": []}
        self.experts = {}
        for name, given in parts.items():
            if not isinstance(given, Mapping):
                raise ConfigError(f"demos.parts.{name} must be a mapping, got {given!r}")
            part = dict(given)
            complete(common_keys("demos.parts.NAME"), part)
            check(common_keys("demos.parts.NAME"), part, prefix=f"demos.parts.{name}")
            self._counts["demonstrations"].append(part["n_episodes"])
            self._counts["validation"].append(part["n_validation_episodes"])
            self.experts[f"demos.parts.{name}"] = _expert_of(part, f"demos.parts.{name}")
        self.n_episodes = sum(self._counts["demonstrations"])

    def episodes(self, env: EnvSpec, block: str, demonstrate: Demonstrate) -> Episodes:
        counts = self._counts[block]
        seeds = np.split(env.seeds(block, sum(counts)), np.cumsum(counts)[:-1])
        parts = [
            demonstrate(its_seeds, f"{key.rpartition('.')[2]}, {block}", expert)
            for (key, expert), its_seeds in zip(self.experts.items(), seeds, strict=True)
        ]
        return Episodes.concatenate(parts).select(np.random.default_rng(0).permutation(sum(counts)))

    def check(self, env: EnvSpec) -> None:
        """Raise ConfigError unless the blocks of the environment have enough seeds."""
        for block, counts in self._counts.items():
            if sum(counts) > (held := env.seed_blocks[block][1]):
                raise ConfigError(f"demos.parts must have at most {held} {block} episodes, got {sum(counts)}")

    def identity(self) -> dict[str, Any]:
        experts = [
            {**canonical("expert", expert, prefix=key), **file_digests(own_keys("expert", expert))}
            for key, expert in self.experts.items()
        ]
        names = ("expert", *self._counts)
        return {
            "parts": [dict(zip(names, part, strict=True)) for part in zip(experts, *self._counts.values(), strict=True)]
        }


def _expert_of(part: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the whole config of a part's expert. Raise ConfigError, naming the key, if it is wrong."""
    try:
        values = merge(load_option("expert", part["expert"]), {"gate": None, **part["settings"]})
    except ConfigError as error:
        raise ConfigError(f"{prefix}.{error}") from error
    found = schema_of("expert", values, prefix=f"{prefix}.settings")
    complete(found, values)
    check(found, values, prefix=f"{prefix}.settings")
    values["name"] = values["name"] or part["expert"]
    return values


class EpisodesFile(DataSource):
    """Recorded episodes, as `Episodes.save` writes them.

    Args:
        path: the `.npz` file of the demonstrations.
        validation_path: the `.npz` file of the validation episodes.
    """

    def __init__(self, *, path: str, validation_path: str) -> None:
        self._paths = {"demonstrations": Path(path), "validation": Path(validation_path)}

    def episodes(self, env: EnvSpec, block: str, demonstrate: Demonstrate) -> Episodes:
        return Episodes.load(self._paths[block])

    def check(self, env: EnvSpec) -> None:
        """Raise ConfigError, naming the key, unless both files contain episodes that fit the environment."""
        for block, key in (("demonstrations", "path"), ("validation", "validation_path")):
            try:
                check_fits(Episodes.load(self._paths[block]), env, source=str(self._paths[block]))
            except ValueError as error:
                raise ConfigError(f"demos.{key}: {error}") from error

    def identity(self) -> dict[str, Any]:
        missing = [str(path) for path in self._paths.values() if not path.is_file()]
        if missing:
            raise ConfigError(f"demos.path and demos.validation_path must be files, but {missing} do not exist")
        return {block: sha256(path) for block, path in self._paths.items()}


class FunctionSource(DataSource):
    """A data source from a plain function that maps an environment and a block to episodes.

    Arguments that are paths of files are identified by the files' contents.
    """

    def __init__(self, function: Callable[..., Episodes], **options: Any) -> None:
        self._function, self._options = function, options

    def identity(self) -> dict[str, Any]:
        return file_digests(self._options)

    def episodes(self, env: EnvSpec, block: str, demonstrate: Demonstrate) -> Episodes:
        return self._function(env, block, **self._options)


def make_source(values: Any, *, trust: Sequence[str] | None = None) -> DataSource:
    """Build the data source of a config's `demos`, which names a `DataSource` or a plain function."""
    target = locate(values["_target_"], key="demos._target_", trust=trust)
    options = own_keys("demos", values)
    if isinstance(target, type) and issubclass(target, DataSource):
        return target(**accepted(target, options, {}, prefix="demos"))
    try:
        inspect.signature(target).bind(None, "demonstrations", **options)
    except TypeError as error:
        raise ConfigError(
            f"demos._target_={path_of(target)} cannot be called with env, block and {options}: {error}"
        ) from error
    return FunctionSource(target, **options)


def env_of(env: Any, demos: Any = None, *, trust: Sequence[str] | None = None) -> EnvSpec:
    """Return the spec of a config's `env`; for `env=none`, with the spaces of the recordings that `demos` names.

    Raise ConfigError if `demos` is given and its spaces are unknown or not supported.
    """
    spec = EnvSpec.from_config(env, trust=trust)
    if spec.simulated or demos is None:
        return spec
    source = make_source(demos, trust=trust)
    key = config_hash([canonical("demos", demos), source.identity()])
    if key not in _SPACES:
        _SPACES[key] = source.spaces(spec)
    return replace(spec, spaces=_SPACES[key])


_SPACES: dict[str, tuple[gym.Space[Any], gym.Space[Any]]] = {}
"""The spaces of recordings that were read before, since several steps of a job ask for them."""


def recorded_spaces(parts: Sequence[Episodes]) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Return the smallest spaces that hold recorded episodes.

    Observations are a `Box` without bounds. Integer actions are a `Discrete`, or a `MultiDiscrete` if there are several
    per step, from 0 (or the smallest one, if it is negative) to the largest one. Other actions are a `Box` from each
    number's smallest to its largest value: a student never leaves the recorded range, and a number that never varies
    keeps its value, up to rounding.

    Raise ConfigError if actions are not finite, or if the parts differ in their widths.
    """
    widths = {(part.observations.shape[1], part.actions.shape[1:], part.actions.dtype.name) for part in parts}
    if len(widths) > 1:
        raise ConfigError(
            "demos must have observations and actions of the same shape in both blocks, got "
            + " and ".join(f"{dim} numbers with {dtype} actions of {shape}" for dim, shape, dtype in sorted(widths))
        )
    actions = np.concatenate([part.actions for part in parts])
    if not np.isfinite(actions).all():
        raise ConfigError("demos has actions that are not finite")
    seen = gym.spaces.Box(-np.inf, np.inf, (parts[0].observations.shape[1],))
    low, high = actions.min(axis=0), actions.max(axis=0)
    if actions.dtype.kind == "f":
        beside = np.where(low == 0, np.nextafter(low, np.float32(1)), np.nextafter(low, np.float32(0)))
        beside = np.where(low == high, beside, low)  # bounds must differ
        return seen, gym.spaces.Box(np.minimum(low, beside), np.maximum(high, beside), dtype=np.float32)
    low = np.minimum(low, 0)
    if actions.ndim == 1:
        return seen, gym.spaces.Discrete(int(high - low + 1), start=int(low))
    return seen, gym.spaces.MultiDiscrete(high - low + 1, start=low)


def check_source(values: Any, expert: Any, env: EnvSpec) -> None:
    """Raise ConfigError, naming the key, if a data source cannot be made, or lacks an expert or a fitting file."""
    source = make_source(values)
    if source.uses_expert and not has_expert(expert):
        raise ConfigError(f"expert must be one that demonstrates where demos._target_={values['_target_']}, got none")
    source.check(env)


def check_fits(episodes: Episodes, env: EnvSpec, *, source: str) -> None:
    """Raise ConfigError unless observations, actions and rewards fit the environment, and all are finite."""
    dim = env.observations.dim
    if episodes.observations.shape[1] != dim:
        raise ConfigError(
            f"{source} has observations of {episodes.observations.shape[1]} numbers, but env shows students {dim}"
        )
    for name, offsets in (("observations", episodes.observation_offsets), ("rewards", episodes.step_offsets)):
        array = getattr(episodes, name)
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0, 0])
            e = int(np.searchsorted(offsets, row, side="right")) - 1
            raise ConfigError(
                f"{source} has {name} that are not finite: {array[row]} at step {row - offsets[e]} of episode {e}"
            )
    try:
        inside = env.action_space.check(episodes.actions, len(episodes.actions), source=source)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not np.array_equal(inside, episodes.actions):
        row = int(np.argwhere(inside != episodes.actions)[0, 0])
        raise ConfigError(
            f"{source} has actions outside their bounds, such as {episodes.actions[row]}; the nearest within is "
            f"{inside[row]}: record the actions that the simulator executed, in its units"
        )


def warn_of_units(episodes: Episodes, env: EnvSpec, *, source: str) -> None:
    """Warn if recorded observations exceed the bounds of the environment's space, as in other units."""
    space: Any = gym.spaces.flatten_space(env.observations.space)
    low, high = episodes.observations.min(axis=0, initial=np.inf), episodes.observations.max(axis=0, initial=-np.inf)
    outside = np.flatnonzero((low < space.low - _TOLERANCE) | (high > space.high + _TOLERANCE))
    if len(outside):
        i = outside[0]
        log.warning(
            "%s has observations beyond the bounds of env: %s is from %g to %g, but should be from %g to %g; are the "
            "units the same?",
            source, env.observations.names[i], low[i], high[i], space.low[i], space.high[i],
        )  # fmt: skip


def warn_of_seeds(episodes: Episodes, env: EnvSpec, *, source: str) -> None:
    """Warn if recorded episodes start from seeds on which students are selected or tested."""
    for block in ("selection", "test"):
        first, count = env.seed_blocks[block]
        n = int(((episodes.seeds >= first) & (episodes.seeds < first + count)).sum())
        if n:
            log.warning(
                "%s has %d episodes with seeds of env.seed_blocks.%s, so a student is scored on episodes that it was "
                "trained on; move the block",
                source, n, block,
            )  # fmt: skip


def filter_episodes(episodes: Episodes, filters: Mapping[str, Any]) -> tuple[Episodes, dict[str, int]]:
    """Return the episodes that pass every filter, and how many episodes each filter drops.

    An episode that several filters drop counts for each of them. `top_fraction` comes last: it keeps a share of the
    episodes that pass the others, at least one, those with the highest returns; of equal returns, the earlier episodes.
    """
    least, share = filters.get("min_return"), filters.get("top_fraction")
    low = episodes.returns < (-np.inf if least is None else least)
    cut = episodes.truncated & bool(filters.get("drop_truncated"))
    passed = np.flatnonzero(~(low | cut))
    best = passed
    if share is not None and len(passed):
        n_best = max(round(share * len(passed)), 1)
        best = np.sort(passed[np.argsort(-episodes.returns[passed], kind="stable")[:n_best]])
    dropped = {"min_return": int(low.sum()), "drop_truncated": int(cut.sum())}
    return episodes.select(best), {**dropped, "top_fraction": len(passed) - len(best)}
