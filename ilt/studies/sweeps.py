"""Multiruns: what a sweep is called, how its jobs share the machine, and its summary. Imports nothing heavy at once."""

import atexit
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ilt.envs.naming import env_names
from ilt.rollout.workers import cores, sendable
from ilt.schema import config_hash
from ilt.settings import NOT_OF_THE_RUN
from ilt.tracking.run_folder import COMMAND, CONFIG, ERROR, RESULTS, read_config, write_error
from ilt.tracking.store import read_json

if TYPE_CHECKING:
    from ilt.studies.sweep_tables import Job

log = logging.getLogger(__name__)


def sweep_name(job: str, overrides: Sequence[str]) -> str:
    """The keys that are swept, and a hash of all that was asked for: the same command finds the same sweep.

    Args:
        job: the entry point.
        overrides: the command line's, without Hydra's own. Keys that are not of the run are left out, and their order
            does not matter.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    asked = {override.get_key_element(): override for override in parsed if _of_the_run(override.get_key_element())}
    swept = [key.lstrip("+~").rsplit(".", 1)[-1] for key in sorted(asked) if asked[key].is_sweep_override()]
    prefix = re.sub(r"[^\w-]", "_", "-".join(swept))[:60] or "sweep"
    return f"{prefix}-{config_hash([job, *sorted(str(override.input_line) for override in asked.values())])}"


OmegaConf.register_new_resolver("sweep_name", sweep_name, use_cache=True, replace=True)  # jobs inherit the cache


class ShareCores(Callback):
    """Where a launcher runs several jobs at once on a machine, each of them has its part of the cores."""

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


class Summary(Callback):
    """Keeps `sweep.csv` and `sweep.md` current as jobs end, and draws `sweep.png` when the sweep ends, however it ends.

    Hydra calls `on_multirun_end` only if every job succeeded, so what belongs there also happens when the process
    exits.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Fix the sweep's folder."""
        self._sweep = Path(config.hydra.sweep.dir).absolute()
        atexit.register(self._end)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Every job succeeded."""
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
            write_tables(self._sweep)

    def _end(self) -> None:
        from ilt.evaluation.tables import print_table
        from ilt.studies.sweep_tables import job_rows, swept_keys, table

        if not (jobs := find_jobs(self._sweep)):
            return
        title = f"{self._sweep.name}: {sum(job.results is not None for job in jobs)} of {len(jobs)} jobs finished"
        if not _up_to_date(self._sweep):
            write_tables(self._sweep)
            if any(job.results for job in jobs):
                from ilt.studies.sweep_figure import sweep_figure

                temporary = self._sweep / ".sweep.png.new"
                sweep_figure(jobs, temporary, title=title)
                os.replace(temporary, self._sweep / "sweep.png")
        print_table(title, *table(job_rows(jobs), swept_keys(jobs)))
        log.info("%s", self._sweep / "sweep.md")


def find_jobs(sweep: Path) -> list["Job"]:
    """The jobs that have a folder in the sweep's, by name; runs that were set aside are left out."""
    from ilt.studies.sweep_tables import Job

    jobs, envs = [], {}
    for folder in sorted(path.parent.parent for path in sweep.glob(f"*/{COMMAND}/overrides.yaml")):
        original, _, number = folder.name.rpartition(".")
        if number.isdecimal() and (sweep / original).is_dir():
            continue
        finished, failed = (folder / RESULTS).exists(), (folder / ERROR).exists()
        status = "finished" if finished else "not finished"
        if failed and not finished:
            status = f"failed: {(folder / ERROR).read_text().splitlines()[0]}"
        given = (line.partition("=") for line in yaml.safe_load((folder / COMMAND / "overrides.yaml").read_text()))
        overrides = {key.lstrip("+"): value for key, _, value in given if _of_the_run(key)}
        jobs.append(Job(folder.name, overrides, status, read_json(folder / RESULTS) if finished else None))
        if finished and (folder / CONFIG).exists():
            envs[folder.name] = read_config(folder)["env"]
    names = dict(zip(envs, env_names(list(envs.values())), strict=True))
    return [replace(job, env=names.get(job.name, "")) for job in jobs]


def write_tables(sweep: Path) -> None:
    """Write `sweep.csv` and `sweep.md` anew from what is in the sweep's folder."""
    from ilt.studies.sweep_tables import sweep_csv, sweep_markdown

    with FileLock(sweep / ".summary.lock"):
        if not (jobs := find_jobs(sweep)):  # such as in a search, which has a report of its own
            return
        for name, text in (("sweep.csv", sweep_csv(jobs)), ("sweep.md", sweep_markdown(sweep.name, jobs))):
            (sweep / f".{name}.new").write_text(text)
            os.replace(sweep / f".{name}.new", sweep / name)


def _up_to_date(sweep: Path) -> bool:
    """Whether the summary was written after all that it is about."""
    written = [sweep / f"sweep.{suffix}" for suffix in ("csv", "md", "png")]
    about = [path for name in (RESULTS, ERROR, f"{COMMAND}/overrides.yaml") for path in sweep.glob(f"*/{name}")]
    return all(path.exists() for path in written) and max(map(_changed, about)) <= min(map(_changed, written))


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns


def _of_the_run(key: str) -> bool:
    return key.lstrip("+~").split(".")[0] not in NOT_OF_THE_RUN


def _number_of_jobs(config: DictConfig) -> int | None:
    """How many jobs there will be; None where a sweeper of another kind decides as it goes."""
    if not config.hydra.sweeper._target_.endswith(f".{BasicSweeper.__name__}"):
        return None
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = parser.parse_overrides([*lines, *config.hydra.overrides.task])
    return len(BasicSweeper.split_arguments(overrides, None)[0])
