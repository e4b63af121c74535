"""Demonstrations as Minari data sets."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from ilt.data.episodes import NO_SEED, Episodes
from ilt.data.minari import METADATA, OURS, datasets_folder, import_minari
from ilt.envs.spec import EnvSpec
from ilt.schema import ConfigError

if TYPE_CHECKING:
    from minari.data_collector import EpisodeBuffer


def write_dataset(
    episodes: Episodes, env: EnvSpec, id: str, *, about: Mapping[str, Any], overwrite: bool = False
) -> Path:
    """Write episodes as a local Minari data set, and return its folder.

    Observations and actions are unflattened to the spaces of the environment, without what it hides from students.
    Extras are kept in `infos` (`step/…`) and in the metadata of the episodes (`episode/…`), and are read back.
    The folder appears when it is complete.

    Args:
        id: `NAMESPACE/NAME-vVERSION`.
        about: metadata in addition to those that Minari needs; None for unknown ones.
        overwrite: whether to replace an existing data set.

    Raises:
        ConfigError: the data set exists and `overwrite` is false.
    """
    minari = import_minari()
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage
    from minari.namespace import create_namespace, list_local_namespaces

    target = datasets_folder() / id
    check_new(id, overwrite=overwrite)
    if (namespace := id.rpartition("/")[0]) and namespace not in list_local_namespaces():
        create_namespace(namespace)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    storage = MinariStorage.new(
        partial / "data",
        observation_space=env.observations.space,
        action_space=env.action_space.space,
        env_spec=env.registration,
        jpeg_encoding=False,  # which loses information
    )
    storage.update_metadata(
        {
            "dataset_id": id,
            "minari_version": minari.__version__,
            **{name: value for name, value in about.items() if value is not None},
            OURS: {"env": json.loads(json.dumps(env.identity(), default=str))},
        }
    )
    storage.update_episodes(_buffers(episodes, env, EpisodeBuffer))
    extras = {name: array for name, array in episodes.extras.items() if name.startswith("episode/")}
    storage.update_episode_metadata([{n: array[e] for n, array in extras.items()} for e in range(len(episodes))])
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    return target


def check_new(id: str, *, overwrite: bool) -> None:
    """Raise ConfigError if a data set exists and is not to be replaced, or if Minari is not installed."""
    import_minari()
    target = datasets_folder() / id
    if target.exists() and not overwrite:
        raise ConfigError(f"id must be a new data set, unless overwrite=true, but {target} exists")
    if target.exists() and not (target / "data" / METADATA).is_file():
        raise ConfigError(f"id must not be a folder of other things, but {target} is no data set")


def _buffers(episodes: Episodes, env: EnvSpec, make: Any) -> "Iterator[EpisodeBuffer]":
    space, action_space = env.observations.space, env.action_space
    steps = {name.removeprefix("step/"): a for name, a in episodes.extras.items() if name.startswith("step/")}
    for e, (start, row, length) in enumerate(
        zip(episodes.step_offsets, episodes.observation_offsets, episodes.lengths, strict=True)
    ):
        taken = slice(start, start + length)
        ends = np.arange(length) == length - 1
        seed = int(episodes.seeds[e])
        yield make(
            seed=None if seed == NO_SEED else seed,
            observations=_unflatten(episodes.observations[row : row + length + 1], space),
            actions=episodes.actions[taken].reshape(length, *action_space.shape),
            rewards=episodes.rewards[taken],
            terminations=ends & episodes.terminated[e],
            truncations=ends & episodes.truncated[e],
            infos={"step": {name: array[taken] for name, array in steps.items()}} if steps else None,
        )


def _unflatten(rows: np.ndarray, space: spaces.Space[Any]) -> Any:
    """Return flat observations (n, dim) as a batch of elements of a space."""
    if isinstance(space, spaces.Box):
        return rows.reshape(len(rows), *space.shape).astype(space.dtype)
    batch: Any = create_empty_array(space, len(rows))
    return concatenate(space, [spaces.unflatten(space, row) for row in rows], batch)
