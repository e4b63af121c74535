"""What Hydra and a command's config tell a logger of a job."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ilt.config import config_hash, run_config
from ilt.tracking.loggers import JobInfo, tags_of


def job_info(
    cfg: DictConfig, job_type: str, *, name: str, folder: Path, config: Mapping[str, Any] | None = None
) -> JobInfo:
    """Describe a job for a logger; jobs of a sweep share a group and are tagged with their overrides.

    Args:
        cfg: the job's config.
        job_type: `train`, `expert`, `collect` or `evaluate`.
        name: of the run.
        folder: the folder of the training, or of all artifacts.
        config: the hyperparameters; all of `cfg` that decides what the job computes, if not given.
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


def setting_of(cfg: DictConfig) -> str:
    """A name that trainings share if they differ in nothing but their seed."""
    name = cfg.run_name.removesuffix(f"-s{cfg.seed}-{config_hash(run_config(cfg))}")
    return f"{name}-{config_hash({**run_config(cfg), 'seed': None})}"
