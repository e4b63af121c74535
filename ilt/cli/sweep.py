"""Hydra callbacks and a resolver for sweeps: name a sweep, check its jobs, share the cores, summarize the results.

Heavy modules are imported only when needed.
"""

import atexit
import itertools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ilt.cli.app import as_typed, check_overrides, exit_on_mistakes
from ilt.machine import check_environment
from ilt.registry import GROUPS, PARTS
from ilt.rollout.workers import cores, sendable
from ilt.schema import ConfigError, config_hash
from ilt.settings import check_config, is_of_the_run
from ilt.tracking.reading import open_regular
from ilt.tracking.run_folder import COMMAND, CONFIG, RESULTS, write_error


def sweep_name(job: str, overrides: Sequence[str]) -> str:
    """Name a sweep after its swept keys and a hash of all overrides, so that the same command finds the same sweep.

    Args:
        job: the command.
        overrides: the command line's overrides without Hydra's own, in any order. Keys that do not affect results are
            ignored.
    """
    parsed = OverridesParser.create().parse_overrides(as_typed(overrides))
    asked = {key: override for override in parsed if is_of_the_run(key := override.get_key_element())}
    swept = [key.lstrip("+~").rsplit(".", 1)[-1] for key in sorted(asked) if asked[key].is_sweep_override()]
    prefix = re.sub(r"[^\w-]", "_", "-".join(swept))[:60] or "sweep"
    return f"{prefix}-{config_hash([job, *sorted(str(override.input_line) for override in asked.values())])}"


OmegaConf.register_new_resolver("sweep_name", sweep_name, use_cache=True, replace=True)  # jobs inherit the cached name


_OF_SWEEPS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep.")


class CheckJobs(Callback):
    """Reject a sweep without jobs, and an error that every job shares, before anything is written."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check a single run's overrides. Exit with one line on stderr, because Hydra would only warn of an error."""
        with exit_on_mistakes():
            check_overrides(config, as_typed(config.hydra.overrides.task))
            for override in as_typed(config.hydra.overrides.hydra):
                if override.lstrip("+~").startswith(_OF_SWEEPS):
                    raise ConfigError(f"{override} has no effect without -m")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check a sweep's overrides and jobs. Exit as `on_run_start` does."""
        with exit_on_mistakes():
            overrides = _overrides(config)
            swept = any(each.get_key_element().lstrip("+") == "search.trial" for each in overrides)
            if swept or OmegaConf.select(config, "search.trial") is not None:
                raise ConfigError("search.trial cannot be set: a search numbers its trials")
            if config.hydra.launcher.get("n_jobs") == 0:
                raise ConfigError("hydra.launcher.n_jobs must be a number of jobs, or -1 for one per core, got 0")
            if os.path.lexists(kept := Path(config.hydra.sweep.dir, "multirun.yaml")):
                open_regular(kept).close()  # Hydra would write through a link, and wait for a reader of a FIFO
            if _is_basic(config):
                _check_jobs(config, overrides)


def _check_jobs(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Raise the first job's error if no job can run."""
    for each in overrides:
        if each.is_sweep_override() and not values_of_override(each):
            raise ConfigError(f"{each.input_line} has no value to sweep over")
    first = [values_of_override(each)[0] for each in overrides]
    for n, each in enumerate(overrides):
        chooses = each.is_sweep_override() and each.key_or_group in (*GROUPS, *PARTS)
        for option in values_of_override(each)[1:] if chooses else ():
            _compose(config, [*first[:n], option, *first[n + 1 :]])  # Hydra composes it only after writing files
    mistakes = []
    for job in itertools.product(*map(values_of_override, overrides)):
        try:
            return _check_job(config, job)
        except Exception as error:
            mistakes.append(error)
    raise mistakes[0]


def _compose(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    return GlobalHydra.instance().config_loader().load_sweep_config(config, list(overrides))


def _check_job(config: DictConfig, overrides: Sequence[str]) -> None:
    cfg = _compose(config, overrides)
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)  # names contain the chosen options
    try:
        check_overrides(cfg, as_typed(cfg.hydra.overrides.task))
        check_config(cfg, cfg.hydra.job.config_name)
        finished = "run_name" in cfg and Path(cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir, RESULTS).exists()
        if "env" in cfg and not finished:
            check_environment(cfg)
    finally:
        HydraConfig.instance().cfg = before


class ShareCores(Callback):
    """Divide the machine's cores among the jobs that a launcher runs at the same time."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Limit each job's `processes` and `threads` to its share of the cores."""
        launcher = config.hydra.launcher
        if "n_jobs" in launcher:
            wanted = launcher.n_jobs if launcher.n_jobs > 0 else max(1, cores() + 1 + launcher.n_jobs)
            launcher.n_jobs = min(wanted, _number_of_jobs(config) or wanted)
            if launcher.get("batch_size") == "auto":
                launcher.batch_size = 1  # "auto" could put several long jobs in one batch
            if launcher.n_jobs > 1:
                _share(config, max(1, cores() // launcher.n_jobs))
        elif "remote" in launcher:  # Ray reserves the requested cores but does not limit jobs to them
            _share(config, max(1, int(launcher.remote.num_cpus)))


def _share(config: DictConfig, n_cores: int) -> None:
    for key in ("processes", "threads"):
        if (given := config[key]) is None or (isinstance(given, int) and given > n_cores):
            config.hydra.overrides.task.append(f"{key}={n_cores}")


def _number_of_jobs(config: DictConfig) -> int | None:
    """Return the number of jobs, or None for sweepers other than Hydra's basic one."""
    return math.prod(len(values_of_override(each)) for each in _overrides(config)) if _is_basic(config) else None


def _is_basic(config: DictConfig) -> bool:
    """Return whether the sweeper is Hydra's basic one, which runs every combination of values."""
    return config.hydra.sweeper._target_.endswith(".BasicSweeper")


def _overrides(config: DictConfig) -> list[Override]:
    """Return a sweep's overrides, from its config and the command line; the last override of a key wins."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    found = parser.parse_overrides([*lines, *as_typed(config.hydra.overrides.task)])
    return list({each.get_key_element(): each for each in found}.values())


def values_of_override(override: Override) -> list[str]:
    """Return an override's `key=value` for each value. Raise ConfigError if its values cannot be listed."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line} has no discrete values to sweep over; sweep=optuna searches it")
    try:
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    except (HydraException, ValueError) as error:  # such as a range with step 0
        raise ConfigError(f"{override.input_line} cannot be swept over: {error}") from error


class Summary(Callback):
    """Update `sweep.csv` and `sweep.md` after each job, and draw `sweep.png` at the end of the sweep.

    Hydra calls `on_multirun_end` only if every job succeeded. Otherwise the summary is written at process exit.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Store the sweep's folder, and register the summary to run at exit."""
        self._sweep = Path(config.hydra.sweep.dir).absolute()
        atexit.register(self._end)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Summarize the sweep."""
        atexit.unregister(self._end)
        self._end()

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **_: Any) -> None:
        """Store whether the job was already finished."""
        self._was_finished = (Path(config.hydra.runtime.output_dir) / RESULTS).exists()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Update the tables. Write the error and overrides of a job that failed before its run folder had a config."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        if job_return.status == JobStatus.FAILED:
            folder, error = Path(config.hydra.runtime.output_dir), job_return._return_value
            if not (folder / CONFIG).exists():
                write_error(folder, error)
                (folder / COMMAND).mkdir(exist_ok=True)
                OmegaConf.save(config.hydra.overrides.task, folder / COMMAND / "overrides.yaml")
            job_return.return_value = sendable(error)
        if not self._was_finished:
            self._summarize_job(Path(config.hydra.sweep.dir))

    def _summarize_job(self, sweep: Path) -> None:
        """Update what a sweep's folder says about its jobs, after one of them has ended."""
        from ilt.studies.sweeps import write_tables

        write_tables(sweep)

    def _end(self) -> None:
        from ilt.studies.sweeps import summarize

        summarize(self._sweep)
