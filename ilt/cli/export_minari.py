"""Write demonstrations as a Minari data set: `ilt export-minari id=lander/expert-v0`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.machine import check_environment
from ilt.rollout.workers import start_early
from ilt.schema import ConfigError
from ilt.settings import check_config

if TYPE_CHECKING:
    from ilt.data.episodes import Episodes
    from ilt.rollout.recorded import Context
    from ilt.tracking.store import Artifact

log = logging.getLogger(__name__)


_FILE = "demonstrations.npz"


def _episodes_at(where: str) -> Path:
    """Return the path of a file or of a folder with demonstrations. Raise ConfigError if it is neither."""
    path = Path(where)
    if not path.is_file() and not (path / _FILE).is_file():
        raise ConfigError(f"episodes must be an .npz file or the folder of demonstrations, got {where}")
    return path


def find_episodes(cfg: DictConfig, ctx: "Context") -> "tuple[Episodes, Artifact | None]":
    """Return the demonstrations to export, and the expert that collected them, if it is known.

    Raise ConfigError if the episodes do not fit the environment, or if there is no expert to collect them.
    """
    from ilt.data.episodes import Episodes
    from ilt.data.sources import check_fits, check_source
    from ilt.experts.base import check_expert_config
    from ilt.experts.find import find_or_collect, find_or_load
    from ilt.tracking.store import MANIFEST, open_artifact

    if cfg.episodes is None:
        check_source(cfg.demos, cfg.expert, ctx.env)
        check_expert_config(cfg.expert, ctx.env)
        expert = find_or_load(ctx, cfg.expert)
        demos = find_or_collect(ctx, cfg.demos, cfg.expert, expert)
        collected = bool(demos.manifest["parents"])
        return Episodes.load(demos.file("demonstrations.npz")), expert.artifact if collected and expert else None
    path, expert_artifact = _episodes_at(cfg.episodes), None
    if (path / MANIFEST).is_file():
        manifest = open_artifact(path).manifest
        for name in manifest["parents"]:
            if (folder := ctx.store.root / "experts" / name).is_dir():
                expert_artifact = open_artifact(folder)
    episodes = Episodes.load(path / _FILE if path.is_dir() else path)
    check_fits(episodes, ctx.env, source=f"episodes={cfg.episodes}")
    return episodes, expert_artifact


def reference_scores(ctx: "Context", expert: "Artifact | None") -> dict[str, Any]:
    """Return mean returns of the random policy and the expert on the same selection seeds; none without an expert."""
    from ilt.rollout.recorded import random_policy

    if expert is None:
        return {}
    measured = expert.metrics["selection"]
    offset, count = measured["seeds"][0] - ctx.env.seed_blocks["selection"][0], measured["seeds"][1]
    random = ctx.find_or_rollout(random_policy(ctx.env), ctx.env.seeds("selection", count, offset))
    return {
        "ref_min_score": random.metrics["return_mean"],
        "ref_max_score": measured["deterministic"]["return_mean"],
        "num_episodes_average_score": count,
    }


@app("export-minari")
def main(cfg: DictConfig) -> str:
    """Export demonstrations, and return the folder of the data set."""
    check_config(cfg, "export-minari")
    from ilt.data.minari_export import check_new, write_dataset

    check_new(cfg.id, overwrite=cfg.overwrite)  # before an expert is trained
    if cfg.episodes is not None:
        _episodes_at(cfg.episodes)
    check_environment(cfg)
    start_early(cfg)
    from ilt.pipeline import prepare

    ctx = prepare(cfg)
    episodes, expert = find_episodes(cfg, ctx)
    about = {
        "author": None if cfg.author is None else {cfg.author},
        "author_email": None if cfg.author_email is None else {cfg.author_email},
        "code_permalink": cfg.code_permalink,
        "algorithm_name": cfg.algorithm_name or (expert and expert.name.rpartition("-")[0]),
        "description": cfg.description,
        **reference_scores(ctx, expert),
    }
    folder = write_dataset(episodes, ctx.env, cfg.id, about=about, overwrite=cfg.overwrite)
    log.info("%d episodes, %d steps, mean return %.1f", len(episodes), len(episodes.actions), episodes.returns.mean())
    if expert is not None:
        scores = about["ref_min_score"], about["ref_max_score"], about["num_episodes_average_score"]
        log.info("reference scores: random policy %.1f, expert %.1f (%d selection seeds)", *scores)
    log.info("%s", folder)
    log.info("next: ilt train env=… demos=minari demos.id=%s, or minari.load_dataset(%r) in Python", cfg.id, cfg.id)
    return str(folder)
