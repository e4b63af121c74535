"""Minari data sets as demonstrations. `ilt.data.minari_export` writes them.

Only the JSON and HDF5 files of a data set are read. The environment that it names is never made, since that would run
code of its author's choice.
"""

import functools
import json
import logging
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ilt.data.episodes import NO_SEED, Episodes
from ilt.data.sources import DataSource, Demonstrate
from ilt.envs.observations import OBSERVATION, PRIVILEGED
from ilt.envs.spec import EnvSpec
from ilt.schema import ConfigError, check, config_hash, named, printable
from ilt.tracking.reading import read_json, reading
from ilt.tracking.store import sha256

if TYPE_CHECKING:
    from minari.dataset.minari_storage import MinariStorage

METADATA, _DATA = "metadata.json", "main_data.hdf5"
_CONTENT = ("observation_space", "action_space", "jpeg_encoding", "ref_min_score", "ref_max_score")
"""Metadata that determine episodes and reference scores."""

OURS = "ilt"
"""Key of the metadata that says how `ilt export-minari` made a data set; its extras are read back."""


class MinariEpisodes(DataSource):
    """The episodes of a Minari data set, some of them held out for validation.

    Validation episodes are drawn without replacement, the same ones every time. Extras and infos are not read, except
    from data sets that `write_dataset` made.

    Younis et al. 2024, [Minari](https://minari.farama.org).

    Args:
        id: the data set's id, `NAMESPACE/NAME-vVERSION`.
        validation_fraction: share of the episodes that are never trained on; at least one is held out.
        download: whether to download the data set if it is not among the local ones.

    Raises:
        ConfigError: an argument is not allowed.
    """

    def __init__(self, *, id: str, validation_fraction: float = 0.1, download: bool = True) -> None:
        given = {"id": id, "validation_fraction": validation_fraction, "download": download}
        check(named("demos", "minari"), given, prefix="demos")  # a run is identified before its config is checked
        self._id, self._validation_fraction, self._download = id, validation_fraction, download
        self._read: Episodes | None = None

    @functools.cached_property
    def _folder(self) -> Path:
        return find_dataset(self._id, download=self._download)

    @functools.cached_property
    def _metadata(self) -> dict[str, Any]:
        return _read_metadata(self._folder)

    def identity(self) -> dict[str, Any]:
        data = self._folder / _DATA
        there = data.stat()
        content = {name: self._metadata.get(name) for name in _CONTENT}
        return {"data": _digest(data, there.st_size, there.st_mtime_ns), "metadata": config_hash(content)}

    def reference_scores(self) -> dict[str, float] | None:
        scores = {end: self._metadata.get(f"ref_{end}_score") for end in ("min", "max")}
        known = {end: float(score) for end, score in scores.items() if isinstance(score, int | float)}
        known = {end: score for end, score in known.items() if math.isfinite(score)}
        return known if len(known) == 2 and known["min"] < known["max"] else None

    def spaces(self, env: EnvSpec) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """Return the spaces in the data set's metadata."""
        recorded = _open(self._folder, self._metadata)
        return recorded.observation_space, recorded.action_space

    def check(self, env: EnvSpec) -> None:
        """Raise ConfigError, naming the key, unless there are two episodes whose spaces fit the environment."""
        if self._metadata["total_episodes"] < 2:
            raise ConfigError(
                f"demos.id must have at least 2 episodes, one of them for validation, got {self._id} with "
                f"{self._metadata['total_episodes']}"
            )
        recorded = _open(self._folder, self._metadata)
        shown, own = recorded.observation_space, env.observations.space
        shown = shown[OBSERVATION] if _hides(shown) else shown
        for name, found, wanted in (
            ("observations", shown, own),
            ("actions", recorded.action_space, env.action_space.space),
        ):
            if not _same_structure(found, wanted):
                raise ConfigError(
                    f"demos.id={self._id} has {name} in {found}, but env.id={env.id} has {wanted}"
                    f"{self._recorded_in(env)}"
                )

    def episodes(self, env: EnvSpec, block: str, demonstrate: Demonstrate) -> Episodes:
        if self._read is None:
            self.check(env)
            self._read = read_dataset(self._folder, env)
        n_episodes = len(self._read)
        held_out = np.zeros(n_episodes, dtype=bool)
        count = min(max(round(self._validation_fraction * n_episodes), 1), n_episodes - 1)
        held_out[np.random.default_rng(0).permutation(n_episodes)[:count]] = True
        return self._read.select(held_out if block == "validation" else ~held_out)

    def _recorded_in(self, env: EnvSpec) -> str:
        """Say which environment the data set names, if it is another one."""
        try:
            named = str(json.loads(self._metadata["env_spec"])["id"])
        except (KeyError, TypeError, ValueError):
            return ""
        return "" if named == env.id else f"; it was recorded in {printable(named)}"


def datasets_folder() -> Path:
    """Return the folder of the local data sets: `MINARI_DATASETS_PATH`, or `~/.minari/datasets`."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def local_datasets() -> list[str]:
    """Return the ids of the local data sets."""
    found = datasets_folder().glob(f"**/data/{METADATA}")
    names = (path.parent.parent.relative_to(datasets_folder()).as_posix() for path in found)
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def find_dataset(id: str, *, download: bool) -> Path:
    """Return the folder of a data set's files. Raise ConfigError, naming `demos.id`, if there is none."""
    folder = datasets_folder() / id / "data"
    if folder.is_dir():
        return folder
    minari = import_minari()
    known = f"the local data sets in {datasets_folder()} are {local_datasets() or 'none'}"
    if not download:
        raise ConfigError(f"demos.id must be a local data set where demos.download=false, got {id}; {known}")
    retries = logging.getLogger("huggingface_hub")
    level = retries.level
    try:
        retries.setLevel(logging.ERROR)  # the error below says what went wrong, once
        minari.download_dataset(id)
    except Exception as error:  # servers and their client libraries fail in many ways
        raise ConfigError(
            f"demos.id={id} is not a local data set, and could not be downloaded: {error or type(error).__name__}; "
            f"{known}"
        ) from error
    finally:
        retries.setLevel(level)
    if not folder.is_dir():
        raise ConfigError(f"demos.id={id} was not downloaded to {folder}; {known}")
    return folder


def read_dataset(folder: Path, env: EnvSpec) -> Episodes:
    """Read all episodes of a data set whose spaces fit the environment.

    An episode whose last step terminates is terminated, any other is truncated. Episodes that have no seed get
    `NO_SEED`. Raise UnreadableFileError if a file is damaged or not what Minari writes.

    Args:
        folder: contains the data set's `metadata.json` and `main_data.hdf5`.
    """
    metadata = _read_metadata(folder)
    storage = _open(folder, metadata)
    with reading(folder / _DATA):
        indices = range(metadata["total_episodes"])
        recorded = zip(storage.get_episodes(indices), storage.get_episode_metadata(indices), strict=True)
        ours = OURS in metadata
        read = [_episode(episode, about, env, ours=ours) for episode, about in recorded]
        return Episodes.concatenate(read)


def import_minari() -> Any:
    """Return the package `minari`. Raise ConfigError if it is not installed."""
    try:
        import minari
    except ImportError as error:
        raise ConfigError(f"Minari data sets need the extra minari: pip install 'ilt[minari]' ({error})") from error
    return minari


@functools.lru_cache(maxsize=8)  # a run is identified several times before it starts
def _digest(path: Path, size: int, modified: int) -> str:
    return sha256(path)


def _read_metadata(folder: Path) -> dict[str, Any]:
    """Read and check a data set's metadata. Raise UnreadableFileError if they do not describe a readable data set."""
    metadata = read_json(folder / METADATA, finite=False)
    with reading(folder / METADATA):
        if (data_format := metadata.get("data_format", "hdf5")) != "hdf5":
            raise ValueError(f"its data_format must be hdf5, got {data_format}")
        for name in ("observation_space", "action_space"):
            if not isinstance(metadata.get(name), str):  # Minari would make the environment to find out
                raise ValueError(f"it must describe its {name}, which is not taken from the environment it names")
        if not isinstance(metadata["total_episodes"], int):
            raise TypeError(f"its total_episodes must be an integer, got {metadata['total_episodes']}")
        return {**metadata, "data_format": "hdf5"}


def _open(folder: Path, metadata: Mapping[str, Any]) -> "MinariStorage":
    """Open a data set. Both of its spaces are in its metadata, so no environment is made."""
    import_minari()
    from minari.dataset.minari_storage import MinariStorage

    assert all(isinstance(metadata[name], str) for name in ("observation_space", "action_space"))
    with reading(folder / METADATA), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds that lose precision
        return MinariStorage.read(folder)


def _hides(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Dict) and set(space) == {OBSERVATION, PRIVILEGED}


def _same_structure(one: spaces.Space[Any], other: spaces.Space[Any]) -> bool:
    """Return whether elements of two spaces flatten alike. Bounds and dtypes may differ."""
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict):
        return set(one) == set(other) and all(_same_structure(inner, other[name]) for name, inner in one.items())
    if isinstance(one, spaces.Tuple) and isinstance(other, spaces.Tuple):
        return len(one) == len(other) and all(map(_same_structure, one.spaces, other.spaces))
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        return one.shape == other.shape
    if isinstance(one, spaces.MultiDiscrete) and isinstance(other, spaces.MultiDiscrete):
        return np.array_equal(one.nvec, other.nvec) and np.array_equal(one.start, other.start)
    return one == other


def _episode(episode: Mapping[str, Any], about: Mapping[str, Any], env: EnvSpec, *, ours: bool) -> Episodes:
    """Convert one recorded episode. Raise ValueError if its arrays do not belong together."""
    rewards = np.asarray(episode["rewards"], dtype=np.float64)
    n_steps, seed = len(rewards), about.get("seed")
    observations = _flat(episode["observations"], env)
    actions = np.asarray(episode["actions"], dtype=env.action_space.dtype)
    actions = actions.reshape(len(actions), *(() if env.action_space.flat else (env.action_space.dim,)))
    for name, found, wanted in (("observations", observations, n_steps + 1), ("actions", actions, n_steps)):
        if len(found) != wanted or not n_steps:
            raise ValueError(
                f"an episode of {n_steps} steps must have {wanted} {name}, but episode {episode['id']} has {len(found)}"
            )
    terminated = bool(episode["terminations"][-1])
    extras: dict[str, np.ndarray] = {}
    if ours:
        extras = {f"step/{name}": array for name, array in (episode["infos"] or {}).get("step", {}).items()}
        extras |= {f"episode/{name}": np.asarray(value)[None] for name, value in about.get("episode", {}).items()}
    return Episodes(
        observations=observations,
        actions=actions,
        rewards=rewards,
        lengths=np.array([n_steps], dtype=np.int64),
        terminated=np.array([terminated]),
        truncated=np.array([not terminated]),
        seeds=np.array([NO_SEED if seed is None else seed], dtype=np.int64),
        extras=extras,
    )


def _flat(observations: Any, env: EnvSpec) -> np.ndarray:
    """Flatten the observations of an episode in the order of the environment's own spaces: (T + 1, dim) float32."""
    layout = env.observations
    if isinstance(observations, Mapping) and set(observations) == {OBSERVATION, PRIVILEGED}:
        observations = observations[OBSERVATION]
    if isinstance(layout.space, spaces.Box):
        array = np.asarray(observations, dtype=np.float32)
        return array.reshape(len(array), layout.dim)
    return replace(layout, privileged_space=None).flatten(observations)
