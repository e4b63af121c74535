"""The main job, from an expert to a transformer that flies by itself: `ilt train`."""

import logging
import os
import time
from contextlib import ExitStack
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ilt.cli import FIRST_JOB_STARTED
from ilt.cli.app import app
from ilt.config import ConfigError, check_config, run_config
from ilt.rollout.workers import start_early
from ilt.tracking.run_folder import RunFolder, discard_unused, selection_return, show

log = logging.getLogger(__name__)


@app("train")
def main(cfg: DictConfig) -> float | None:
    """Expert → demonstrations → windows → transformer → rollouts → numbers. Returns the selection-seed return.

    A run that belongs to a trial of a search is not scored on test seeds; None is returned if it was pruned.
    """
    started = FIRST_JOB_STARTED.pop(os.getpid(), time.monotonic())  # later jobs of a process import nothing
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    in_trial = OmegaConf.select(cfg, "search.trial") is not None
    try:
        check_config(cfg)
    except ConfigError:
        discard_unused(folder)
        raise
    if cfg.trainer.get("num_nodes", 1) > 1:
        from ilt.training.fit import accompany

        if accompany(cfg, folder):
            return None
    with RunFolder(folder, run_config(cfg), resume=cfg.resume, started=started) as run:
        if run.finished:
            log.info("%s is finished; resume=false runs it again", folder.name)
            if hydra_config.mode != RunMode.MULTIRUN:
                show(run)
            return selection_return(run)

        steps = "resuming from last.ckpt" if run.last_checkpoint else "expert, demonstrations, training, scoring"
        log.info("%s: %s", os.path.relpath(folder), steps)
        run.begin(config=cfg, hydra={"hydra": hydra_config}, overrides=hydra_config.overrides.task)
        start_early(cfg)
        with run.stage("imports"):  # which take seconds: not before it is clear that there is work
            from ilt.cli.collect import find_or_collect
            from ilt.cli.expert import find_or_train
            from ilt.evaluation import stages
            from ilt.tracking import loggers, wandb_artifacts
            from ilt.training.fit import fit
            from ilt.training.runtime import prepare

            spec, store = prepare(cfg)
            report = None
            if in_trial:
                from ilt.studies.optuna_study import reporter

                report = reporter(cfg, Path(hydra_config.sweep.dir))
        with ExitStack() as closing:
            with run.stage("logger"):
                logger = closing.enter_context(loggers.open_logger(cfg, folder))
            with run.stage("expert"):
                expert = find_or_train(cfg, spec, store)
            with run.stage("demonstrations"):
                demos = find_or_collect(cfg, spec, store, expert)
            wandb_artifacts.uses(loggers.run_of(logger), expert=expert, demonstrations=demos)
            with run.stage("training"):
                fitted = fit(cfg, spec, run, demos, logger, report=report)
            if fitted is None:
                return None
            if in_trial:
                return fitted.at(cfg.evaluation.reported_checkpoint)["rollout/return_mean"]
            with run.stage("scoring"):
                results, flights = stages.score(cfg, spec, store, run, expert, demos, fitted)
            with run.stage("pictures"):
                stages.picture(cfg, spec, run, expert, fitted, results, flights, logger)
            run.finish(results)
        show(run)
        return selection_return(run)
