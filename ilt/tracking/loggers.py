"""What a job tells a dashboard: a W&B run of its own, or one of Lightning's other loggers."""

import logging
import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from ilt.config import NOT_OF_THE_RUN, ConfigError, config_hash, run_config
from ilt.evaluation.tables import episode_rows, result_table
from ilt.tracking.store import provenance

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger
    from wandb import Run

    from ilt.data.episodes import Episodes

log = logging.getLogger(__name__)

WANDB = "wandb.init"
"""The `_target_` of the logger that is W&B."""

BEST = {
    "rollout/return_mean": "max",
    "rollout/success_rate": "max",
    "rollout/crash_rate": "min",
    "val/action_accuracy": "max",
    "val/action_error": "min",
    "val/loss": "min",
}
"""What is measured while learning, and which of its values is the best. The summary holds that one, and the last."""

CLOUD = {"api.wandb.ai", "api.forge.coreweave.com"}
"""Two names of the same public server; a key that was kept for one is good for the other."""

LONGEST_TAG = 64
"""Characters that W&B allows."""


@contextmanager
def open_logger(cfg: DictConfig, run_folder: Path) -> "Iterator[Logger | None]":
    """The logger of a training, writing into the run's folder; None for `logger=none`. Finished at the end."""
    if cfg.logger and cfg.logger._target_ != WANDB:
        yield instantiate(cfg.logger, save_dir=str(run_folder))
        return
    setting = cfg.run_name.removesuffix(f"-s{cfg.seed}-{config_hash(run_config(cfg))}")
    config = {**run_config(cfg), "setting": f"{setting}-{config_hash({**run_config(cfg), 'seed': None})}"}
    with open_run(cfg, "train", name=run_folder.name, folder=run_folder, config=config) as run:
        if run is None:
            yield None
            return
        from pytorch_lightning.loggers import WandbLogger

        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        for metric, best in BEST.items():
            run.define_metric(metric, step_metric="trainer/global_step", step_sync=True, summary=f"{best},last")
        yield WandbLogger(experiment=run)


@contextmanager
def open_run(
    cfg: DictConfig, job_type: str, *, name: str, folder: Path, config: Mapping[str, Any] | None = None
) -> "Iterator[Run | None]":
    """The W&B run of one job; None where W&B is not the logger, or is disabled.

    It is kept offline where there is no API key. Jobs of a sweep share a group and carry what was swept as tags. The
    same job, in the same folder and with the same config, goes on with the same run. When it ends, so does its run,
    marked as failed where an error is the reason.

    Args:
        cfg: the job's config; its `logger` is what `wandb.init` is given, beside what is said here.
        job_type: `expert`, `collect`, `train` or `evaluate`.
        name: what the run is called, unless `logger.name` says otherwise.
        folder: where its `wandb/` is.
        config: what W&B shows as the run's config, resolved; all that decides what the job computes, if not given.
    """
    mode = os.environ.get("WANDB_MODE")
    if not cfg.logger or mode == "disabled":
        yield None
        return
    if cfg.logger._target_ != WANDB:
        raise ConfigError(f"logger must be wandb or none where nothing is trained, got {cfg.logger._target_}")
    import wandb

    config = run_config(cfg) if config is None else config
    folder.mkdir(parents=True, exist_ok=True)
    # what is to be uploaded later waits where all jobs and `make sync` find it, and not in the home of this machine
    os.environ.setdefault("WANDB_DATA_DIR", str(Path(cfg.outputs, "wandb").resolve()))
    group, tags = _sweep()
    # not as arguments of `instantiate`, which has a parameter called config itself
    start = partial(
        instantiate(cfg.logger, _partial_=True),
        dir=str(folder),
        name=cfg.logger.name or name,
        job_type=job_type,
        group=cfg.logger.group or group,
        tags=list(dict.fromkeys([*cfg.logger.tags, *tags])),
        id=config_hash([job_type, str(folder.resolve()), dict(config)]),
        resume="allow",
        config={**config, "made_by": provenance()},
        # neither code nor a list of what is installed; the commit and the versions that count are in the config
        settings=wandb.Settings(silent=True, save_code=False, disable_git=True, x_save_requirements=False),
    )
    try:
        run: Run = start(mode=mode or ("online" if has_key() else "offline"))
    except wandb.errors.CommError as error:  # such as on a node of a cluster that reaches no network
        log.warning("W&B cannot be reached (%s)", str(error).splitlines()[0])
        wandb.teardown()  # which still holds the run that could not be started
        run = start(mode="offline")
    if run.offline:
        log.info("W&B is offline%s; upload later with: make sync", "" if has_key() else " (no API key)")
    else:
        log.info("W&B: %s", run.url)
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def run_of(logger: "Logger | None") -> "Run | None":
    """The W&B run behind a training's logger, if it is W&B's."""
    from pytorch_lightning.loggers import WandbLogger

    return logger.experiment if isinstance(logger, WandbLogger) else None


def publish(
    run: "Run | None",
    *,
    numbers: Mapping[str, Any] | None = None,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    figures: Mapping[str, Path] | None = None,
    videos: Mapping[str, Path] | None = None,
) -> None:
    """Give a W&B run what came out of its job; nothing happens without one.

    Args:
        numbers: for the summary; what is no number is left out.
        tables: one mapping from column to value for each row, all with the same columns.
        figures, videos: PNG and MP4 files.
    """
    if run is None:
        return
    import wandb

    media: dict[str, Any] = {
        name: wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        for name, rows in (tables or {}).items()
    }
    media |= {name: wandb.Image(str(path)) for name, path in (figures or {}).items()}
    media |= {name: wandb.Video(str(path), format="mp4") for name, path in (videos or {}).items()}
    if media:
        run.log(media)
    run.summary.update({name: value for name, value in (numbers or {}).items() if isinstance(value, int | float)})


def publish_comparison(run: "Run | None", results: Mapping[str, Any], flights: "Mapping[str, Episodes]") -> None:
    """Publish how a student flew beside its expert: numbers under the name of the block of seeds, and two tables."""
    columns, rows = result_table(results)
    publish(
        run,
        numbers={f"{results['seeds']['block']}/{name}": value for name, value in results.items()},
        tables={
            "results": [dict(zip(columns, row, strict=True)) for row in rows],
            "episodes": episode_rows(flights),
        },
    )


class ExpertCurve:
    """An expert's return over its training steps, in a W&B run."""

    def __init__(self, run: "Run | None") -> None:
        self._run, self._live = run, False
        if run is not None:
            run.define_metric("expert/steps")
            run.define_metric("expert/return_mean", step_metric="expert/steps", summary="max,last")

    def add(self, steps: int, return_mean: float) -> None:
        """An expert in training was scored, after so many environment steps."""
        self._live = True
        if self._run is not None:
            self._run.log({"expert/steps": steps, "expert/return_mean": return_mean})

    def fill(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Show what is known of an expert that was trained before; not again what was shown while it happened."""
        if not self._live:
            for entry in history:
                self.add(entry["steps"], entry["return_mean"])


def base_url() -> str:
    """The W&B server, as `WANDB_BASE_URL` or `wandb login` says."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)


def has_key() -> bool:
    """Whether there is an API key for the W&B server, in `WANDB_API_KEY` or where `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(base_url()).hostname
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return not hosts.keys().isdisjoint(CLOUD if host in CLOUD else {host})


def _sweep() -> tuple[str | None, list[str]]:
    """The name of the sweep that this job is of, and a tag for each key that was set for it; (None, []) without one."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None, []
    return Path(HydraConfig.get().sweep.dir).name, tags_of(HydraConfig.get().overrides.task)


def tags_of(overrides: Sequence[str]) -> list[str]:
    """Overrides such as `model=small` as tags, without those that change no number (`outputs`, `logger`, …)."""
    plain = [override.lstrip("+~") for override in overrides]
    kept = [override for override in plain if override.split("=")[0].split(".")[0] not in NOT_OF_THE_RUN]
    return [tag if len(tag) <= LONGEST_TAG else f"{tag[: LONGEST_TAG - 1]}…" for tag in kept]
