"""The whole pipeline: expert → demonstrations → windows → model → rollouts → results."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from ilt.data.episodes import Episodes
from ilt.data.sources import env_of
from ilt.evaluation.card import card_of
from ilt.evaluation.scoring import score
from ilt.evaluation.tables import log_comparison
from ilt.evaluation.tables import show as show
from ilt.experts.find import LoadedExpert, find_or_collect, find_or_load
from ilt.rollout.recorded import Context
from ilt.rollout.workers import n_processes
from ilt.tracking.loggers import Run
from ilt.tracking.records import read_run
from ilt.tracking.run_folder import CARD, RunFolder, shown
from ilt.tracking.store import Artifact, Store, open_artifact, write_text
from ilt.tracking.wandb import model_of
from ilt.training.fit import Fitted, check_components, fit
from ilt.training.runtime import check_devices, set_up

log = logging.getLogger(__name__)


def prepare(cfg: Any, env: Any = None, *, trust: Sequence[str] | None = None) -> Context:
    """Set up threads and memory, and return the environment and the store that a config names.

    With `env=none`, the spaces are those of the recordings that `cfg.demos` names.

    Raise ConfigError if the environment cannot be made or its spaces are not supported.

    Args:
        env: an `env` config to use instead of `cfg.env`.
        trust: packages besides `ilt` whose code may be run, if the config is not your own; None for all.
    """
    set_up(cfg.threads)
    spec = env_of(cfg.env if env is None else env, cfg.get("demos"), trust=trust)
    _ = spec.action_space  # makes one environment
    return Context(spec, Store(Path(cfg.outputs)), n_envs=cfg.n_envs, n_processes=n_processes(cfg))


def run(
    ctx: Context,
    cfg: DictConfig,
    folder: RunFolder,
    logger: Run,
    *,
    report: Callable[[float, int], bool] | None = None,
    in_trial: bool = False,
) -> dict[str, Any] | None:
    """Run every stage from the expert to a scored student, and reuse finished stages. Call `check` first.

    Args:
        cfg: a complete config of `ilt train`.
        logger: the job's run in a logger.
        report: takes a selection-seed return and a step, and returns whether to stop; see `Pruning`.
        in_trial: whether this is part of a search, so that test seeds stay unused.

    Returns:
        the content of `results.json`; in a trial, only the selection-seed return; None if the run was pruned.
    """
    with folder.stage("expert"):
        expert = find_or_load(ctx, cfg.expert)
        log.info("expert: %s", "none" if expert is None or expert.artifact is None else shown(expert.artifact.path))
    with folder.stage("demonstrations"):
        demos = find_or_collect(ctx, cfg.demos, cfg.expert, expert)
        log.info("demonstrations: %s", shown(demos.path))
    return train_and_score(ctx, cfg, folder, expert, demos, logger, report=report, in_trial=in_trial)


def check(ctx: Context, cfg: DictConfig) -> None:
    """Raise ConfigError, naming the key, if this machine or the environment does not support the config."""
    check_devices(cfg.trainer, cfg.dataset.batch_size)
    check_components(ctx, cfg)


def train_and_score(
    ctx: Context,
    cfg: DictConfig,
    folder: RunFolder,
    expert: LoadedExpert | None,
    demos: Artifact,
    logger: Run,
    *,
    report: Callable[[float, int], bool] | None = None,
    in_trial: bool = False,
) -> dict[str, Any] | None:
    """Run the stages after the demonstrations; see `run`."""
    own = {} if expert is None or expert.artifact is None else {"expert": expert.artifact}
    logger.use_artifacts(demonstrations=demos, **own)
    with folder.stage("training"):
        fitted = Fitted.read(folder.path) or fit(ctx, cfg, folder, demos, expert, logger.lightning, report=report)
    if fitted is None:
        return None
    if in_trial:
        return {"selection_return_mean": fitted.at(cfg.evaluation.reported_checkpoint)["rollout/return_mean"]}
    with folder.stage("scoring"):
        results, episodes = score(ctx, cfg, folder, expert, demos, fitted)
    folder.finish(results)  # before figures, so that nothing is lost if one fails
    with folder.stage("figures"):
        make_figures(ctx, cfg, folder, fitted, results, episodes, logger)
        card = card_of(folder.path, folder.identity, demos)
        write_text(folder.path / CARD, card)
        logger.describe(card)
    folder.finish(results)  # with the seconds of this stage, which mark the run as finished
    return results


def make_figures(
    ctx: Context,
    cfg: DictConfig,
    folder: RunFolder,
    fitted: Fitted,
    results: dict[str, Any],
    episodes: Mapping[str, Episodes],
    logger: Run,
) -> None:
    """Write figures and a video to the run's folder and its logger. Log a warning for each that fails."""
    path, made, videos = folder.path, {}, {}

    def plots() -> None:
        from ilt.analysis.figures import figures_of_run
        from ilt.evaluation.figure_style import write

        for name, draw in figures_of_run(read_run(path.name, path, folder.config)).items():
            write(draw, path / f"{name}.png")
            made[name] = path / f"{name}.png"

    def video() -> None:
        from ilt.analysis.video import side_by_side, write_animation, write_mp4

        middle = int(np.argsort(episodes["student"].returns)[cfg.evaluation.n_episodes // 2])  # neither best nor worst
        film = side_by_side(ctx.env, {n: (episodes[n], middle) for n in ("student", "expert") if n in episodes})
        write_mp4(film, path / "episode.mp4")
        write_animation(film, path / "episode.gif")
        videos["episode"] = path / "episode.mp4"

    for make in (plots, *([video] if cfg.evaluation.video and ctx.env.simulated else [])):
        try:
            make()
        except Exception as error:
            log.warning("no figure (%s): %s", make.__name__, str(error).rstrip(": ") or type(error).__name__)
    if ctx.env.simulated:
        log_comparison(logger, results, episodes)
        logger.summarize({"selection/return_mean": results["selection_return_mean"]})
    logger.log_figures(made)
    logger.log_videos(videos)
    for each in fitted.imitation["by_round"][1:]:
        logger.log_artifacts(rounds=open_artifact(ctx.store.root / "rounds" / each["artifact"]))
    logger.log_artifacts(model=model_of(folder.path, results))
