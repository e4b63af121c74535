"""Score a trained student and its expert again: `ilt evaluate run=outputs/runs/NAME`."""

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.data.config import RETURNS_STATES_ACTIONS, is_return_conditioned
from ilt.envs.spec import NO_ENV, EnvSpec
from ilt.rollout.workers import start_early
from ilt.schema import ConfigError, config_hash
from ilt.settings import check_config, has_env, has_expert, parse_seeds, run_config

log = logging.getLogger(__name__)


def _env_of(cfg: DictConfig, run: DictConfig) -> tuple[DictConfig, Sequence[str] | None]:
    """Return the config of the environment to score a run in, and the packages whose code may be run to make it.

    Raise ConfigError unless the environment is the run's own, or is given for a run that has none.
    """
    if has_env(run.env):
        if "env" in cfg:
            raise ConfigError(
                f"env cannot be set, since the run has {run.env.id}; ilt compare scores a run in variants of its env"
            )
        return run.env, cfg.trust
    if "env" not in cfg:
        raise ConfigError(f"env must be given, such as env=cartpole, since the run has env={NO_ENV}")
    return cfg.env, None


@app("evaluate")
def main(cfg: DictConfig) -> float:
    """Score a run on given seeds, print and save the results, and return the student's mean return."""
    check_config(cfg, "evaluate")
    from ilt.tracking.run_folder import performance_reference, read_finished
    from ilt.tracking.store import place_for, write_json

    folder = Path(cfg.run)
    run, trained = read_finished(folder)
    env, trust = _env_of(cfg, run)
    block, offset, count = parse_seeds(cfg.seeds, env.seed_blocks)
    trained_with = run.dataset.context_length
    if cfg.context_length is not None and cfg.context_length > trained_with:
        raise ConfigError(f"context_length must be at most the run's {trained_with}, got {cfg.context_length}")
    if cfg.target_return is not None and not is_return_conditioned(run.dataset):
        raise ConfigError(
            f"target_return must be null unless the run has dataset.tokens={RETURNS_STATES_ACTIONS}, "
            f"got {cfg.target_return}"
        )
    _ = EnvSpec.from_config(env, trust=trust).action_space  # fail before the imports that take seconds
    instead = Path(cfg.outputs, "evaluations", f"{folder.name}-{config_hash(str(folder.resolve()))}")
    place = place_for(folder / "evaluations", instead)
    start_early(cfg)
    from ilt.cli.job import job_info
    from ilt.evaluation.saved_policies import check_fit
    from ilt.evaluation.scoring import score_students
    from ilt.evaluation.tables import log_comparison, print_table, result_table
    from ilt.experts.find import find, load
    from ilt.models.spec import ModelSpec
    from ilt.pipeline import prepare
    from ilt.tracking.loggers import open_run
    from ilt.tracking.wandb import model_of

    ctx = prepare(cfg, env, trust=trust)
    checkpoint = cfg.checkpoint or run.evaluation.reported_checkpoint
    weights = folder / "weights" / f"{checkpoint}.safetensors"
    if weights.relative_to(folder).as_posix() not in trained["files"]:
        raise ConfigError(f"checkpoint must be last, since the run kept no other weights, got {checkpoint}")
    context_length = cfg.context_length or run.evaluation.context_length
    name = f"{block}-{offset}-{count}-{checkpoint}-K{context_length or trained_with}"
    name += "" if cfg.target_return is None else f"-R{cfg.target_return:g}"
    name += "" if cfg.deterministic else "-sampled"
    if not has_env(run.env):
        check_fit("run", ctx.env, ModelSpec.load(weights, trust=cfg.trust)[0])
        name = f"{env.id.rpartition(':')[2].rpartition('/')[2]}-{config_hash(ctx.env.identity())}-{name}"
    config = {**run_config(run), "evaluate": run_config(cfg)}
    job = job_info(cfg, "evaluate", name=f"{folder.name}-{name}", folder=ctx.store.root, config=config)
    with open_run(cfg.logger, job) as logger:
        expert = load(ctx, run.expert, find(ctx, run.expert)) if has_expert(run.expert) else None
        if expert is not None and not trained["expert"].startswith(run.expert.name):  # it was a Python function
            log.warning("the run's expert, %s, is not kept; %s stands in for it", trained["expert"], run.expert.name)
        own = {} if expert is None or expert.artifact is None else {"expert": expert.artifact}
        logger.use_artifacts(model=model_of(folder, trained), **own)
        reference = performance_reference(trained)
        comparison, checkpoints, episodes = score_students(
            ctx,
            expert,
            {checkpoint: weights},
            ctx.env.seeds(block, count, offset),
            context_length=context_length,
            deterministic=cfg.deterministic,
            reference_scores=reference and {"min": reference["zero"], "max": reference["one"]},
            target_return=cfg.target_return,
            trust=cfg.trust,
        )
        results = {
            **comparison,
            "env": ctx.env.id,
            "reported_checkpoint": checkpoint,
            "checkpoints": checkpoints,
            "context_length": context_length or trained_with,
            "deterministic": cfg.deterministic,
            "seeds": {"block": block, "offset": offset, "count": count},
        }
        path = place / f"{name}.json"
        write_json(path, results)
        log_comparison(logger, results, episodes)
    print_table(f"{count} {block} episodes", *result_table(results))
    log.info("%s", path)
    return float(comparison["return_mean"])
