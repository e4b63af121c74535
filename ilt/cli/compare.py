"""Fly several policies on the same seeds: `ilt compare +policies.student=outputs/runs/NAME`."""

import logging
import re
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ilt.cli.app import app
from ilt.cli.expert import RANDOM
from ilt.config import ConfigError, check_config, config_hash, parse_seeds, parse_subset, run_config
from ilt.rollout.workers import start_early

if TYPE_CHECKING:
    import numpy as np

    from ilt.data.episodes import Episodes
    from ilt.envs.spec import EnvSpec
    from ilt.tracking.store import Artifact, Store

log = logging.getLogger(__name__)

IMAGES = 120
"""Pictures in an animation, at most: a long flight has fewer a second, so that it is not too large for a page."""


def check_names(cfg: DictConfig) -> tuple[str, dict[str, tuple[str, float, float]]]:
    """The reference's name, and fact and quantiles of each subset. ConfigError if a key names what there is not."""
    names = [*map(str, cfg.policies), RANDOM]
    reference = cfg.reference or names[0]
    for key, wanted in {"reference": [reference], "video": cfg.video or []}.items():
        for name in wanted:
            if name not in names:
                raise ConfigError(f"{key} must name one of policies = {names}, got {name}")
    if cfg.policies.get(RANDOM, RANDOM) != RANDOM:
        raise ConfigError(f"policies.{RANDOM} must be {RANDOM}, which always flies along, got {cfg.policies[RANDOM]}")
    return reference, {str(name): parse_subset(f"subsets.{name}", text) for name, text in cfg.subsets.items()}


def runs_of(key: str, where: str) -> list[str]:
    """What a policy consists of: itself, or all runs whose folders a pattern matches.

    ConfigError if there are none, or if they differ in more than their training seed. Folders that were set aside when
    a run began afresh (`NAME.1`) are passed over.
    """
    from ilt.tracking.run_folder import read_config

    if "*" not in where:
        return [where]
    matched = {path.rpartition("/")[0] for path in glob(f"{where}/config.yaml")}
    runs = sorted(path for path in matched if re.sub(r"\.\d+$", "", path) not in matched - {path})
    if not runs:
        raise ConfigError(f"{key} must match the folder of at least one run, got {where}")
    configs = {path: run_config(OmegaConf.create(read_config(Path(path), key=key))) for path in runs}
    settings = {config_hash({**config, "seed": None}): path for path, config in configs.items()}
    if len(settings) > 1:
        examples = " and ".join(sorted(settings.values()))
        raise ConfigError(f"{key} must match runs that differ in nothing but their seed, but {examples} differ in more")
    return runs


def fly_policies(cfg: DictConfig, spec: "EnvSpec", store: "Store") -> dict[str, list["Artifact"]]:
    """The flights of each policy's runs and of the random one on the config's seeds, from the store or flown now.

    All policies are read, and refused where they do not fit, before the first one flies.
    """
    from ilt.cli.collect import keep_flight
    from ilt.evaluation.saved_policies import read_policy

    block, offset, count = parse_seeds(cfg.seeds, spec.seed_blocks)
    seeds = spec.seeds(block, count, offset)
    policies = {
        str(name): [
            read_policy(f"policies.{name}", run, spec, store, deterministic=cfg.deterministic)
            for run in runs_of(f"policies.{name}", where)
        ]
        for name, where in {**cfg.policies, RANDOM: RANDOM}.items()
    }
    return {
        name: [
            keep_flight(
                cfg,
                spec,
                store,
                seeds,
                run.policy,
                name=run.name,
                identity=run.identity,
                deterministic=run.deterministic,
                parents=run.parents,
            )
            for run in runs
        ]
        for name, runs in policies.items()
    }


def find_or_compare(
    cfg: DictConfig, spec: "EnvSpec", store: "Store", flights: Mapping[str, list["Artifact"]]
) -> "Artifact":
    """`comparison.json`, `.csv`, `.md` and `.png` over these flights, and a video if one is asked for."""
    from ilt.analysis.comparison_figure import comparison_figure
    from ilt.data.episodes import Episodes
    from ilt.evaluation.comparison import ALL, compare_policies, headings, median_run, write_comparison

    reference, subsets = check_names(cfg)
    canonical_config = {
        "env": {**spec.identity(), "success_return": spec.success_return, "crash_reward": spec.crash_reward},
        "flights": [[name, [run.name for run in runs]] for name, runs in flights.items()],
        "reference": reference,
        "subsets": {name: list(rule) for name, rule in subsets.items()},
        "video": list(cfg.video or []),
    }

    def load(run: "Artifact") -> Episodes:
        return Episodes.load(run.file("episodes.npz"))

    def make(folder: Path) -> dict[str, Any]:
        one_by_one = ((name, map(load, runs)) for name, runs in flights.items())  # together they may be gigabytes
        metrics, returns = compare_policies(one_by_one, subsets, spec, reference=reference, random=RANDOM)
        video = None
        if cfg.video:
            shown = {name: median_run(returns[name]) for name in cfg.video}
            runs = {name: (load(flights[name][run]), returns[name][run]) for name, run in shown.items()}
            video = film(spec, runs, folder)
        block, offset, count = parse_seeds(cfg.seeds, spec.seed_blocks)
        comparison = {
            "name": cfg.name,
            **canonical_config,
            "seeds": {"block": block, "offset": offset, "count": count},
            "deterministic": cfg.deterministic,
            "metrics": metrics,
            "video": video,
        }
        write_comparison(folder, comparison)
        title = headings(comparison)[ALL]
        comparison_figure(metrics, folder / "comparison.png", reference=reference, random=RANDOM, title=title)
        return {"return_mean": {name: float(values.mean()) for name, values in returns.items()}}

    return store.find_or_make(
        "comparisons", cfg.name, canonical_config, make, parents=[run for runs in flights.values() for run in runs]
    )


def film(spec: "EnvSpec", shown: Mapping[str, tuple["Episodes", "np.ndarray"]], folder: Path) -> dict[str, Any]:
    """Show the episode that is most like every policy's median one, side by side, in `flight.mp4` and `flight.gif`.

    Args:
        shown: a flight and its returns (E,) of each policy; of one that is several runs, its median run's.

    Returns:
        which episode it is, and each policy's return in it.
    """
    from ilt.analysis.video import side_by_side, write_animation, write_mp4
    from ilt.evaluation.comparison import typical_episode

    episode = typical_episode({name: returns for name, (_, returns) in shown.items()})
    flights = {name: (flight, episode) for name, (flight, _) in shown.items()}
    frames = side_by_side(spec, flights)
    write_mp4(frames, folder / "flight.mp4")
    write_animation(frames, folder / "flight.gif", every=max(4, -(-len(frames) // IMAGES)), width=400 * len(flights))
    return {
        "seed": int(next(iter(flights.values()))[0].seeds[episode]),
        "chosen": "most like every policy's median episode, by the ranks of returns",
        "returns": {name: float(returns[episode]) for name, (_, returns) in shown.items()},
    }


def show(comparison: "Artifact") -> None:
    """Print a comparison's tables, and where they are."""
    from ilt.evaluation.comparison import columns, headings, rows
    from ilt.evaluation.tables import print_table
    from ilt.tracking.store import read_json

    content = read_json(comparison.file("comparison.json"))
    for subset, title in headings(content).items():
        print_table(title, columns(content["reference"]), rows(content["metrics"][subset], content["reference"]))
    if content["video"] is not None:
        log.info("the video shows seed %d: %s", content["video"]["seed"], content["video"]["chosen"])
    log.info("%s", comparison.path)


@app("compare")
def main(cfg: DictConfig) -> float:
    """Compare policies, print and keep the tables, and return the first policy's mean return."""
    check_config(cfg)
    _, subsets = check_names(cfg)
    parse_seeds(cfg.seeds, cfg.env.seed_blocks)
    start_early(cfg)
    from ilt.training.runtime import prepare

    spec, store = prepare(cfg)
    for name, (fact, *_) in subsets.items():
        if fact not in spec.drawn():
            raise ConfigError(f"subsets.{name} must begin with one of {spec.drawn()}, which env draws, got {fact}")
    comparison = find_or_compare(cfg, spec, store, fly_policies(cfg, spec, store))
    show(comparison)
    return float(comparison.metrics["return_mean"][str(next(iter(cfg.policies)))])
