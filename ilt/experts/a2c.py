"""Our own advantage actor-critic (A2C).

The synchronous form of Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", with generalized
advantage estimation (Schulman et al. 2016).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ilt.envs.batch import EnvBatch
from ilt.envs.spec import EnvSpec
from ilt.experts.actor import Actor, mlp
from ilt.experts.seeding import SeedStream
from ilt.experts.training import Report, Score, TrainingLog


def advantages_and_returns(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Generalized advantage estimation over (T, N) arrays (Schulman et al. 2016, equation 16).

    Args:
        rewards, values: what each step earned, and the value of the observation it was taken from.
        next_values: the value of the observation that each step led to; the last one of its episode where it ended.
        terminated: nothing follows this step, so its target is the reward alone.
        truncated: the episode was cut after this step; the value of what would have followed still counts, but
            the advantage of the next row, which belongs to another episode, does not.

    Returns:
        advantages (T, N) and returns (T, N), the targets of the critic.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    carry = gamma * gae_lambda * ~(terminated | truncated)
    advantages = np.zeros_like(deltas)
    advantage = np.zeros(deltas.shape[1], dtype=deltas.dtype)
    for t in reversed(range(len(deltas))):
        advantage = deltas[t] + carry[t] * advantage
        advantages[t] = advantage
    return advantages, advantages + values


class RunningMoments:
    """Mean and variance of a stream, merged batch by batch (Chan et al. 1979)."""

    def __init__(self, *shape: int) -> None:
        self.mean, self.variance, self.count = np.zeros(shape), np.ones(shape), 1e-4

    def update(self, batch: np.ndarray) -> None:
        """Take in a batch of shape (n, *shape)."""
        n, mean, variance = len(batch), batch.mean(axis=0), batch.var(axis=0)
        total = self.count + n
        shift = mean - self.mean
        self.variance = (self.variance * self.count + variance * n + shift**2 * self.count * n / total) / total
        self.mean = self.mean + shift * n / total
        self.count = total

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "variance": np.asarray(self.variance).tolist(), "count": self.count}

    def restore(self, state: dict[str, Any]) -> None:
        self.mean, self.variance = np.asarray(state["mean"]), np.asarray(state["variance"])
        self.count = state["count"]


class ActorCritic(nn.Module):
    """An `Actor` and a critic of the same shape, sharing the observation normalization."""

    def __init__(self, *, observation_dim: int, n_actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.actor = Actor(observation_dim=observation_dim, n_actions=n_actions, hidden=hidden)
        self.critic = mlp([observation_dim, *hidden, 1])

    def values(self, observations: Tensor) -> Tensor:
        """(..., observation_dim) to (...,)."""
        normalized = (observations - self.actor.observation_mean) / self.actor.observation_std
        return self.critic(normalized).squeeze(-1)


class A2C:
    """Advantage actor-critic over `n_envs` envs stepped in one process, the policy called once for all of them.

    Rollouts are long, so that advantages reach far, and are cut into shuffled batches for the gradient steps. The
    policy takes one pass over them: each environment step is part of exactly one policy gradient. Within that pass
    the later batches come from a policy a few steps older than the one they change, which is left uncorrected. The
    critic's regression takes `critic_epochs` passes: with fewer, more training seeds learned to hover, not to land.

    Args:
        spec: the environment; training episodes take their seeds from its demonstrations block.
        privileged: whether the expert sees what the environment hides from a student.
        seed: decides weights, sampling and episodes.
        hidden: width of each hidden layer of actor and critic.
        n_envs, n_steps: one rollout is n_envs × n_steps steps.
        batch_size: how many of them make one gradient step.
        critic_epochs: passes of the critic over each rollout.
        gamma, gae_lambda: discount, and the GAE trade-off between bias and variance.
        learning_rate: at the start; falls linearly to `final_learning_rate_fraction` of it at `total_steps`.
        ent_coef: weight of the entropy bonus.
        max_grad_norm: the gradients of actor and critic are each clipped to this norm.
        normalize_observations: by running moments, which end up in the actor.
        normalize_rewards: divide rewards by the running deviation of the discounted return, so that the critic's
            targets are of order one whatever the env's scale.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        privileged: bool = False,
        seed: int,
        total_steps: int,
        hidden: Sequence[int],
        n_envs: int,
        n_steps: int,
        batch_size: int,
        critic_epochs: int,
        gamma: float,
        gae_lambda: float,
        learning_rate: float,
        final_learning_rate_fraction: float,
        ent_coef: float,
        max_grad_norm: float,
        normalize_observations: bool,
        normalize_rewards: bool,
    ) -> None:
        torch.manual_seed(seed)
        self.steps, self.total_steps, self.n_steps = 0, total_steps, n_steps
        self.batch_size, self.critic_epochs = batch_size, critic_epochs
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.learning_rate, self.final_fraction = learning_rate, final_learning_rate_fraction
        self.ent_coef, self.max_grad_norm = ent_coef, max_grad_norm
        self.normalize_observations, self.normalize_rewards = normalize_observations, normalize_rewards
        self.batch = EnvBatch(spec, n_envs, privileged=privileged)
        self.seed, self.spec = seed, spec
        self.net = ActorCritic(
            observation_dim=self.batch.observation_dim, n_actions=self.batch.n_actions, hidden=hidden
        )
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=learning_rate, eps=1e-5, fused=True)
        self.observation_moments = RunningMoments(self.batch.observation_dim)
        self.return_moments = RunningMoments()
        self._discounted = np.zeros(n_envs)
        self._slots = np.arange(n_envs)

    def start_episodes(self) -> None:
        """Begin a fresh episode in every slot; a resumed training does not see the same seeds again."""
        self.seeds = SeedStream(self.spec, [self.seed, self.steps])
        self.rng = np.random.default_rng([self.seed, self.steps])
        for slot in self._slots:
            self.batch.reset(slot, self.seeds.next())
        if self.normalize_observations and self.steps == 0:
            self._take_in_observations(self.batch.observations)

    def collect(self) -> dict[str, np.ndarray]:
        """Act for `n_steps` in every env: arrays (n_steps, n_envs, …); returns and advantages included."""
        shape = (self.n_steps, self.batch.n_envs)
        observations = np.zeros((self.n_steps + 1, *self.batch.observations.shape), dtype=np.float32)
        actions, rewards = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        terminated, truncated = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        last_seen = []  # of truncated episodes, in the order of `truncated`
        # the Gumbel-max trick: an argmax over perturbed logits is a sample from their softmax
        noise = self.rng.gumbel(size=(*shape, self.batch.n_actions))
        for t in range(self.n_steps):
            observations[t] = self.batch.observations
            with torch.inference_mode():
                logits = self.net.actor(torch.from_numpy(observations[t])).numpy()
            actions[t] = (logits + noise[t]).argmax(axis=1)
            rewards[t], terminated[t], truncated[t] = self.batch.step(self._slots, actions[t])
            for slot in np.flatnonzero(terminated[t] | truncated[t]):
                if truncated[t, slot]:
                    last_seen.append(self.batch.observations[slot].copy())
                self.batch.reset(slot, self.seeds.next())
        observations[-1] = self.batch.observations
        if self.normalize_rewards:
            rewards = self._scale_rewards(rewards, terminated | truncated)
        values = self._values(observations)
        next_values = values[1:].copy()  # a step leads to the row below it, except at the end of an episode
        if last_seen:
            next_values[truncated] = self._values(np.stack(last_seen))
        advantages, returns = advantages_and_returns(
            rewards.astype(np.float32), values[:-1], next_values, terminated, truncated, self.gamma, self.gae_lambda
        )
        observations = observations[:-1]
        if self.normalize_observations:
            self._take_in_observations(observations.reshape(-1, observations.shape[-1]))
        self.steps += actions.size
        return {"observations": observations, "actions": actions, "advantages": advantages, "returns": returns}

    def update(self, data: dict[str, np.ndarray]) -> None:
        """One pass of the policy and `critic_epochs` of the critic over what was collected."""
        flat = {name: torch.from_numpy(array).flatten(0, 1) for name, array in data.items()}
        flat["advantages"] = (flat["advantages"] - flat["advantages"].mean()) / (flat["advantages"].std() + 1e-8)
        progress = min(self.steps / self.total_steps, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * (1 - progress * (1 - self.final_fraction))
        for epoch in range(self.critic_epochs):
            order = torch.from_numpy(self.rng.permutation(len(flat["actions"])))
            for rows in order.split(self.batch_size):
                batch = {name: tensor[rows] for name, tensor in flat.items()}
                loss = mse_loss(self.net.values(batch["observations"]), batch["returns"])
                if epoch == 0:
                    loss = loss + self._policy_loss(batch)
                self._descend(loss)

    def _policy_loss(self, batch: dict[str, Tensor]) -> Tensor:
        log_probabilities = self.net.actor(batch["observations"]).log_softmax(dim=-1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=-1).mean()
        chosen = log_probabilities.gather(1, batch["actions"][:, None]).squeeze(1)
        return -(chosen * batch["advantages"]).mean() - self.ent_coef * entropy

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # what has no gradient, the actor in later epochs, takes no step
        loss.backward()
        for part in (self.net.actor, self.net.critic):  # apart, or the critic's larger gradients drown the actor's
            nn.utils.clip_grad_norm_(part.parameters(), self.max_grad_norm)
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """Everything a resumed training needs, as plain containers and tensors."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "observation_moments": self.observation_moments.state(),
            "return_moments": self.return_moments.state(),
            "steps": self.steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.observation_moments.restore(state["observation_moments"])
        self.return_moments.restore(state["return_moments"])
        self.steps = state["steps"]

    @torch.inference_mode()
    def _values(self, observations: np.ndarray) -> np.ndarray:
        return self.net.values(torch.from_numpy(observations)).numpy()

    def _scale_rewards(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """(n_steps, n_envs) rewards over the deviation of the discounted returns so far."""
        discounted = np.zeros_like(rewards)
        for t in range(len(rewards)):
            discounted[t] = self._discounted * self.gamma + rewards[t]
            self._discounted = discounted[t] * ~ended[t]
        self.return_moments.update(discounted.ravel())
        return rewards / np.sqrt(self.return_moments.variance + 1e-8)

    def _take_in_observations(self, observations: np.ndarray) -> None:
        self.observation_moments.update(observations)
        moments = self.observation_moments
        self.net.actor.observation_mean.copy_(torch.from_numpy(moments.mean))
        self.net.actor.observation_std.copy_(torch.from_numpy(np.sqrt(moments.variance + 1e-8)))


def train_a2c(
    spec: EnvSpec,
    *,
    seed: int,
    folder: Path,
    score: Score,
    score_every: int,
    total_steps: int,
    report: Report | None = None,
    **hyperparameters: Any,
) -> TrainingLog:
    """Train for `total_steps` environment steps; the best actor by `score` is left at the log's `best_path`.

    Args:
        folder: holds checkpoints; training goes on from the one that is there.
        score, score_every: what the actor is worth on selection seeds, asked every so many steps.
        hyperparameters: as `A2C` takes them.
    """
    log = TrainingLog(folder, score=score, every=score_every, report=report)
    learner = A2C(spec, seed=seed, total_steps=total_steps, **hyperparameters)
    if (state := log.resume()) is not None:
        learner.restore(state)
    learner.start_episodes()
    while learner.steps < total_steps:
        learner.update(learner.collect())
        log.after(learner.steps, lambda: learner.net.actor, learner.state)
    if not log.history or log.history[-1]["steps"] < learner.steps:
        log.score_now(learner.steps, learner.net.actor, learner.state)
    return log
