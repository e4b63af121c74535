"""The main command, which trains and scores a student: `ilt train`."""

import logging
import os
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ilt.cli import FIRST_JOB_STARTED
from ilt.cli.app import app
from ilt.machine import STARTERS, check_environment
from ilt.rollout.workers import start_early
from ilt.schema import ConfigError, config_hash
from ilt.settings import check_config, hints, run_config, training_config
from ilt.tracking.run_folder import RunFolder, discard_unused, selection_return, shown

log = logging.getLogger(__name__)


@app("train")
def main(cfg: DictConfig) -> float | None:
    """Run the whole pipeline, and return the student's mean return on selection seeds.

    Runs of a search's trials are not scored on test seeds. The result of a pruned run is None.
    """
    if STARTERS & os.environ.keys():  # started by torchrun or srun, perhaps with other ranks
        from ilt.training.ranks import led

        return led(lambda: _train(cfg))
    return _train(cfg)


def _train(cfg: DictConfig) -> float | None:
    started = FIRST_JOB_STARTED.pop(os.getpid(), time.monotonic())  # later jobs in this process start now
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    in_trial = OmegaConf.select(cfg, "search.trial") is not None
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    try:
        if in_trial and not in_sweep:
            raise ConfigError("search.trial cannot be set: a search numbers its trials")
        check_config(cfg, "train")
        identity = training_config(cfg)
        run = RunFolder(folder, run_config(cfg), identity, resume=cfg.resume, started=started, wait=in_sweep)
        if not (cfg.resume and run.finished):
            log.info("%s: %s", shown(folder), run.next_steps)  # before the slow imports
            check_environment(cfg)
    except ConfigError:
        discard_unused(folder)
        raise
    with run:
        if run.finished:
            log.info("%s is finished; resume=false runs it again", folder.name)
            if not in_sweep:
                from ilt.evaluation.tables import show

                show(folder)
            return selection_return(run)

        for hint in hints(cfg, hydra_config.runtime.choices):
            log.warning(hint)
        run.begin(config=cfg, hydra={"hydra": hydra_config}, overrides=hydra_config.overrides.task)
        start_early(cfg)
        with run.stage("imports"):  # these take seconds, so only import once there is work
            from ilt import pipeline
            from ilt.cli.job import job_info
            from ilt.tracking.loggers import open_run

            ctx = pipeline.prepare(cfg)
            pipeline.check(ctx, cfg)
            report = None
            if in_trial:
                from ilt.studies.optuna_study import reporter

                report = reporter(cfg, Path(hydra_config.sweep.dir))
        setting = cfg.run_name.removesuffix(f"-s{cfg.seed}-{config_hash(identity)}")
        setting = f"{setting}-{config_hash({**identity, 'seed': None})}"
        job = job_info(cfg, "train", name=folder.name, folder=folder, config={**run.config, "setting": setting})
        with open_run(cfg.logger, job) as logger:
            results = pipeline.run(ctx, cfg, run, logger, report=report, in_trial=in_trial)
        if results is None or in_trial:
            return None if results is None else float(results["selection_return_mean"])
        pipeline.show(folder)
        return selection_return(run)
