"""Rollouts with a progress display, and rollouts stored as artifacts."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.rollout.metrics import episode_metrics
from ilt.rollout.policies import Policy, RandomPolicy
from ilt.rollout.run import rollout
from ilt.tracking.progress import Progress
from ilt.tracking.store import Artifact, Store

log = logging.getLogger(__name__)

RANDOM = "random"
"""Name of the random policy, which every policy is compared with."""


@dataclass(frozen=True)
class Context:
    """The environment, store and rollout settings of every stage.

    Attributes:
        env: the environment.
        store: the artifact store.
        n_envs: active episodes in each process; results depend on it only through the rounding of matrix products.
        n_processes: processes that run rollouts; the same holds for it.
    """

    env: EnvSpec
    store: Store
    n_envs: int = 64
    n_processes: int = 1

    def rollout(self, policy: Policy, seeds: np.ndarray, *, title: str) -> tuple[Episodes, dict[str, Any]]:
        """Run a policy with a progress display. Return the episodes, and their metrics with duration and speed."""
        returns: list[float] = []
        started = time.monotonic()
        with Progress(title, total=len(seeds), unit="episodes") as progress:

            def on_episode(episode_return: float) -> None:
                returns.append(episode_return)
                progress.update(len(returns))

            episodes = self.quiet_rollout(policy, seeds, on_episode=on_episode)
        seconds = time.monotonic() - started
        metrics = {
            "n_episodes": len(episodes),
            **episode_metrics(episodes, self.env),
            "steps": len(episodes.actions),
            "seconds": round(seconds, 2),
            "steps_per_second": round(len(episodes.actions) / seconds),
        }
        log.info("%s: %d episodes, return %.1f", title, len(episodes), metrics["return_mean"])
        return episodes, metrics

    def quiet_rollout(self, policy: Policy, seeds: np.ndarray, **options: Any) -> Episodes:
        """Run a policy without a display, and return its episodes; see `ilt.rollout.run.rollout`."""
        return rollout(self.env, policy, seeds, n_envs=self.n_envs, n_processes=self.n_processes, **options)

    def find_or_rollout(self, acting: "NamedPolicy", seeds: np.ndarray) -> Artifact:
        """Return the artifact of a policy's episodes on consecutive seeds, from the store or collected now."""

        def make(folder: Path) -> dict[str, Any]:
            title = f"{acting.name} on {self.env.block_of(seeds)} seeds"
            episodes, metrics = self.rollout(acting.policy, seeds, title=title)
            episodes.save(folder / "episodes.npz")
            return metrics

        config = self._rollout_config(acting, seeds)
        return self.store.find_or_make("rollouts", acting.name, config, make, parents=acting.parents)

    def find_rollout(self, acting: "NamedPolicy", seeds: np.ndarray) -> Artifact | None:
        """Return what `find_or_rollout` stored for these consecutive seeds, or None."""
        return self.store.find("rollouts", acting.name, self._rollout_config(acting, seeds))

    def _rollout_config(self, acting: "NamedPolicy", seeds: np.ndarray) -> dict[str, Any]:
        return {
            "env": self.env.identity(),
            "policy": acting.identity,
            "deterministic": acting.deterministic,
            "seeds": [int(seeds[0]), len(seeds)],
        }


@dataclass(frozen=True)
class StoredEpisodes:
    """The first episodes of stored rollouts.

    Attributes:
        artifacts: rollouts of one policy, each on the seeds that follow those of the one before.
        n_episodes: how many of their episodes to read; None for all.
    """

    artifacts: tuple[Artifact, ...]
    n_episodes: int | None = None

    def load(self) -> Episodes:
        """Read the episodes."""
        first, *others = (Episodes.load(artifact.file("episodes.npz")) for artifact in self.artifacts)
        episodes = Episodes.concatenate([first, *others]) if others else first
        return episodes if self.n_episodes is None else episodes.first(self.n_episodes)


@dataclass(frozen=True, kw_only=True)
class NamedPolicy:
    """A policy whose rollouts can be stored.

    Attributes:
        policy: the policy.
        name: name of its rollouts' folders, before the hash.
        identity: everything that determines its actions, besides `deterministic`.
        deterministic: whether it takes the most likely action instead of sampling.
        parents: the artifacts that it was loaded from.
    """

    policy: Policy
    name: str
    identity: Any
    deterministic: bool
    parents: tuple[Artifact, ...] = ()


def random_policy(env: EnvSpec) -> NamedPolicy:
    """Return the random policy of an environment."""
    return NamedPolicy(policy=RandomPolicy(env.action_space), name=RANDOM, identity=RANDOM, deterministic=False)
