"""Collect demonstrations, or find them: `ilt collect expert=ppo`."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from ilt.cli.app import app
from ilt.config import check_config
from ilt.rollout.workers import n_processes, start_early

if TYPE_CHECKING:
    from ilt.data.episodes import Episodes
    from ilt.envs.spec import EnvSpec
    from ilt.rollout.policies import Policy
    from ilt.tracking.store import Artifact, Store

log = logging.getLogger(__name__)


def find_or_collect(cfg: DictConfig, spec: "EnvSpec", store: "Store", expert: "Artifact") -> "Artifact":
    """Demonstrations of an expert that passes its gate: `demonstrations.npz`, and `validation.npz` from other seeds."""
    from ilt.experts.gate import check_gate

    check_gate(expert, gate=cfg.expert.gate, deterministic=cfg.expert.deterministic)
    seeds = {
        "demonstrations": spec.seeds("demonstrations", cfg.demos.n_episodes),
        "validation": spec.seeds("validation", cfg.demos.n_validation_episodes),
    }
    canonical_config = {
        "env": spec.identity(),
        "expert": expert.name,
        "deterministic": cfg.expert.deterministic,
        "seeds": {block: [int(block_seeds[0]), len(block_seeds)] for block, block_seeds in seeds.items()},
        "filters": OmegaConf.to_object(cfg.demos.filters),
    }

    def make(folder: Path) -> dict[str, Any]:
        from ilt.cli.expert import demonstrator

        policy = demonstrator(cfg, spec, expert)
        measured = {}
        for block, block_seeds in seeds.items():
            flown, measured[block] = fly(cfg, spec, policy, block_seeds, title=block)
            kept, dropped = filter_episodes(flown, **cfg.demos.filters)
            if len(kept) == 0:
                raise ValueError(f"demos.filters drop every one of the {len(flown)} {block} episodes: {dropped}")
            kept.save(folder / f"{block}.npz")
            measured[block] |= {"kept": len(kept), "dropped": dropped}
        return measured

    return store.find_or_make("demos", cfg.expert.name, canonical_config, make, parents=[expert])


def find_or_fly(
    cfg: DictConfig, spec: "EnvSpec", store: "Store", seeds: np.ndarray, expert: "Artifact | None"
) -> "Artifact":
    """A policy to compare with, flown on these seeds: the expert as it demonstrates, or for None the random policy.

    Its `episodes.npz` is made once and shared by all runs.
    """
    from ilt.cli.expert import RANDOM, demonstrator, load_policy

    if expert is None:
        policy = load_policy(RANDOM, spec, store.root, deterministic=False)
        return keep_flight(cfg, spec, store, seeds, policy, name=RANDOM, identity=RANDOM, deterministic=False)
    return keep_flight(
        cfg,
        spec,
        store,
        seeds,
        demonstrator(cfg, spec, expert),
        name=cfg.expert.name,
        identity=expert.name,
        deterministic=cfg.expert.deterministic,
        parents=[expert],
    )


def keep_flight(
    cfg: DictConfig,
    spec: "EnvSpec",
    store: "Store",
    seeds: np.ndarray,
    policy: "Policy",
    *,
    name: str,
    identity: Any,
    deterministic: bool,
    parents: "Sequence[Artifact]" = (),
) -> "Artifact":
    """A policy's flight on these consecutive seeds, from the store or flown now: `episodes.npz`.

    Args:
        name: what its folder is called, before the hash.
        identity: what decides the policy's actions, beside `deterministic`.
        parents: the artifacts that the policy comes from.
    """
    canonical_config = {
        "env": spec.identity(),
        "policy": identity,
        "deterministic": deterministic,
        "seeds": [int(seeds[0]), len(seeds)],
    }

    def make(folder: Path) -> dict[str, Any]:
        episodes, measured = fly(cfg, spec, policy, seeds, title=f"{name} on {spec.block_of(seeds)} seeds")
        episodes.save(folder / "episodes.npz")
        return measured

    return store.find_or_make("references", name, canonical_config, make, parents=parents)


def fly(
    cfg: DictConfig, spec: "EnvSpec", policy: "Policy", seeds: np.ndarray, *, title: str
) -> tuple["Episodes", dict[str, Any]]:
    """Fly a policy under a progress display; the episodes, and their metrics with seconds and steps per second."""
    from ilt.rollout.metrics import episode_metrics
    from ilt.rollout.run import rollout
    from ilt.tracking.progress import Progress

    returns: list[float] = []
    started = time.monotonic()
    with Progress(title, total=len(seeds), unit="episodes") as progress:

        def on_episode(episode_return: float) -> None:
            returns.append(episode_return)
            progress.update(len(returns))

        episodes = rollout(spec, policy, seeds, n_envs=cfg.n_envs, n_processes=n_processes(cfg), on_episode=on_episode)
    seconds = time.monotonic() - started
    n_steps = len(episodes.actions)
    measured = {
        "flown": len(episodes),
        **episode_metrics(episodes, spec),
        "steps": n_steps,
        "seconds": round(seconds, 2),
        "steps_per_second": round(n_steps / seconds),
    }
    log.info("%s: %d episodes, return %.1f", title, len(episodes), measured["return_mean"])
    return episodes, measured


def filter_episodes(
    episodes: "Episodes", *, min_return: float | None, drop_truncated: bool
) -> tuple["Episodes", dict[str, int]]:
    """The episodes that every filter lets through, and how many each one dropped (an episode counts for each)."""
    low = episodes.returns < (-np.inf if min_return is None else min_return)
    cut = episodes.truncated & drop_truncated
    return episodes.select(~(low | cut)), {"min_return": int(low.sum()), "drop_truncated": int(cut.sum())}


@app("collect")
def main(cfg: DictConfig) -> float:
    """Collect or find the demonstrations, print what they are, and return their mean return."""
    check_config(cfg)
    start_early(cfg)
    from ilt.cli.expert import find_or_train
    from ilt.data.episodes import Episodes
    from ilt.evaluation.tables import demonstration_rows
    from ilt.tracking import loggers, wandb_artifacts
    from ilt.training.runtime import prepare

    spec, store = prepare(cfg)
    name = f"{cfg.expert.name}-{cfg.demos.n_episodes}-episodes"
    with loggers.open_run(cfg, "collect", name=name, folder=store.root) as run:
        expert = find_or_train(cfg, spec, store)
        wandb_artifacts.uses(run, expert=expert)
        demos = find_or_collect(cfg, spec, store, expert)
        wandb_artifacts.makes(run, demonstrations=demos)
        loggers.publish(
            run,
            numbers={f"{block}/{key}": value for block in demos.metrics for key, value in demos.metrics[block].items()},
            tables={"demonstrations": demonstration_rows(Episodes.load(demos.file("demonstrations.npz")))},
        )
    for block, numbers in demos.metrics.items():
        log.info("%s: %s", block, numbers)
    log.info("%s", demos.path)
    return float(demos.metrics["demonstrations"]["return_mean"])
