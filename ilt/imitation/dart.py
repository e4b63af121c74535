"""DART: the expert acts with noise fitted to the student's errors (Laskey et al. 2017)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri

from ilt.envs.actions import ActionSpace
from ilt.imitation.base import Imitation, Round
from ilt.models.heads import sample_categorical
from ilt.models.inspection import deployed_batches
from ilt.rollout.policies import Policy
from ilt.rollout.sampling import MIXING, EpisodeRNG


class DART(Imitation):
    """In each round the expert acts with noise. The labels are its actions before the noise.

    The noise maximizes the likelihood of the student's actions on validation episodes. For choices it is the confusion
    matrix of student and expert; for numbers it is a Gaussian with the covariance of the student's errors.

    Laskey et al. 2017, ["DART: noise injection for robust imitation learning"](https://arxiv.org/abs/1703.09327).
    """

    def round_policy(self, round: Round) -> tuple[Policy, Mapping[str, Any]]:
        expected, chosen = _beside_the_expert(round)
        space = round.env.action_space
        if space.continuous:
            errors = (chosen - expected).astype(np.float64)
            covariance = errors.T @ errors / len(errors)
            policy: Policy = GaussianNoisePolicy(round.expert, space, covariance)
            return policy, {"covariance": covariance.round(6).tolist()}
        columns = zip(space.n_choices, np.atleast_2d(expected.T), np.atleast_2d(chosen.T), strict=True)
        tables = [confusion(e, c, n) for n, e, c in columns]
        metrics = {"confusion": [table.round(6).tolist() for table in tables]}
        return NoiseInjectionPolicy(round.expert, space, tables), metrics


class _Disturbed(Policy):
    """An expert with noise in its actions, drawn from the episode's seed.

    Attributes:
        labels: the expert's actions before the noise at the last call of `act`, in the simulator's units.
    """

    def __init__(self, expert: Policy, action_space: ActionSpace) -> None:
        self.privileged = expert.privileged
        self._expert, self._space, self._rng = expert, action_space, EpisodeRNG(MIXING)
        self.labels = action_space.zeros(0)

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._expert.reset(slots, seeds)
        self._rng.reset(slots, seeds)

    def observe_reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        self._expert.observe_reward(slots, rewards)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.labels = self._expert.act(slots, observations)
        actions = self._space.encode(self.labels)
        return self._space.decode(self._disturb(actions, self._rng.uniform(slots, self._space.dim)))

    def _disturb(self, actions: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class NoiseInjectionPolicy(_Disturbed):
    """Replaces choices at random.

    Args:
        confusion: (A, A) float64 for each choice; row `a` is the distribution of executed actions when the expert's
            action is `a`.
    """

    def __init__(self, expert: Policy, action_space: ActionSpace, confusion: list[np.ndarray]) -> None:
        super().__init__(expert, action_space)
        self._confusion = confusion

    def _disturb(self, actions: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        columns = zip(self._confusion, np.atleast_2d(actions.T), uniform.T, strict=True)
        executed = [sample_categorical(table[column], u) for table, column, u in columns]
        return executed[0] if self._space.flat else np.stack(executed, axis=1)


class GaussianNoisePolicy(_Disturbed):
    """Adds Gaussian noise to numbers.

    Args:
        covariance: (dim, dim) float64, in model units.
    """

    def __init__(self, expert: Policy, action_space: ActionSpace, covariance: np.ndarray) -> None:
        super().__init__(expert, action_space)
        values, vectors = np.linalg.eigh(covariance)
        self._root = vectors * np.sqrt(np.maximum(values, 0.0))

    def _disturb(self, actions: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        return actions + ndtri(np.clip(uniform, 1e-12, 1 - 1e-12)) @ self._root.T


def confusion(expected: np.ndarray, chosen: np.ndarray, n: int) -> np.ndarray:
    """Return the confusion matrix (n, n) float64, whose row a is P(student's action | expert's action a).

    If the expert never takes action a, its row is 1 at a and 0 elsewhere.

    Args:
        expected: (N,) int64, the expert's actions.
        chosen: (N,) int64, the student's actions; or (N, n) float64, their probabilities.
        n: number of actions.
    """
    rows = np.eye(n)[chosen] if chosen.ndim == 1 else chosen
    counts = np.zeros((n, n))
    np.add.at(counts, expected, rows)
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1e-12), np.eye(n))


@torch.no_grad()
def _beside_the_expert(round: Round) -> tuple[np.ndarray, np.ndarray]:
    """Return the expert's and the student's actions at every step of the validation episodes, in model units."""
    rng = np.random.default_rng(round.number)
    expected, chosen = [], []
    space, context_length = round.env.action_space, round.context_length
    for batch in deployed_batches(round.model, round.validation, action_space=space, context_length=context_length):
        scored = batch["scored"]
        outputs = round.model(batch["observations"], batch["actions"], batch["mask"])[scored].float().cpu().numpy()
        expected.append(batch["actions"][scored].cpu().numpy())
        if round.deterministic:
            chosen.append(round.head.mode(outputs))
        else:
            chosen.append(round.head.sample(outputs, rng.random((len(outputs), round.head.n_uniforms))))
    return np.concatenate(expected), np.concatenate(chosen)
