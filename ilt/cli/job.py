"""Describe a job for a logger, from Hydra's state and the command's config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ilt.settings import run_config
from ilt.tracking.loggers import JobInfo, tags_of


def job_info(
    cfg: DictConfig, job_type: str, *, name: str, folder: Path, config: Mapping[str, Any] | None = None
) -> JobInfo:
    """Describe a job for a logger. Jobs of a sweep share a group and are tagged with their overrides.

    Args:
        cfg: the job's config.
        job_type: the command.
        name: name of the run.
        folder: the run's folder for `train`, otherwise the folder of all artifacts.
        config: the hyperparameters; by default, all keys of `cfg` that affect the results.
    """
    group, tags = None, list[str]()
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        group, tags = Path(HydraConfig.get().sweep.dir).name, tags_of(HydraConfig.get().overrides.task)
    return JobInfo(
        name=name,
        job_type=job_type,
        folder=folder,
        outputs=Path(cfg.outputs),
        config=run_config(cfg) if config is None else config,
        group=group,
        tags=tags,
    )
