"""Compare policies on the same seeds, and keep the tables, the figure and the video as one artifact."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ilt.analysis.comparison_figure import comparison_figure
from ilt.analysis.video import side_by_side, write_animation, write_mp4
from ilt.data.episodes import Episodes
from ilt.evaluation.comparison import compare_policies, median_run, typical_episode, write_comparison
from ilt.evaluation.figure_style import write
from ilt.evaluation.policy_files import runs_of
from ilt.evaluation.saved_policies import read_policy
from ilt.rollout.recorded import RANDOM, Context, NamedPolicy
from ilt.tracking.store import Artifact

MAX_FRAMES = 120
"""Maximum number of frames in a GIF. Longer episodes get a lower frame rate, to limit the file size."""


def read_policies(
    ctx: Context, policies: Mapping[str, str], *, deterministic: bool, trust: Sequence[str] | None = ()
) -> dict[str, list[NamedPolicy]]:
    """Load each policy's runs, and the random policy. Raise ConfigError if one does not fit the environment."""
    return {
        name: [
            read_policy(f"policies.{name}", one, ctx, deterministic=deterministic, trust=trust)
            for one in runs_of(f"policies.{name}", where)
        ]
        for name, where in {**policies, RANDOM: RANDOM}.items()
    }


def find_or_compare(
    ctx: Context,
    rollouts: Mapping[str, list[Artifact]],
    *,
    name: str,
    reference: str,
    subsets: Mapping[str, tuple[str, float, float]],
    video: Sequence[str],
    seeds: Mapping[str, Any],
    deterministic: bool,
) -> Artifact:
    """Find or make the comparison of these rollouts: `comparison.json`, `.csv`, `.md` and `.png`, and a video.

    Args:
        rollouts: artifacts with `episodes.npz`, one per run, by policy; all have the same seeds.
        name: the artifact's name without the hash.
        reference: the policy that the others are compared with.
        subsets: parameter and quantiles, by name; see `subset_masks`.
        video: names of the policies to show side by side; empty for no video.
        seeds: `block`, `offset` and `count`.
    """
    env = ctx.env
    rules = {"success_return": env.success_return, "crash_reward": env.crash_reward}
    canonical_config = {
        "env": {**env.identity(), **rules},
        "rollouts": [[policy, [run.name for run in runs]] for policy, runs in rollouts.items()],
        "reference": reference,
        "subsets": {subset: list(rule) for subset, rule in subsets.items()},
        "video": list(video),
    }

    def load(run: Artifact) -> Episodes:
        return Episodes.load(run.file("episodes.npz"))

    def make(folder: Path) -> dict[str, Any]:
        one_by_one = ((policy, map(load, runs)) for policy, runs in rollouts.items())  # all at once may take gigabytes
        metrics, returns = compare_policies(one_by_one, subsets, env, reference=reference, random=RANDOM)
        shown = {policy: median_run(returns[policy]) for policy in video}
        filmed = {policy: (load(rollouts[policy][run]), returns[policy][run]) for policy, run in shown.items()}
        comparison = {
            "name": name,
            **canonical_config,
            "seeds": dict(seeds),
            "deterministic": deterministic,
            "metrics": metrics,
            "video": film(ctx, filmed, folder) if filmed else None,
        }
        write_comparison(folder, comparison)
        write(partial(comparison_figure, comparison), folder / "comparison.png")
        return {"return_mean": {policy: float(values.mean()) for policy, values in returns.items()}}

    parents = [run for runs in rollouts.values() for run in runs]
    return ctx.store.find_or_make("comparisons", name, canonical_config, make, parents=parents)


def film(ctx: Context, shown: Mapping[str, tuple[Episodes, np.ndarray]], folder: Path) -> dict[str, Any]:
    """Write `episode.mp4` and `episode.gif`, which show the policies side by side in the `typical_episode`.

    Args:
        shown: episodes and their returns (E,), by policy; from the median run if a policy has several.

    Returns:
        The episode's seed, how it was chosen, and each policy's return in it.
    """
    episode = typical_episode({name: returns for name, (_, returns) in shown.items()})
    video = side_by_side(ctx.env, {name: (episodes, episode) for name, (episodes, _) in shown.items()})
    write_mp4(video, folder / "episode.mp4")
    write_animation(video, folder / "episode.gif", width=400 * len(shown), most=MAX_FRAMES)
    return {
        "seed": int(next(iter(shown.values()))[0].seeds[episode]),
        "chosen": "closest to every policy's median episode, by rank of return",
        "returns": {name: float(returns[episode]) for name, (_, returns) in shown.items()},
    }
