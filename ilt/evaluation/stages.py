"""What comes after training in `ilt train`: score, picture."""

from typing import Any

import numpy as np
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from ilt.cli.evaluate import score_students
from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.evaluation.tables import episode_rows
from ilt.tracking import loggers, wandb_artifacts
from ilt.tracking.run_folder import RunFolder
from ilt.tracking.store import Artifact, Store, provenance, sha256
from ilt.training.fit import Fitted, write_csv


def score(
    cfg: DictConfig,
    spec: EnvSpec,
    store: Store,
    run: RunFolder,
    expert: Artifact,
    demos: Artifact,
    fitted: Fitted,
) -> tuple[dict[str, Any], dict[str, Episodes]]:
    """What `results.json` holds, and the flights on test seeds by policy. Episodes are listed in `episodes.csv`."""
    reported_checkpoint = cfg.evaluation.reported_checkpoint
    names = [reported_checkpoint, *(name for name in fitted.weights if name != reported_checkpoint)]
    comparison, checkpoints, flights = score_students(
        cfg,
        spec,
        store,
        expert,
        {name: fitted.weights[name] for name in names},
        spec.seeds("test", cfg.evaluation.n_episodes),
        context_length=cfg.evaluation.context_length,
        deterministic=cfg.evaluation.deterministic,
    )
    for name, metrics in checkpoints.items():
        metrics["step"] = int(fitted.at(name)["step"])
        metrics["selection_return_mean"] = fitted.at(name)["rollout/return_mean"]
        metrics["action_accuracy"] = fitted.at(name)["val/action_accuracy"]
    scoring_speed = comparison.pop("steps_per_second")
    write_csv(
        run.path / "episodes.csv",
        episode_rows(flights),
    )
    return {
        **comparison,
        "reported_checkpoint": reported_checkpoint,
        "action_accuracy": checkpoints[reported_checkpoint]["action_accuracy"],
        "selection_return_mean": checkpoints[reported_checkpoint]["selection_return_mean"],
        "checkpoints": checkpoints,
        "seeds": {"block": "test", "offset": 0, "count": cfg.evaluation.n_episodes},
        "context_length": cfg.evaluation.context_length or cfg.dataset.context_length,
        "seed": cfg.seed,
        "expert": expert.name,
        "demonstrations": demos.name,
        "imitation": fitted.imitation.results(),
        "files": {f"weights/{path.name}": sha256(path) for path in fitted.weights.values()},
        "n_parameters": fitted.n_parameters,
        "resumed": fitted.resumed,
        "speed": {
            "collection_steps_per_second": demos.metrics["demonstrations"]["steps_per_second"],
            "training_windows_per_second": fitted.windows_per_second and round(fitted.windows_per_second),
            "scoring_steps_per_second": scoring_speed,
        },
        **provenance(),
    }, flights


def picture(
    cfg: DictConfig,
    spec: EnvSpec,
    run: RunFolder,
    expert: Artifact,
    fitted: Fitted,
    results: dict[str, Any],
    flights: dict[str, Episodes],
    logger: Logger | None,
) -> None:
    """Figures and the video of a landing, into the run folder and to the logger."""
    from ilt.analysis.figures import learning_curve, return_distribution
    from ilt.analysis.video import side_by_side, write_animation, write_mp4

    figures = {name: run.path / f"{name}.png" for name in ("learning_curve", "return_distribution")}
    selection = expert.metrics["selection"]["deterministic" if cfg.expert.deterministic else "sampled"]
    learning_curve(fitted.rows, figures["learning_curve"], expert_return=selection["return_mean"], title=run.path.name)
    return_distribution(
        {name: episodes.returns for name, episodes in flights.items()},
        figures["return_distribution"],
        success_return=spec.success_return,
        title=f"{run.path.name}: {cfg.evaluation.n_episodes} test episodes",
    )
    video = None
    if cfg.evaluation.video:
        middle = int(np.argsort(flights["student"].returns)[len(flights["student"]) // 2])  # neither best nor worst
        frames = side_by_side(spec, {name: (flights[name], middle) for name in ("student", "expert")})
        video = run.path / "landing.mp4"
        write_mp4(frames, video)
        write_animation(frames, run.path / "landing.gif")
    wandb_run = loggers.run_of(logger)
    loggers.publish_comparison(wandb_run, results, flights)
    loggers.publish(
        wandb_run,
        numbers={"selection/return_mean": results["selection_return_mean"]},
        figures=figures,
        videos={} if video is None else {"landing": video},
    )
    for made in fitted.imitation.rounds:
        wandb_artifacts.makes(wandb_run, rounds=made)
    wandb_artifacts.makes(wandb_run, model=wandb_artifacts.model_of(run.path, results))
