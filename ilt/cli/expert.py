"""Train an expert, or find an existing one: `ilt expert expert=ppo`."""

import logging

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.machine import check_environment
from ilt.schema import ConfigError
from ilt.settings import check_config, has_expert

log = logging.getLogger(__name__)


@app("expert")
def main(cfg: DictConfig) -> float:
    """Train or find the expert, print its metrics, and return its mean return on selection seeds."""
    check_config(cfg, "expert")
    if not has_expert(cfg.expert):
        raise ConfigError("expert must be one that can act, got none")
    check_environment(cfg)
    from ilt.cli.job import job_info
    from ilt.evaluation.tables import short
    from ilt.experts.base import check_expert_config
    from ilt.experts.find import find_or_train
    from ilt.pipeline import prepare
    from ilt.tracking.loggers import ExpertCurve, open_run
    from ilt.tracking.run_folder import shown
    from ilt.tracking.store import read_json

    ctx = prepare(cfg)
    check_expert_config(cfg.expert, ctx.env)
    name = f"{cfg.expert.name}-s{cfg.expert.seed}"
    with open_run(cfg.logger, job_info(cfg, "expert", name=name, folder=ctx.store.root)) as logger:
        curve = ExpertCurve(logger)
        expert = find_or_train(ctx, cfg.expert, curve.add)
        if expert.file("history.json").exists():
            curve.fill(read_json(expert.file("history.json")))
        metrics = expert.metrics["selection"]
        modes = ("deterministic", "sampled")
        logger.summarize({f"{mode}/{key}": value for mode in modes for key, value in metrics[mode].items()})
        logger.log_artifacts(expert=expert)
    for mode in modes:
        known = [f"{name} {short(value)}" for name, value in metrics[mode].items() if value is not None]
        log.info("%s: %s", mode, ", ".join(known))
    if "best" in (training := expert.metrics["training"] or {}):
        best = training["best"]
        log.info("best after %d of %d steps: return %s", best["steps"], training["steps"], short(best["return_mean"]))
    log.info("%s", shown(expert.path))
    return float(metrics["deterministic" if cfg.expert.deterministic else "sampled"]["return_mean"])
