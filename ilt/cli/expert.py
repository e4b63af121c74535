"""Train an expert, or find it: `ilt expert expert=ppo`."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from ilt.cli.app import app
from ilt.config import check_config
from ilt.rollout.workers import n_processes

if TYPE_CHECKING:
    from ilt.envs.spec import EnvSpec
    from ilt.rollout.policies import Policy
    from ilt.tracking.store import Artifact, Store

log = logging.getLogger(__name__)

RANDOM = "random"
"""The policy that needs no training."""


def canonical_config_of(cfg: DictConfig, spec: "EnvSpec") -> dict[str, Any]:
    """All that decides an expert. Its gate does not: a trained expert is kept whatever it is worth."""
    observes = {"observes": "privileged"} if cfg.expert.observes == "privileged" else {}
    return {
        "env": spec.identity(),
        **observes,  # one that sees what a student sees has the name of before there was a choice
        "seeds": {block: list(spec.seed_blocks[block]) for block in ("demonstrations", "selection")},
        **{
            key: OmegaConf.to_object(cfg.expert[key]) if OmegaConf.is_config(cfg.expert[key]) else cfg.expert[key]
            for key in ("policy", "seed", "selection_episodes", "gate_episodes", "training")
        },
    }


def find_or_train(
    cfg: DictConfig, spec: "EnvSpec", store: "Store", on_score: Callable[[int, float], None] | None = None
) -> "Artifact":
    """The expert that this config describes, from the store or trained now, measured on selection seeds.

    Args:
        on_score: called after each scoring of a training, with the environment steps so far and the mean return.
    """

    def make(folder: Path) -> dict[str, Any]:
        training = None
        if cfg.expert.training is not None:
            log.info("training expert %s, which will be kept in %s", cfg.expert.name, store.root / "experts")
            training = _train(cfg, spec, folder, on_score)
        measured = {"selection": _measure(cfg, spec, folder), "training": training}
        shutil.rmtree(folder / "training", ignore_errors=True)  # not before everything that needs it is done
        return measured

    return store.find_or_make("experts", cfg.expert.name, canonical_config_of(cfg, spec), make)


def find(cfg: DictConfig, spec: "EnvSpec", store: "Store") -> "Artifact":
    """The same, but never trained: ValueError if it is not there."""
    expert = store.find("experts", cfg.expert.name, canonical_config_of(cfg, spec))
    if expert is None:
        raise ValueError(f"the run's expert ({cfg.expert.name}) is not in {store.root / 'experts'}; train it first")
    return expert


def load_policy(
    policy: str, spec: "EnvSpec", folder: Path, *, deterministic: bool, observes: str = "student"
) -> "Policy":
    """`random`, `heuristic`, or `actor`: the network in an expert's folder, and whether it is `privileged`."""
    from ilt.envs.heuristics import HEURISTICS
    from ilt.experts.actor import Actor
    from ilt.rollout.policies import ExpertPolicy, FunctionPolicy, RandomPolicy

    if policy == RANDOM:
        return RandomPolicy(spec.sizes()[1])
    if policy == "heuristic":
        heuristic = HEURISTICS.get(spec.heuristic or "")
        if heuristic is None:
            raise ValueError(f"env.heuristic must be one of {sorted(HEURISTICS)}, got {spec.heuristic}")
        return FunctionPolicy(heuristic)
    actor = Actor.load(folder / "actor.safetensors")
    return ExpertPolicy(actor, deterministic=deterministic, privileged=observes == "privileged")


def demonstrator(cfg: DictConfig, spec: "EnvSpec", expert: "Artifact") -> "Policy":
    """The expert as the config says that it demonstrates."""
    return load_policy(
        cfg.expert.policy,
        spec,
        expert.path,
        deterministic=cfg.expert.deterministic,
        observes=cfg.expert.observes,
    )


def _train(
    cfg: DictConfig, spec: "EnvSpec", folder: Path, on_score: Callable[[int, float], None] | None
) -> dict[str, Any]:
    """Leave the best actor in `folder` and return how the training went."""
    from ilt.rollout.policies import ExpertPolicy
    from ilt.rollout.run import rollout
    from ilt.tracking.progress import Progress

    seeds = spec.seeds("selection", cfg.expert.selection_episodes)
    privileged = cfg.expert.observes == "privileged"

    def score(actor: Any) -> float:
        policy = ExpertPolicy(actor, deterministic=True, privileged=privileged)
        return float(rollout(spec, policy, seeds, n_envs=cfg.n_envs, n_processes=n_processes(cfg)).returns.mean())

    with Progress(f"expert {cfg.expert.name}", total=cfg.expert.training.total_steps, unit="steps") as progress:

        def report(steps: int, return_mean: float | None) -> None:
            progress.update(steps, note=None if return_mean is None else f"return {return_mean:.1f}")
            if on_score is not None and return_mean is not None:
                on_score(steps, return_mean)

        training = hydra.utils.instantiate(
            cfg.expert.training,
            spec,
            privileged=privileged,
            seed=cfg.expert.seed,
            folder=folder / "training",
            score=score,
            report=report,
        )
    shutil.copy(training.best_path, folder / "actor.safetensors")
    shutil.copy(folder / "training" / "history.json", folder / "history.json")
    return training.summary(spec.success_return)


def _measure(cfg: DictConfig, spec: "EnvSpec", folder: Path) -> dict[str, Any]:
    """Metrics on selection seeds that no checkpoint was picked by: flown deterministically and sampled."""
    from ilt.rollout.metrics import episode_metrics
    from ilt.rollout.run import rollout

    seeds = spec.seeds("selection", cfg.expert.gate_episodes, offset=cfg.expert.selection_episodes)
    measured = {}
    for name, deterministic in (("deterministic", True), ("sampled", False)):
        policy = load_policy(cfg.expert.policy, spec, folder, deterministic=deterministic, observes=cfg.expert.observes)
        flown = rollout(spec, policy, seeds, n_envs=cfg.n_envs, n_processes=n_processes(cfg))
        measured[name] = episode_metrics(flown, spec)
    return {**measured, "seeds": [int(seeds[0]), len(seeds)]}


@app("expert")
def main(cfg: DictConfig) -> float:
    """Train or find the expert, print what it is worth, and return its mean return on selection seeds."""
    check_config(cfg)
    from ilt.tracking import loggers, wandb_artifacts
    from ilt.tracking.store import read_json
    from ilt.training.runtime import prepare

    spec, store = prepare(cfg)
    name = f"{cfg.expert.name}-s{cfg.expert.seed}"
    with loggers.open_run(cfg, "expert", name=name, folder=store.root) as run:
        curve = loggers.ExpertCurve(run)
        expert = find_or_train(cfg, spec, store, curve.add)
        if expert.file("history.json").exists():
            curve.fill(read_json(expert.file("history.json")))
        measured = expert.metrics["selection"]
        numbers = {
            f"{manner}/{key}": value
            for manner in ("deterministic", "sampled")
            for key, value in measured[manner].items()
        }
        loggers.publish(run, numbers=numbers)
        wandb_artifacts.makes(run, expert=expert)
    for manner in ("deterministic", "sampled"):
        numbers = {name: round(value, 3) for name, value in measured[manner].items()}
        log.info("%s: %s", manner, numbers)
    if expert.metrics["training"]:
        log.info("training: %s", expert.metrics["training"])
    log.info("%s", expert.path)
    return float(measured["deterministic" if cfg.expert.deterministic else "sampled"]["return_mean"])
