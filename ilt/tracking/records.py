"""Records of finished runs, and groups of runs that differ only in their training seed."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ilt.envs.naming import env_names
from ilt.envs.spec import NO_ENV
from ilt.schema import config_hash, leaves
from ilt.settings import NOT_OF_THE_RUN
from ilt.tracking.reading import read_csv, reading
from ilt.tracking.run_folder import CONFIG, RESULTS, TABLES, check_run_files, read_results

EPISODE_COLUMNS = ("seed", "student_return", "expert_return", "random_return", "student_steps")
_NUMBERS = ("return_mean", "selection_return_mean", "seed")

_LARGEST = 1e100  # largest number allowed in a run, so that sums and squares of several stay finite


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run.

    Attributes:
        name: its folder, relative to the folder that is reported on.
        path: its folder.
        config: the resolved config.
        results: the content of `results.json`.
        curve: values by training step, by metric.
        episodes: the columns `EPISODE_COLUMNS` of `episodes.csv`, each (E,) float64, by name; without an expert, there
            is no `expert_return`; without an environment, there is only an empty `seed`.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    curve: Mapping[str, Mapping[int, float]]
    episodes: Mapping[str, np.ndarray]

    @property
    def policies(self) -> list[str]:
        """The policies that it was scored with: student, expert (if there is one) and random."""
        return [name for name in ("student", "expert", "random") if f"{name}_return" in self.episodes]

    @property
    def is_scored(self) -> bool:
        """Whether the student acted in an environment, so that it has returns."""
        return self.results["return_mean"] is not None

    @property
    def selection_return(self) -> float | None:
        """Mean return on selection seeds; None without an environment."""
        return float(self.results["selection_return_mean"]) if self.is_scored else None

    @property
    def merit(self) -> float:
        """What the runs of an environment are ranked by: the selection return, or without one, −validation loss."""
        selection_return = self.selection_return
        return -float(self.results["validation_loss"]) if selection_return is None else selection_return

    @property
    def test(self) -> str:
        """A hash of the environment and the test seeds; runs with equal hashes are comparable."""
        env = [self.config["env"].get(name) for name in ("id", "kwargs", "wrappers")]
        return config_hash([env, self.episodes["seed"].tolist()])

    @property
    def test_seeds(self) -> str:
        """A description of the test seeds."""
        seeds = self.episodes["seed"].astype(np.int64)
        return f"{seeds.min()} to {seeds.max()} ({len(seeds)} episodes)" if len(seeds) else "none"


def read_run(name: str, path: Path, config: Any) -> RunRecord:
    """Read and check a finished run, which may be untrusted.

    Args:
        config: the content of its `config.yaml`, as `read_config` returns it.

    Raises:
        UnreadableFileError: a file is not what `ilt train` writes.
        DamagedArtifactError: a file is missing, or differs from its digest in `results.json`.
    """
    checked = _config(path / CONFIG, config)
    scored = checked["env"]["id"] != NO_ENV
    results = _results(path, scored=scored)
    files = {name: digest for name, digest in results["files"].items() if name in (CONFIG, *TABLES)}
    check_run_files(path, files)
    return RunRecord(
        name=name,
        path=path,
        config=checked,
        results=results,
        curve=_curve(path / "curve.csv"),
        episodes=_episodes(path / "episodes.csv", with_expert=results["expert_return_mean"] is not None)
        if scored
        else {"seed": np.zeros(0)},
    )


def _config(path: Path, config: Any) -> dict[str, Any]:
    with reading(path):
        env = config["env"]
        if not isinstance(env["id"], str):
            raise TypeError("env.id must be text")
        if (success_return := env.get("success_return")) is not None:
            _check_number(success_return)
        env_names([env])
        config_hash(setting(config))
        flatten(config)
        return dict(config)


def _results(path: Path, *, scored: bool) -> dict[str, Any]:
    results = read_results(path)
    with reading(path / RESULTS):
        if not scored and any(results[name] is not None for name in ("return_mean", "expert_return_mean")):
            raise ValueError("a run with env=none has no returns")
        numbers = [results[name] for name in (_NUMBERS if scored else ("validation_loss", "seed"))]
        numbers += [results[name] for name in ("action_accuracy", "action_error") if name in results]
        rates, intervals = [results["success_rate"], results["crash_rate"]], []
        if scored:
            intervals.append(results["return_mean_interval"])
        if (expert := results["expert_return_mean"]) is not None:
            difference = results["difference_to_expert"]
            rates += [expert, results["policies"]["expert"]["crash_rate"]]
            intervals += [[difference["mean"]] * 2, difference["interval"]]
        numbers += [rate for rate in rates if rate is not None]
        for low, high in intervals:
            numbers += [low, high]
        for value in [*numbers, *dict(results["seconds"]).values()]:
            _check_number(value)
        for name in ("packages", "files"):
            dict(results[name])
        return dict(results)


def _check_number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    if not abs(value) <= _LARGEST:
        raise ValueError(f"expected a number of at most {_LARGEST:g}, got {value}")


def _number(cell: str) -> float:
    value = float(cell)
    _check_number(value)
    return value


def _whole(cell: str) -> int:
    value = float(cell)  # NumPy may have written an integer as a float
    if not (value.is_integer() and abs(value) < 2**63):
        raise ValueError(f"expected an integer, got {cell}")
    return int(value)


def _curve(path: Path) -> dict[str, dict[int, float]]:
    curve: dict[str, dict[int, float]] = {}
    rows = read_csv(path)
    with reading(path):
        for row in rows:
            for name, value in row.items():
                if name != "step" and value:
                    curve.setdefault(name, {})[_whole(row["step"])] = _number(value)
    return curve


def _episodes(path: Path, *, with_expert: bool) -> dict[str, np.ndarray]:
    rows = read_csv(path)
    with reading(path):
        if not rows:
            raise ValueError("it has no rows")
        for row in rows:
            _whole(row["seed"])
        names = [name for name in EPISODE_COLUMNS if name != "expert_return" or with_expert]
        return {name: np.array([_number(row[name]) for row in rows]) for name in names}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one config that were scored on the same test seeds, one per training seed.

    Attributes:
        label: the config's name, from `names_of`; it is unique within the environment.
        runs: sorted by training seed.
    """

    label: str
    runs: Sequence[RunRecord]

    @property
    def is_scored(self) -> bool:
        """Whether its runs are scored; those of one environment all are, or none is."""
        return self.runs[0].is_scored

    @property
    def selection_return(self) -> float | None:
        """Mean selection return over training seeds; None without an environment."""
        return self.merit if self.is_scored else None

    @property
    def merit(self) -> float:
        """What the groups of an environment are ranked by: the mean merit of the runs."""
        return float(np.mean([run.merit for run in self.runs]))


def by_environment(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Group runs by their environment's short name, in order of first appearance."""
    found: dict[str, list[RunRecord]] = {}
    for name, run in zip(env_names([run.config["env"] for run in runs]), runs, strict=True):
        found.setdefault(name, []).append(run)
    return found


def setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a config that runs must share to be averaged, without seed, paths and test episodes."""
    evaluation = {k: v for k, v in config.get("evaluation", {}).items() if k not in ("n_episodes", "video")}
    kept = {k: v for k, v in config.items() if k not in NOT_OF_THE_RUN}
    return {**kept, "seed": None, "evaluation": evaluation}


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Group runs that differ only in `seed`; sort groups by environment, then by descending merit."""
    groups = []
    for same_env in by_environment(runs).values():
        found: dict[str, list[RunRecord]] = {}
        for run in same_env:
            found.setdefault(config_hash([setting(run.config), run.test]), []).append(run)
        members = [Group(label="", runs=sorted(each, key=lambda run: run.results["seed"])) for each in found.values()]
        members.sort(key=lambda group: -group.merit)
        first = [group.runs[0] for group in members]
        labels = names_of([flatten(setting(run.config)) | {"test seeds": run.test_seeds} for run in first])
        groups += [Group(label=label, runs=group.runs) for label, group in zip(labels, members, strict=True)]
    return groups


def names_of(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a name `key=value, …` for each flat config, with only as many keys as needed to tell the configs apart.

    Keys are chosen greedily: each time the one that tells the most configs apart. A dotted key is shortened to its
    shortest unique ending. A single config is called `student`; configs that no key tells apart are numbered.
    """

    def values(config: Mapping[str, str], keys: Sequence[str]) -> tuple[str | None, ...]:
        return tuple(config.get(key) for key in keys)

    def n_told_apart(keys: Sequence[str]) -> int:
        return len({values(config, keys) for config in configs})

    chosen: list[str] = []
    differing = differing_keys(configs)
    others = list(differing)
    while others:
        best = max(others, key=lambda key: n_told_apart([*chosen, key]))
        if n_told_apart([*chosen, best]) == n_told_apart(chosen):
            break
        chosen.append(best)
        others.remove(best)
    short = _short_names(chosen, differing)
    names = [
        ", ".join(f"{short[key]}={config.get(key, '–')}" for key in chosen) if chosen else "student"
        for config in configs
    ]
    return [name if names.count(name) == 1 else f"{name} #{names[:i].count(name) + 1}" for i, name in enumerate(names)]


def _short_names(keys: Sequence[str], among: Collection[str]) -> dict[str, str]:
    """Return each dotted key's shortest ending that is unique in `among`."""

    def is_unique(end: str) -> bool:
        return sum(f".{other}".endswith(f".{end}") for other in among) == 1

    endings = {key: [key.split(".", i)[-1] for i in range(key.count("."), -1, -1)] for key in keys}
    return {key: next(filter(is_unique, ends), key) for key, ends in endings.items()}


def middle_run(runs: Sequence[RunRecord]) -> RunRecord:
    """Return the run with the median merit, or the lower of the middle two."""
    return sorted(runs, key=lambda run: run.merit)[(len(runs) - 1) // 2]


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a nested config's values as text, by dotted key, without `seed`. A component is its class's name."""
    flat = {}
    for key, value in leaves(config):
        component, _, last = key.rpartition(".")
        if last == "_target_":
            flat[component] = str(value).rpartition(".")[2]
        elif key != "seed":
            flat[key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def differing_keys(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys whose values differ between flat configs, in order of first appearance."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({config.get(key) for config in configs}) > 1]
