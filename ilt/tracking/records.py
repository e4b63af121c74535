"""Finished runs as records, and which of them may be averaged: those that differ in their training seed alone."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ilt.envs.naming import env_names
from ilt.schema import config_hash, leaves
from ilt.settings import NOT_OF_THE_RUN
from ilt.tracking.store import read_json

EPISODE_COLUMNS = ("seed", "student_return", "expert_return", "random_return", "student_steps")
_NUMBERS = ("return_mean", "expert_return_mean", "selection_return_mean", "seed")

_Content = TypeVar("_Content")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a finished run left behind.

    Attributes:
        name: its folder, below the one that is reported on.
        path: its folder.
        config: the resolved config.
        results: what `results.json` says.
        curve: value by training step, by the name it was logged under.
        episodes: the columns `EPISODE_COLUMNS` of `episodes.csv`, each (E,) float64.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    curve: Mapping[str, Mapping[int, float]]
    episodes: Mapping[str, np.ndarray]

    @property
    def selection_return(self) -> float:
        """What runs are compared by."""
        return float(self.results["selection_return_mean"])

    @property
    def test(self) -> str:
        """Equal for two runs if they were scored on the same test seeds of the same environment."""
        env = [self.config["env"].get(name) for name in ("id", "kwargs", "wrappers")]
        return config_hash([env, self.episodes["seed"].tolist()])

    @property
    def test_seeds(self) -> str:
        """The test seeds in words."""
        seeds = self.episodes["seed"].astype(np.int64)
        return f"{seeds.min()} to {seeds.max()} ({len(seeds)} episodes)"


def read_run(name: str, path: Path, config: Any) -> RunRecord:
    """Read a finished run's numbers. ValueError, naming the file, if one is not what `ilt train` writes."""
    return RunRecord(
        name=name,
        path=path,
        config=_read(path / "config.yaml", lambda _: _checked_config(config)),
        results=_read(path / "results.json", _results),
        curve=_read(path / "curve.csv", _curve),
        episodes=_read(path / "episodes.csv", _episodes),
    )


def _read(path: Path, parse: Callable[[Path], _Content]) -> _Content:
    try:
        return parse(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path.name} is not what a finished run leaves: {what}") from error


def _checked_config(config: Any) -> dict[str, Any]:
    config_hash(config)  # TypeError for what a config cannot hold
    if not isinstance(config["env"]["id"], str):
        raise TypeError("env.id is no text")
    if (success_return := config["env"].get("success_return")) is not None:
        _check_number(success_return)
    return dict(config)


def _results(path: Path) -> dict[str, Any]:
    results = read_json(path)
    numbers = [results[name] for name in _NUMBERS]
    rates = [results["success_rate"], results["crash_rate"], results["policies"]["expert"]["crash_rate"]]
    numbers += [rate for rate in rates if rate is not None]
    difference = results["difference_to_expert"]
    for interval in (results["return_mean_interval"], [difference["mean"]] * 2, difference["interval"]):
        low, high = interval
        numbers += [low, high]
    for value in [*numbers, *dict(results["seconds"]).values()]:
        _check_number(value)
    for name in ("packages", "files"):
        dict(results[name])
    return dict(results)


def _check_number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} stands where a number is wanted")


def _curve(path: Path) -> dict[str, dict[int, float]]:
    curve: dict[str, dict[int, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name != "step" and value:
                    curve.setdefault(name, {})[int(row["step"])] = float(value)
    return curve


def _episodes(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError("it has no rows")
    return {name: np.array([float(row[name]) for row in rows]) for name in EPISODE_COLUMNS}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one config on the same test seeds: one for each training seed.

    Attributes:
        label: a short name: A, B, C, …
        runs: by training seed.
    """

    label: str
    runs: Sequence[RunRecord]

    @property
    def selection_return(self) -> float:
        """The mean over training seeds."""
        return float(np.mean([run.selection_return for run in self.runs]))


def by_environment(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs of each environment, by its short name, in the order of first mention."""
    found: dict[str, list[RunRecord]] = {}
    for name, run in zip(env_names([run.config["env"] for run in runs]), runs, strict=True):
        found.setdefault(name, []).append(run)
    return found


def setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without what its setting leaves open: the seed, and how much is scored and drawn of it."""
    evaluation = {k: v for k, v in config.get("evaluation", {}).items() if k not in ("n_episodes", "video")}
    kept = {k: v for k, v in config.items() if k not in NOT_OF_THE_RUN}
    return {**kept, "seed": None, "evaluation": evaluation}


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Groups of runs that differ in nothing but `seed`, by environment; in each the best selection return first."""
    groups = []
    for same_env in by_environment(runs).values():
        found: dict[str, list[RunRecord]] = {}
        for run in same_env:
            found.setdefault(config_hash([setting(run.config), run.test]), []).append(run)
        members = [Group(label="", runs=sorted(each, key=lambda run: run.results["seed"])) for each in found.values()]
        groups += sorted(members, key=lambda group: -group.selection_return)
    return [Group(label=_letters(i), runs=group.runs) for i, group in enumerate(groups)]


def _letters(number: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    before = _letters(number // 26 - 1) if number >= 26 else ""
    return before + chr(ord("A") + number % 26)


def middle_run(runs: Sequence[RunRecord]) -> RunRecord:
    """The run with the median selection-seed return; of an even number, the lower one of the middle two."""
    return sorted(runs, key=lambda run: run.selection_return)[(len(runs) - 1) // 2]


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Each value of a nested config as text, by its dotted key; `seed` and what names classes are left out."""
    shown = {key: value for key, value in leaves(config) if key != "seed" and not key.endswith("_target_")}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in shown.items()}


def differing_keys(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys of flat configs that do not have the same value in all of them, in the order of their first mention."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({config.get(key) for config in configs}) > 1]
