"""Compare policies on the same seeds, and keep the tables, the figure and the video as one artifact."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ilt.analysis.comparison_figure import comparison_figure
from ilt.analysis.video import side_by_side, write_animation, write_mp4
from ilt.data.episodes import Episodes
from ilt.evaluation.comparison import compare_policies, decided, median_run, typical_episode, write_comparison
from ilt.evaluation.figure_style import write
from ilt.evaluation.policy_files import runs_of
from ilt.evaluation.saved_policies import read_policy
from ilt.evaluation.sequential import ERROR, Decision, decide_in_batches
from ilt.rollout.recorded import RANDOM, Context, NamedPolicy, StoredEpisodes
from ilt.tracking.store import Artifact

log = logging.getLogger(__name__)

VERSION = 2
"""Of what a comparison computes. Since 2, intervals of several runs cover episodes as well."""

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


def roll_out(
    ctx: Context, policies: Mapping[str, Sequence[NamedPolicy]], seeds: np.ndarray
) -> dict[str, list[StoredEpisodes]]:
    """Return the episodes of every run of every policy on consecutive seeds, from the store or collected now."""
    return {
        name: [StoredEpisodes((ctx.find_or_rollout(run, seeds),)) for run in runs] for name, runs in policies.items()
    }


def roll_out_until_decided(
    ctx: Context,
    policies: Mapping[str, Sequence[NamedPolicy]],
    seeds: np.ndarray,
    *,
    compared: Sequence[str],
    reference: str,
    margin: float | None,
) -> tuple[dict[str, list[StoredEpisodes]], dict[str, Decision]]:
    """Roll out policies until it is decided how each compares with the reference; see `decide_in_batches`.

    Episodes are taken from the store if they are there, in batches or all at once.

    Args:
        policies: the runs of each policy, and of the random policy.
        seeds: (E,) consecutive seeds, at most all of which are used.
        compared: names of the policies to compare with the reference.
        margin: see `decide`.

    Returns:
        each run's episodes, and the decision about each compared policy.
    """
    growing = {name: [_Growing(ctx, run, seeds) for run in runs] for name, runs in policies.items()}

    def returns_of(name: str, n_episodes: int) -> np.ndarray:
        for run in growing[name]:
            run.grow(n_episodes)
        return np.stack([run.returns[:n_episodes] for run in growing[name]])

    lengths, decisions = decide_in_batches(
        returns_of,
        compared,
        reference=reference,
        random=RANDOM,
        most=len(seeds),
        margin=margin,
        report=lambda name, now: log.info("%s", now.sentence(name, reference, margin=margin, most=len(seeds))),
    )
    return {name: [run.stored(lengths[name]) for run in growing[name]] for name in policies}, decisions


class _Growing:
    """A run's episodes, which grow by batches. If they are stored as a whole, nothing is collected."""

    def __init__(self, ctx: Context, run: NamedPolicy, seeds: np.ndarray) -> None:
        self._ctx, self._run, self._seeds = ctx, run, seeds
        whole = ctx.find_rollout(run, seeds)
        self._artifacts = [] if whole is None else [whole]
        self.returns = np.zeros(0) if whole is None else self.stored(len(seeds)).load().returns

    def grow(self, n_episodes: int) -> None:
        """Find or collect the episodes that are missing until there are `n_episodes`, as one batch."""
        if len(self.returns) < n_episodes:
            batch = self._ctx.find_or_rollout(self._run, self._seeds[len(self.returns) : n_episodes])
            self._artifacts.append(batch)
            self.returns = np.append(self.returns, StoredEpisodes((batch,)).load().returns)

    def stored(self, n_episodes: int) -> StoredEpisodes:
        """Return the first episodes."""
        return StoredEpisodes(tuple(self._artifacts), n_episodes)


def find_or_compare(
    ctx: Context,
    rollouts: Mapping[str, list[StoredEpisodes]],
    *,
    name: str,
    reference: str,
    subsets: Mapping[str, tuple[str, float, float]],
    video: Sequence[str],
    seeds: Mapping[str, Any],
    deterministic: bool,
    margin: float | None = None,
    decisions: Mapping[str, Decision] | None = None,
) -> Artifact:
    """Find or make the comparison of these rollouts: `comparison.json`, `.csv`, `.md` and `.png`, and a video.

    Args:
        rollouts: the episodes of each run, by policy; all have the same seeds, or the first of those of the reference.
        name: the artifact's name without the hash.
        reference: the policy that the others are compared with.
        subsets: parameter and quantiles, by name; see `subset_masks`.
        video: names of the policies to show side by side; empty for no video.
        seeds: `block`, `offset` and `count`.
        margin: the margin of the decisions, or of non-inferiority if all seeds were evaluated.
        decisions: about the compared policies, from `roll_out_until_decided`; None if all seeds were evaluated.
    """
    env = ctx.env
    rules = {"success_return": env.success_return, "crash_reward": env.crash_reward}
    canonical_config = {
        "version": VERSION,
        "env": {**env.identity(), **rules},
        "rollouts": [[policy, [a.name for run in runs for a in run.artifacts]] for policy, runs in rollouts.items()],
        "reference": reference,
        "subsets": {subset: list(rule) for subset, rule in subsets.items()},
        "video": list(video),
    }
    if decisions is None and margin is not None:
        canonical_config["margin"] = margin
    if decisions is not None:
        canonical_config["until"] = {"margin": margin, "most_episodes": seeds["count"], "confidence": 1 - ERROR}

    def make(folder: Path) -> dict[str, Any]:
        order = [reference, *(policy for policy in rollouts if policy != reference)]
        one_by_one = ((policy, (run.load() for run in rollouts[policy])) for policy in order)  # all may take gigabytes
        metrics, returns = compare_policies(one_by_one, subsets, env, reference=reference, random=RANDOM)
        metrics = {subset: {policy: by_policy[policy] for policy in rollouts} for subset, by_policy in metrics.items()}
        shown = {policy: median_run(returns[policy]) for policy in video}
        filmed = {policy: (rollouts[policy][run].load(), returns[policy][run]) for policy, run in shown.items()}
        comparison = {
            "name": name,
            **canonical_config,
            "seeds": dict(seeds),
            "deterministic": deterministic,
            "metrics": metrics,
            "video": film(ctx, filmed, folder) if filmed else None,
        }
        if decisions is not None:
            comparison = decided(comparison, decisions)
        write_comparison(folder, comparison)
        write(partial(comparison_figure, comparison), folder / "comparison.png")
        return {"return_mean": {policy: float(returns[policy].mean()) for policy in rollouts}}

    parents = [artifact for runs in rollouts.values() for run in runs for artifact in run.artifacts]
    return ctx.store.find_or_make("comparisons", name, canonical_config, make, parents=parents)


def film(ctx: Context, shown: Mapping[str, tuple[Episodes, np.ndarray]], folder: Path) -> dict[str, Any]:
    """Write `episode.mp4` and `episode.gif`, which show the policies side by side in the `typical_episode`.

    Args:
        shown: episodes and their returns (E,), by policy; from the median run if a policy has several. Those of one
            policy may be the first of those of another.

    Returns:
        The episode's seed, how it was chosen, and each policy's return in it.
    """
    fewest = min(len(returns) for _, returns in shown.values())
    episode = typical_episode({name: returns[:fewest] for name, (_, returns) in shown.items()})
    video = side_by_side(ctx.env, {name: (episodes, episode) for name, (episodes, _) in shown.items()})
    write_mp4(video, folder / "episode.mp4")
    write_animation(video, folder / "episode.gif", width=400 * len(shown), most=MAX_FRAMES)
    return {
        "seed": int(next(iter(shown.values()))[0].seeds[episode]),
        "chosen": "closest to every policy's median episode, by rank of return",
        "returns": {name: float(returns[episode]) for name, (_, returns) in shown.items()},
    }
