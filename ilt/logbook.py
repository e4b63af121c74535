"""Loggers: Lightning's, told where to write, and what a finished run adds to its dashboard."""

import logging
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger

from ilt.config import config_hash

log = logging.getLogger(__name__)


def make_logger(cfg: DictConfig, run_folder: Path, *, sweep: str | None) -> Logger | None:
    """The logger of the config, writing into the run's folder; None for `logger=none`.

    W&B runs are kept offline where there is no API key. A resumed run goes on under the same id.
    """
    if not cfg.logger:
        return None
    if not cfg.logger._target_.endswith("WandbLogger"):
        return instantiate(cfg.logger, save_dir=str(run_folder))
    group = cfg.logger.group or sweep
    os.environ.setdefault("WANDB_SILENT", "true")
    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or not _has_wandb_key()
    # not as arguments of `instantiate`, which has a parameter called config itself
    logger = instantiate(cfg.logger, _partial_=True)(
        save_dir=str(run_folder),
        offline=offline,
        group=group,
        tags=list(cfg.logger.tags),
        id=config_hash(str(run_folder.resolve())),
        resume="allow",
        config=OmegaConf.to_container(cfg, resolve=True),
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning sets it, and W&B warns that it has no effect
    if offline:
        log.info("W&B is offline (no API key); upload later with: wandb sync %s/wandb/offline-run-*", run_folder)
    return logger


def publish(
    logger: Logger | None,
    results: Mapping[str, Any],
    *,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    figures: Mapping[str, Path],
    video: Path | None,
) -> None:
    """Give a W&B run its final table, figures, video and summary numbers. Other loggers take none of these."""
    if not isinstance(logger, WandbLogger):
        return
    import wandb

    logger.log_table("results", columns=list(columns), data=[list(row) for row in rows])
    for name, path in figures.items():
        logger.log_image(name, [str(path)])
    if video is not None:
        logger.experiment.log({"landing": wandb.Video(str(video), format="mp4")})
    numbers = {f"test/{name}": value for name, value in results.items() if isinstance(value, int | float)}
    logger.experiment.summary.update(numbers)


def close(logger: Logger | None) -> None:
    """Finish the W&B run, so that the next job of the same process starts one of its own."""
    if isinstance(logger, WandbLogger):
        import wandb

        wandb.finish()


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False
