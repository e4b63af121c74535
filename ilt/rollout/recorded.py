"""Rollouts with a progress display, and rollouts that are stored as artifacts."""

import logging
import time
from collections.abc import Sequence
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
"""Name of the random policy, with which every policy is compared."""


@dataclass(frozen=True)
class Context:
    """The environment, store and rollout settings of every stage.

    Attributes:
        env: the environment.
        store: the artifact store.
        n_envs: active episodes in each process; no result depends on it.
        n_processes: processes that run rollouts; no result depends on it.
    """

    env: EnvSpec
    store: Store
    n_envs: int = 256
    n_processes: int = 1

    def rollout(self, policy: Policy, seeds: np.ndarray, *, title: str) -> tuple[Episodes, dict[str, Any]]:
        """Run a policy with a progress display; return the episodes, and their metrics with duration and speed."""
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

    def find_or_rollout(
        self,
        policy: Policy,
        seeds: np.ndarray,
        *,
        name: str,
        identity: Any,
        deterministic: bool,
        parents: Sequence[Artifact] = (),
    ) -> Artifact:
        """Return the artifact of a policy's episodes on these consecutive seeds, from the store or collected now.

        Args:
            name: name of its folder, before the hash.
            identity: what decides the policy's actions, besides `deterministic`.
            parents: the artifacts that the policy comes from.
        """
        canonical_config = {
            "env": self.env.identity(),
            "policy": identity,
            "deterministic": deterministic,
            "seeds": [int(seeds[0]), len(seeds)],
        }

        def make(folder: Path) -> dict[str, Any]:
            episodes, metrics = self.rollout(policy, seeds, title=f"{name} on {self.env.block_of(seeds)} seeds")
            episodes.save(folder / "episodes.npz")
            return metrics

        return self.store.find_or_make("rollouts", name, canonical_config, make, parents=parents)

    def random_rollout(self, seeds: np.ndarray) -> Artifact:
        """Return the artifact of the random policy's episodes on these seeds."""
        policy = RandomPolicy(self.env.action_space)
        return self.find_or_rollout(policy, seeds, name=RANDOM, identity=RANDOM, deterministic=False)
