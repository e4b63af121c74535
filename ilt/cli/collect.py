"""Collect demonstrations, or find existing ones: `ilt collect expert=ppo`."""

import logging

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.machine import check_environment
from ilt.rollout.workers import start_early
from ilt.settings import check_config

log = logging.getLogger(__name__)


@app("collect")
def main(cfg: DictConfig) -> float:
    """Collect or find the demonstrations, print their metrics, and return their mean return."""
    check_config(cfg, "collect")
    check_environment(cfg)
    start_early(cfg)
    from ilt.cli.job import job_info
    from ilt.data.episodes import Episodes
    from ilt.data.sources import check_source, make_source
    from ilt.evaluation.tables import demonstration_rows, short
    from ilt.experts.base import check_expert_config
    from ilt.experts.find import find_or_collect, find_or_load
    from ilt.pipeline import prepare
    from ilt.tracking.loggers import open_run
    from ilt.tracking.run_folder import shown

    ctx = prepare(cfg)
    check_source(cfg.demos, cfg.expert, ctx.env)
    for expert in (cfg.expert, *make_source(cfg.demos).experts.values()):
        check_expert_config(expert, ctx.env)
    n_episodes = cfg.demos.get("n_episodes")
    name = "recorded-episodes" if n_episodes is None else f"{cfg.expert.name}-{n_episodes}-episodes"
    with open_run(cfg.logger, job_info(cfg, "collect", name=name, folder=ctx.store.root)) as logger:
        expert = find_or_load(ctx, cfg.expert)
        logger.use_artifacts(**({} if expert is None or expert.artifact is None else {"expert": expert.artifact}))
        demos = find_or_collect(ctx, cfg.demos, cfg.expert, expert)
        logger.log_artifacts(demonstrations=demos)
        logger.summarize({f"{block}/{k}": v for block in demos.metrics for k, v in demos.metrics[block].items()})
        rows = demonstration_rows(Episodes.load(demos.file("demonstrations.npz")))
        logger.log_tables({"demonstrations": rows})
    for block, numbers in demos.metrics.items():
        known = [f"{name} {short(value)}" for name, value in numbers.items() if value is not None]
        log.info("%s: %s", block, ", ".join(known))
    log.info("%s", shown(demos.path))
    return float(demos.metrics["demonstrations"]["return_mean"])
