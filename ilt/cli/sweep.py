"""What Hydra calls in a multirun: a sweep's name, how its jobs share the machine, and its summary.

Imports nothing heavy at once.
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
    """Name a sweep after the keys that it sweeps, and a hash of all overrides: the same command finds the same sweep.

    Args:
        job: the entry point.
        overrides: the command line's, without Hydra's own. Keys that are not of the run are left out, and their order
            does not matter.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    asked = {key: override for override in parsed if is_of_the_run(key := override.get_key_element())}
    swept = [key.lstrip("+~").rsplit(".", 1)[-1] for key in sorted(asked) if asked[key].is_sweep_override()]
    prefix = re.sub(r"[^\w-]", "_", "-".join(swept))[:60] or "sweep"
    return f"{prefix}-{config_hash([job, *sorted(str(override.input_line) for override in asked.values())])}"


OmegaConf.register_new_resolver("sweep_name", sweep_name, use_cache=True, replace=True)  # jobs inherit the cache


class ShareCores(Callback):
    """Give each of the jobs that a launcher runs at once on a machine its share of the cores."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Add to the jobs' overrides the `processes` and `threads` that one of them may have."""
        launcher = config.hydra.launcher
        if "n_jobs" in launcher:
            wanted = launcher.n_jobs if launcher.n_jobs > 0 else max(1, cores() + 1 + launcher.n_jobs)
            launcher.n_jobs = min(wanted, _number_of_jobs(config) or wanted)
            if launcher.get("batch_size") == "auto":
                launcher.batch_size = 1  # or joblib, once a few jobs are finished, would queue long ones in one process
            if launcher.n_jobs > 1:
                _share(config, max(1, cores() // launcher.n_jobs))
        elif "remote" in launcher:  # Ray counts the cores that jobs ask for, and keeps none of them from using more
            _share(config, max(1, int(launcher.remote.num_cpus)))


def _share(config: DictConfig, n_cores: int) -> None:
    for key in ("processes", "threads"):
        if (given := config[key]) is None or (isinstance(given, int) and given > n_cores):
            config.hydra.overrides.task.append(f"{key}={n_cores}")


def _number_of_jobs(config: DictConfig) -> int | None:
    """Return how many jobs there will be; None where a sweeper of another kind decides as it goes."""
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return None
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = parser.parse_overrides([*lines, *config.hydra.overrides.task])
    return math.prod(len(list(each.sweep_string_iterator())) for each in overrides if each.is_sweep_override())


class Summary(Callback):
    """Keep `sweep.csv` and `sweep.md` current as jobs end, and draw `sweep.png` when the sweep ends, however it ends.

    Hydra calls `on_multirun_end` only if every job succeeded, so what belongs there also happens when the process
    exits.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Fix the sweep's folder."""
        self._sweep = Path(config.hydra.sweep.dir).absolute()
        atexit.register(self._end)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Summarize the sweep."""
        atexit.unregister(self._end)
        self._end()

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **_: Any) -> None:
        """Remember whether there is anything to do."""
        self._was_finished = (Path(config.hydra.runtime.output_dir) / RESULTS).exists()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Keep the error of a job that failed before it had a run, and bring the tables up to date."""
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
