"""Score a trained student beside its expert: `ilt evaluate run=outputs/runs/NAME`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.config import ConfigError, check_config, parse_seeds, run_config
from ilt.rollout.workers import start_early

if TYPE_CHECKING:
    import numpy as np

    from ilt.data.episodes import Episodes
    from ilt.envs.spec import EnvSpec
    from ilt.tracking.store import Artifact, Store

log = logging.getLogger(__name__)


def score_students(
    cfg: DictConfig,
    spec: "EnvSpec",
    store: "Store",
    expert: "Artifact",
    weights: dict[str, Path],
    seeds: "np.ndarray",
    *,
    context_length: int | None,
    deterministic: bool,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, "Episodes"]]:
    """Fly students, expert and random policy on the same seeds.

    Args:
        weights: files of student weights by name; the first one is reported. Files with equal content are flown
            once.

    Returns:
        the comparison of the reported one, as `results.json` holds it; the metrics of each student by name; and the
        episodes of `student` (the reported one), `expert` and `random`.
    """
    from ilt.cli.collect import find_or_fly, fly
    from ilt.data.episodes import Episodes
    from ilt.evaluation.statistics import compare, summarize
    from ilt.models.decoder import Decoder
    from ilt.rollout.sequence_policy import SequencePolicy

    references = {
        name: Episodes.load(find_or_fly(cfg, spec, store, seeds, by).file("episodes.npz"))
        for name, by in (("expert", expert), ("random", None))
    }
    flown: dict[bytes, tuple[Episodes, dict[str, Any]]] = {}
    students = {}
    for name, path in weights.items():
        content = path.read_bytes()
        if content not in flown:
            policy = SequencePolicy(Decoder.load(path), context_length=context_length, deterministic=deterministic)
            title = f"student ({name}) on {spec.block_of(seeds)} seeds"
            flown[content] = fly(cfg, spec, policy, seeds, title=title)
        students[name] = flown[content]
    reported_checkpoint = next(iter(students))
    comparison = compare(students[reported_checkpoint][0], references, spec)
    comparison["steps_per_second"] = students[reported_checkpoint][1]["steps_per_second"]
    checkpoints = {name: summarize(episodes, spec) for name, (episodes, _) in students.items()}
    return comparison, checkpoints, {"student": students[reported_checkpoint][0], **references}


@app("evaluate")
def main(cfg: DictConfig) -> float:
    """Score a run on seeds of one's choice, print and keep the numbers, and return the student's mean return."""
    check_config(cfg)
    from ilt.tracking.run_folder import read_finished
    from ilt.tracking.store import write_json

    folder = Path(cfg.run)
    run, trained = read_finished(folder)
    block, offset, count = parse_seeds(cfg.seeds, run.env.seed_blocks)
    trained_with = run.dataset.context_length
    if cfg.context_length is not None and cfg.context_length > trained_with:
        raise ConfigError(f"context_length must be at most the run's {trained_with}, got {cfg.context_length}")

    start_early(cfg)
    from ilt.cli.expert import find
    from ilt.evaluation.tables import COLUMNS, print_table, result_rows
    from ilt.tracking import loggers, wandb_artifacts
    from ilt.training.runtime import prepare_run

    run.n_envs, run.processes = cfg.n_envs, cfg.processes
    spec, store = prepare_run(cfg, run)
    checkpoint = cfg.checkpoint or run.evaluation.reported_checkpoint
    context_length = cfg.context_length or run.evaluation.context_length
    name = f"{block}-{offset}-{count}-{checkpoint}-K{context_length or trained_with}"
    name += "" if cfg.deterministic else "-sampled"
    config = {**run_config(run), "evaluate": run_config(cfg)}
    with loggers.open_run(cfg, "evaluate", name=f"{folder.name}-{name}", folder=store.root, config=config) as wandb_run:
        expert = find(run, spec, store)
        wandb_artifacts.uses(wandb_run, expert=expert, model=wandb_artifacts.model_of(folder, trained))
        comparison, checkpoints, flights = score_students(
            run,
            spec,
            store,
            expert,
            {checkpoint: folder / "weights" / f"{checkpoint}.safetensors"},
            spec.seeds(block, count, offset),
            context_length=context_length,
            deterministic=cfg.deterministic,
        )
        results = {
            **comparison,
            "reported_checkpoint": checkpoint,
            "checkpoints": checkpoints,
            "context_length": context_length or trained_with,
            "deterministic": cfg.deterministic,
            "seeds": {"block": block, "offset": offset, "count": count},
        }
        path = folder / "evaluations" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        write_json(path, results)
        loggers.publish_comparison(wandb_run, results, flights)
    print_table(f"{count} {block} episodes", COLUMNS, result_rows(results))
    log.info("%s", path)
    return float(comparison["return_mean"])
