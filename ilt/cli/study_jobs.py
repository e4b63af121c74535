"""Compose the jobs of a study: the configs of its sweeps, and the plan of all jobs."""

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from ilt.cli.app import check_overrides
from ilt.cli.sweep import values_of_override
from ilt.envs.naming import env_names
from ilt.schema import ConfigError, named, plain
from ilt.settings import check_config, has_env, is_of_the_run, run_config
from ilt.studies.plan import Plan, StudyJob
from ilt.tracking.run_folder import scored_by

_OWN = ("study", "only", "dry_run", "report")
"""Keys of the command that are not passed on to its jobs."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Jobs that differ only in their training seed.

    Attributes:
        sweep: name of their sweep.
        overrides: their overrides without the seed.
        config: the first one's config.
        values: values by key: overrides, the study's rows and columns, and `sweep`.
        folders: a job's folder by its seed, as it is written in an override.
    """

    sweep: str
    overrides: Sequence[str]
    config: DictConfig
    values: Mapping[str, str]
    folders: Mapping[str, str]


def config_of_jobs(config: DictConfig, folder: Path) -> DictConfig:
    """Return a config from which launchers compose jobs of `ilt train` in the study's folder."""
    jobs = copy.deepcopy(config)
    OmegaConf.set_readonly(jobs.hydra, False)
    with open_dict(jobs.hydra):
        jobs.hydra.job.config_name = "train"
        jobs.hydra.overrides.hydra = [
            *config.hydra.overrides.hydra,
            "hydra.mode=MULTIRUN",
            f"hydra.sweep.dir={QuotedString(str(folder), Quote.single).with_quotes()}",
        ]
    return jobs


def compose_cells(
    study: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader, jobs_config: DictConfig
) -> Iterator[Cell]:
    """Compose the first job of every cell. Raise ConfigError, naming the sweep, if that fails."""
    parser = OverridesParser.create(config_loader=loader)
    typed = [each for each in parser.parse_overrides(list(arguments)) if not _is_own(each)]
    given = {_key(each): each for each in typed}
    for name, sweep in study["sweeps"].items():
        try:
            lines = sweep | {key: value for key, value in study["shared"].items() if key not in sweep}
            found = {_key(each): each for each in _parsed(lines, parser)} | given  # the first key changes slowest
            seeds = values_of_override(found.pop("seed", parser.parse_override("seed=0")))
            for overrides in itertools.product(*map(_values, found.values())):
                cfg = loader.load_sweep_config(jobs_config, [*overrides, seeds[0]])
                yield _cell(name, overrides, seeds, cfg, [*study["rows"], *study["columns"]])
        except ConfigError as error:
            raise ConfigError(f"study.sweeps.{name}: {error}") from error


def make_plan(config: DictConfig, study: Mapping[str, Any], arguments: Sequence[str], cells: Sequence[Cell]) -> Plan:
    """Return the plan of a study: its jobs in the order of its sweeps, without those that a former sweep has."""
    envs = env_names([plain(cell.config.env) for cell in cells])
    wanted = _selector(list(config.only), cells)
    overrides = of_the_runs(arguments)
    as_stated = all(line.startswith("seed=") for line in overrides)  # others may change how long a job takes
    jobs: dict[str, StudyJob] = {}
    for cell, env in zip(cells, envs, strict=True):
        row, column = (_label(keys, cell.values, env, study["words"]) for keys in (study["rows"], study["columns"]))
        for seed, folder in cell.folders.items():
            own = StudyJob(
                sweep=cell.sweep,
                folder=folder,
                overrides=[*cell.overrides, f"seed={seed}"],
                row=row,
                column=column,
                seed=int(seed),
                wanted=wanted({**cell.values, "seed": seed}),
                seconds=study["seconds"].get(cell.sweep) if as_stated else None,
                scored_by=scored_by(run_config(cell.config)),
            )
            jobs.setdefault(folder, own)
    launcher = config.hydra.launcher
    basic = launcher._target_.endswith(".BasicLauncher")
    return Plan(
        name=Path(config.hydra.sweep.dir).name,
        study=study,
        rows=", ".join(_word(key, study["words"]) for key in study["rows"]),
        overrides=overrides,
        at_once=1 if basic else launcher.get("n_jobs"),
        jobs=list(jobs.values()),
    )


def of_the_runs(arguments: Sequence[str]) -> list[str]:
    """Return the overrides that may change a job's results."""
    passed_on = [line for line in arguments if line.lstrip("+~").partition("=")[0].partition(".")[0] not in _OWN]
    return [line for line in passed_on if is_of_the_run(line) or line.lstrip("+~").startswith("evaluation.")]


def _is_own(override: Override) -> bool:
    return _key(override).split(".")[0] in _OWN


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _parsed(overrides: Mapping[str, Any], parser: OverridesParser) -> Iterator[Override]:
    for key, value in overrides.items():
        text = json.dumps(value) if isinstance(value, bool | None) else value
        if "${" in str(text):  # Hydra's grammar knows no nested interpolations
            text = QuotedString(text, Quote.single).with_quotes()
        line = key if key.startswith("~") and value is None else f"{key}={text}"
        try:
            yield parser.parse_override(line)
        except HydraException as error:
            raise ConfigError(f"{line} is not an override of ilt train") from error


def _values(override: Override) -> list[str]:
    return [str(override.input_line)] if override.is_delete() else values_of_override(override)


def _cell(name: str, overrides: Sequence[str], seeds: Sequence[str], cfg: DictConfig, axes: Sequence[str]) -> Cell:
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)  # names contain the chosen options
    try:
        check_overrides(cfg, [*overrides, *seeds])
        check_config(cfg, "train")
        if not has_env(cfg.env):
            raise ConfigError("env must be an environment to act in, since a study compares returns, got none")
        folders = {}
        for seed in (line.partition("=")[2] for line in seeds):
            cfg.seed = int(seed) if seed.isdecimal() else seed
            if not (rule := named("command", "train").rules["seed"]).allows(cfg.seed):
                raise ConfigError(f"seed must be {rule.wanted}, got {seed}")
            folders[seed] = str(cfg.hydra.sweep.subdir)  # contains a hash of the config
    finally:
        HydraConfig.instance().cfg = before
    values = {key.lstrip("+~"): value for key, _, value in (line.partition("=") for line in overrides)}
    values |= {key: _value(cfg, key) for key in axes if key != "sweep"} | {"sweep": name}
    return Cell(sweep=name, overrides=overrides, config=cfg, values=values, folders=folders)


def _value(cfg: DictConfig, key: str) -> str:
    """Return the option that a config chose for a group, or the value of a key."""
    if key in cfg.hydra.runtime.choices:
        return str(cfg.hydra.runtime.choices[key])
    if (value := OmegaConf.select(cfg, key)) is None:
        raise ConfigError(f"study.rows and study.columns must contain groups or keys of every job, got {key}")
    return str(plain(value))


def _word(key: str, words: Mapping[str, str]) -> str:
    return words.get(key, key.rpartition(".")[2].replace("_", " "))


def _label(keys: Sequence[str], values: Mapping[str, str], env: str, words: Mapping[str, str]) -> str:
    """Name a row or a column, such as `BC, transformer, context length 8`."""
    parts = []
    for key in keys:
        value = words.get(values[key])
        if value is None and key == "env":
            value = env
        parts.append(value or (f"{_word(key, words)} {values[key]}" if _is_number(values[key]) else values[key]))
    return ", ".join(parts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _selector(only: Sequence[Any], cells: Sequence[Cell]) -> Callable[[Mapping[str, str]], bool]:
    """Return a function that says whether the command's `only` selects a job with these values.

    A value without a key may be that of any key. Items with the same keys are alternatives; a job must match one of
    each. Raise ConfigError if an item selects nothing.
    """
    known: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in [*cell.values.items(), *(("seed", seed) for seed in cell.folders)]:
            known.setdefault(key, set()).add(value)
    chosen: dict[tuple[str, ...], set[str]] = {}
    for item in map(str, only):
        named_key, _, value = item.rpartition(":")
        keys = tuple(key for key in known if value in known[key] and named_key in ("", key))
        if not keys:
            there = sorted(known.get(named_key) or known["sweep"])
            raise ConfigError(f"only must contain sweeps, values or KEY:VALUE, such as {', '.join(there)}; got {item}")
        chosen.setdefault(keys, set()).add(value)
    return lambda values: all(any(values.get(key) in some for key in keys) for keys, some in chosen.items())
