"""Compare policies on the same seeds: `ilt compare +policies.student=outputs/runs/NAME`."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.envs.spec import EnvSpec
from ilt.evaluation.policy_files import RANDOM, check_policies
from ilt.machine import check_environment
from ilt.rollout.workers import start_early
from ilt.schema import ConfigError
from ilt.settings import check_config, parse_seeds, parse_subset

log = logging.getLogger(__name__)


def check_names(cfg: DictConfig) -> tuple[str, dict[str, tuple[str, float, float]]]:
    """Return the reference's name, and each subset's parameter and quantiles.

    Raise ConfigError if `reference` or `video` names an unknown policy, or `until` or `margin` does not fit
    the other keys.
    """
    names = [*map(str, cfg.policies), RANDOM]
    reference = cfg.reference or names[0]
    for key, wanted in {"reference": [reference], "video": cfg.video or []}.items():
        for name in wanted:
            if name not in names:
                raise ConfigError(f"{key} must name one of policies = {names}, got {name}")
    if cfg.policies.get(RANDOM, RANDOM) != RANDOM:
        raise ConfigError(f"policies.{RANDOM} must be {RANDOM}, which is always compared, got {cfg.policies[RANDOM]}")
    if names[:-1] in ([], [reference]) and (cfg.until == "decided" or cfg.margin is not None):
        raise ConfigError(
            f"policies must have at least one policy besides the reference, {reference}, with "
            f"{'until=decided' if cfg.until == 'decided' else 'margin'}, got {names[:-1]}; reference={RANDOM} compares "
            "with the random policy"
        )
    if cfg.until == "decided" and cfg.subsets:
        raise ConfigError(
            f"subsets must be empty with until=decided, which decides over all episodes, got {list(cfg.subsets)}"
        )
    return reference, {str(name): parse_subset(f"subsets.{name}", text) for name, text in cfg.subsets.items()}


@app("compare")
def main(cfg: DictConfig) -> float:
    """Compare policies, print the tables, and return the first policy's mean return over all episodes."""
    check_config(cfg, "compare")
    reference, subsets = check_names(cfg)
    block, offset, count = parse_seeds(cfg.seeds, cfg.env.seed_blocks)
    check_environment(cfg)
    env = EnvSpec.from_config(cfg.env)
    for name, (parameter, *_) in subsets.items():
        if parameter not in (drawn := list(env.episode_params)):
            raise ConfigError(f"subsets.{name} must start with one of {drawn}, which env randomizes, got {parameter}")
    policies = {str(name): str(where) for name, where in cfg.policies.items()}
    check_policies(env, policies, Path(cfg.outputs), trust=cfg.trust)
    start_early(cfg)
    from ilt.analysis.compare import find_or_compare, read_policies, roll_out, roll_out_until_decided
    from ilt.cli.job import job_info
    from ilt.evaluation.comparison import ALL, comparison_table, headings, sentences
    from ilt.evaluation.tables import print_table
    from ilt.pipeline import prepare
    from ilt.tracking.loggers import open_run
    from ilt.tracking.store import read_json

    ctx = prepare(cfg)
    read = read_policies(ctx, policies, deterministic=cfg.deterministic, trust=cfg.trust)
    seeds = ctx.env.seeds(block, count, offset)
    with open_run(cfg.logger, job_info(cfg, "compare", name=cfg.name, folder=ctx.store.root)) as logger:
        decisions = None
        if cfg.until == "all":
            rollouts = roll_out(ctx, read, seeds)
        else:
            compared = [name for name in policies if name != reference]
            rollouts, decisions = roll_out_until_decided(
                ctx, read, seeds, compared=compared, reference=reference, margin=cfg.margin
            )
        comparison = find_or_compare(
            ctx,
            rollouts,
            name=cfg.name,
            reference=reference,
            subsets=subsets,
            video=list(cfg.video or []),
            seeds={"block": block, "offset": offset, "count": count},
            deterministic=cfg.deterministic,
            margin=cfg.margin,
            decisions=decisions,
        )
        content = read_json(comparison.file("comparison.json"))
        tables = {s: comparison_table(by_policy, reference) for s, by_policy in content["metrics"].items()}
        for name, numbers in content["metrics"][ALL].items():
            logger.summarize({f"{name}/{key}": value for key, value in numbers.items()})
        logger.log_tables(
            {s: [dict(zip(columns, row, strict=True)) for row in rows] for s, (columns, rows) in tables.items()}
        )
        logger.log_figures({"comparison": comparison.file("comparison.png")})
        logger.log_videos({"episode": comparison.file("episode.mp4")} if content["video"] else {})
    for subset, title in headings(content).items():
        print_table(title, *tables[subset])
    for sentence in sentences(content):
        log.info("%s", sentence)
    if content["video"] is not None:
        log.info("the video shows seed %d: %s", content["video"]["seed"], content["video"]["chosen"])
    log.info("%s", comparison.path)
    return float(comparison.metrics["return_mean"][next(iter(policies))])
