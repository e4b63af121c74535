"""A Hydra launcher that runs jobs as Ray tasks. Hydra imports it at every start, so it imports Ray only on launch."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)


class RayLauncher(Launcher):
    """Run every job of a sweep as a Ray task, and wait for all of them.

    A job fails if its worker dies more than `remote.max_retries` times. The other jobs continue.

    Args:
        init: keyword arguments of `ray.init`.
        remote: keyword arguments of `ray.remote`: a job's resources and number of retries.
    """

    def __init__(self, init: DictConfig, remote: DictConfig) -> None:
        self._init: Any = OmegaConf.to_container(init)
        self._remote: Any = OmegaConf.to_container(remote)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one job per list of overrides, and return their results in the same order."""
        import ray

        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        Path(self._config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        if not ray.is_initialized():
            ray.init(**self._init)
        run = ray.remote(**self._remote)(_run)
        tasks = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            log.info("#%d: %s", number, " ".join(filter_overrides(overrides)))
            config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{number}", number
            tasks.append(run.remote(self._context, self._task_function, config, Singleton.get_state()))
        return [_outcome(task, overrides) for task, overrides in zip(tasks, job_overrides, strict=True)]


def _outcome(task: Any, overrides: Sequence[str]) -> JobReturn:
    """Return a job's result, or a failure if its worker died."""
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)


def _run(
    context: HydraContext, task_function: TaskFunction, config: DictConfig, singletons: dict[Any, Any]
) -> JobReturn:
    """Run a job in a Ray worker, which may be on another machine and in a different working directory."""
    setup_globals()
    Singleton.set_state(singletons)
    HydraConfig.instance().set_config(config)
    os.chdir(config.hydra.runtime.cwd)
    return run_job(
        hydra_context=context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
