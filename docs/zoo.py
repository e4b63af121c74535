"""Score the shipped experts on test seeds: `python docs/zoo.py [NAME …]` writes `outputs/reference/zoo.json`.

Each expert acts deterministically in 1,000 test episodes, in MuJoCo's simulators in 100. Its video shows the first
seconds of the episode with the median return. MuJoCo renders without a display if `MUJOCO_GL` is `egl` or `osmesa`.
"""

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from omegaconf import OmegaConf
from reference import SCORES, VIDEOS

from ilt.analysis.video import NoVideoError, Video, side_by_side, write_mp4
from ilt.envs.spec import EnvSpec
from ilt.evaluation.statistics import summarize
from ilt.experts.base import make_expert
from ilt.registry import load_option, options_of
from ilt.rollout.recorded import Context, random_policy
from ilt.rollout.workers import cores
from ilt.tracking.reading import read_json
from ilt.tracking.store import SHIPPED, Store, open_artifact, provenance, write_json

SECONDS = 10
"""Length of the videos."""

log = logging.getLogger("zoo")


def env_options() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the options of `conf/env` that name an environment, with their values."""
    for option in options_of("env"):
        values = load_option("env", option)
        if not option.endswith("_keys") and values.get("id", "???") != "???":
            yield option, values


def env_option(manifest: dict[str, Any]) -> str:
    """Return the option of `conf/env` that an expert was trained in."""
    there = manifest["env"]
    return next(
        option
        for option, values in env_options()
        if (values["id"], values.get("kwargs", {}), values.get("wrappers", {}))
        == (there["id"], there["kwargs"], there["wrappers"])
    )


def n_episodes(spec: EnvSpec) -> int:
    """Return the number of test episodes."""
    return 100 if str(gym.spec(spec.id).entry_point).startswith("gymnasium.envs.mujoco") else 1000


def score(folder: Path) -> dict[str, Any]:
    """Score a shipped expert, and write its video. Return its entry in `zoo.json`."""
    artifact = open_artifact(folder)
    option, config = env_option(artifact.manifest), OmegaConf.create(artifact.manifest["expert"])
    spec = EnvSpec.from_config(OmegaConf.create(load_option("env", option)))
    privileged = bool(config.privileged)
    policy = make_expert(config).policy(spec, artifact.path, privileged=privileged, deterministic=True)
    ctx = Context(spec, Store(SCORES.parent.parent), n_processes=cores())
    seeds = spec.seeds("test", n_episodes(spec))
    started = time.monotonic()
    episodes = ctx.quiet_rollout(policy, seeds)
    chance = ctx.quiet_rollout(random_policy(spec).policy, seeds)
    entry = {"env": option, **summarize(episodes, spec), "random_return_mean": float(chance.returns.mean())}
    log.info("%s, %s: %.1f in %.0f s", folder.name, option, entry["return_mean"], time.monotonic() - started)
    middle = int(np.argsort(episodes.returns)[len(episodes) // 2])
    try:
        whole = side_by_side(spec, {artifact.manifest["expert"]["name"]: (episodes, middle)})
        VIDEOS.mkdir(parents=True, exist_ok=True)
        write_mp4(Video(whole.frames[: round(SECONDS * whole.fps)], whole.fps), VIDEOS / f"{folder.name}.mp4")
    except NoVideoError as error:
        log.warning("no video: %s", error)
    return entry


def main(names: list[str]) -> None:
    """Score the named experts, or all of them."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folders = sorted(path.parent for path in SHIPPED["experts"].glob("*/manifest.json"))
    scores = read_json(SCORES)["experts"] if SCORES.is_file() else {}
    for folder in folders:
        if not names or folder.name in names:
            scores[folder.name] = score(folder)
            kept = {each.name: scores[each.name] for each in folders if each.name in scores}
            write_json(SCORES, {"experts": kept, **provenance()})


if __name__ == "__main__":
    main(sys.argv[1:])
