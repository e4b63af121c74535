"""Hydra callbacks and resolver of multiruns: a sweep's name, the share of cores of its jobs, and its summary.

Heavy modules are imported only when needed.
"""

import atexit
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ilt.rollout.workers import cores, sendable
from ilt.schema import config_hash
from ilt.settings import is_of_the_run
from ilt.tracking.run_folder import COMMAND, CONFIG, RESULTS, write_error


def sweep_name(job: str, overrides: Sequence[str]) -> str:
    """Name a sweep after its swept keys and a hash of all overrides, so that the same command finds the same sweep.

    Args:
        job: the entry point.
        overrides: those of the command line without Hydra's own, in any order. Keys that do not affect results are
            ignored.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    asked = {key: override for override in parsed if is_of_the_run(key := override.get_key_element())}
    swept = [key.lstrip("+~").rsplit(".", 1)[-1] for key in sorted(asked) if asked[key].is_sweep_override()]
    prefix = re.sub(r"[^\w-]", "_", "-".join(swept))[:60] or "sweep"
    return f"{prefix}-{config_hash([job, *sorted(str(override.input_line) for override in asked.values())])}"


OmegaConf.register_new_resolver("sweep_name", sweep_name, use_cache=True, replace=True)  # jobs inherit the cache


class ShareCores(Callback):
    """Divide the cores of a machine among the jobs that a launcher runs at the same time."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Override `processes` and `threads` of the jobs with each job's share of the cores."""
        launcher = config.hydra.launcher
        if "n_jobs" in launcher:
            wanted = launcher.n_jobs if launcher.n_jobs > 0 else max(1, cores() + 1 + launcher.n_jobs)
            launcher.n_jobs = min(wanted, _number_of_jobs(config) or wanted)
            if launcher.get("batch_size") == "auto":
                launcher.batch_size = 1  # otherwise joblib would batch long jobs in one process
            if launcher.n_jobs > 1:
                _share(config, max(1, cores() // launcher.n_jobs))
        elif "remote" in launcher:  # Ray counts requested cores, but does not limit their use
            _share(config, max(1, int(launcher.remote.num_cpus)))


def _share(config: DictConfig, n_cores: int) -> None:
    for key in ("processes", "threads"):
        if (given := config[key]) is None or (isinstance(given, int) and given > n_cores):
            config.hydra.overrides.task.append(f"{key}={n_cores}")


def _number_of_jobs(config: DictConfig) -> int | None:
    """Return the number of jobs; None for sweepers other than Hydra's basic one."""
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return None
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = parser.parse_overrides([*lines, *config.hydra.overrides.task])
    return math.prod(len(list(each.sweep_string_iterator())) for each in overrides if each.is_sweep_override())


class Summary(Callback):
    """Update `sweep.csv` and `sweep.md` after each job, and draw `sweep.png` at the end of the sweep.

    Hydra calls `on_multirun_end` only if every job succeeded; otherwise the summary is made when the process exits.
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
        """Write the error of a job that failed before its run folder existed, and update the tables."""
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
            from ilt.studies.sweeps import write_tables

            write_tables(self._sweep)

    def _end(self) -> None:
        from ilt.studies.sweeps import summarize

        summarize(self._sweep)
