"""Our own implementation of advantage actor-critic (A2C).

This is the synchronous form of Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", with
generalized advantage estimation (Schulman et al. 2016).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.experts.actor import Actor, actor_policy, mlp
from ilt.experts.base import Expert, Report, Score
from ilt.experts.training import TrainingLog
from ilt.experts.training_envs import TrainingEnvs, restore_rng, rng_state
from ilt.rollout.policies import Policy


def advantages_and_returns(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute generalized advantage estimates over (T, N) arrays (Schulman et al. 2016, equation 16).

    Args:
        rewards, values: reward of each step, and value of the observation before it.
        next_values: value of the observation after each step; at the end of an episode, of its final observation.
        terminated: whether the episode terminated after this step, so that the target is the reward alone.
        truncated: whether the episode was truncated after this step. The next value still counts, but the advantage of
            the next row, which belongs to another episode, does not.
        gamma, gae_lambda: discount factor, and the estimator's trade-off between bias and variance.

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
        """Merge a batch of shape (n, *shape)."""
        n, mean, variance = len(batch), batch.mean(axis=0), batch.var(axis=0)
        total = self.count + n
        shift = mean - self.mean
        self.variance = (self.variance * self.count + variance * n + shift**2 * self.count * n / total) / total
        self.mean = self.mean + shift * n / total
        self.count = total

    def state(self) -> dict[str, Any]:
        """Return the moments as plain lists and numbers, for a checkpoint."""
        return {"mean": self.mean.tolist(), "variance": np.asarray(self.variance).tolist(), "count": self.count}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the moments that `state` returned."""
        self.mean, self.variance = np.asarray(state["mean"]), np.asarray(state["variance"])
        self.count = state["count"]


class ActorCritic(nn.Module):
    """An `Actor` and a critic of the same shape, sharing the observation normalization."""

    def __init__(
        self, *, observation_dim: int, action_space: ActionSpace, hidden: Sequence[int], log_std_init: float
    ) -> None:
        super().__init__()
        self.actor = Actor(
            observation_dim=observation_dim,
            n_outputs=action_space.dim if action_space.continuous else sum(action_space.n_choices),
            hidden=hidden,
            continuous=action_space.continuous,
            log_std_init=log_std_init,
        )
        self.critic = mlp([observation_dim, *hidden, 1])

    def values(self, observations: Tensor) -> Tensor:
        """Map observations (..., observation_dim) to values (...,)."""
        normalized = (observations - self.actor.observation_mean) / self.actor.observation_std
        return self.critic(normalized).squeeze(-1)


class Distribution:
    """The actor's distribution over actions, in model units, with independent components."""

    def __init__(self, action_space: ActionSpace) -> None:
        self._space, self._sizes = action_space, list(action_space.n_choices)

    def draw(self, rng: np.random.Generator, *n: int) -> np.ndarray:
        """Draw the noise from which `choose` samples (*n,) actions."""
        if self._space.continuous:
            return rng.standard_normal((*n, self._space.dim))
        # Gumbel-max trick: an argmax over perturbed logits is a sample from their softmax
        return rng.gumbel(size=(*n, sum(self._sizes)))

    def choose(self, actor: Actor, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Sample actions (n,) or (n, dim) from outputs (n, n_outputs); numbers are not clipped."""
        if actor.log_std is not None:
            return (outputs + np.exp(actor.log_std.detach().numpy()) * noise).astype(np.float32)
        if self._space.flat:
            return (outputs + noise).argmax(axis=1)
        parts = np.split(outputs + noise, np.cumsum(self._sizes)[:-1], axis=1)
        return np.stack([part.argmax(axis=1) for part in parts], axis=1)

    def log_prob_and_entropy(self, actor: Actor, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities (n,) of actions, and the mean entropy."""
        if actor.log_std is not None:
            normal = torch.distributions.Normal(outputs, actor.log_std.exp(), validate_args=False)
            return normal.log_prob(actions).sum(dim=-1), normal.entropy().sum(dim=-1).mean()
        columns = actions[:, None] if self._space.flat else actions
        log_prob, entropy = outputs.new_zeros(len(outputs)), outputs.new_zeros(())
        for logits, column in zip(outputs.split(self._sizes, dim=-1), columns.unbind(dim=-1), strict=True):
            log_probabilities = logits.log_softmax(dim=-1)
            entropy = entropy - (log_probabilities.exp() * log_probabilities).sum(dim=-1).mean()
            log_prob = log_prob + log_probabilities.gather(1, column[:, None]).squeeze(1)
        return log_prob, entropy


class Learner:
    """Advantage actor-critic over `n_envs` environments in one process, with batched policy calls.

    Rollouts are long, so that advantages look far ahead, and are split into shuffled batches for gradient steps. The
    policy takes one pass over them, so each environment step is part of exactly one policy gradient. Later batches of
    that pass are a few updates off-policy, which is not corrected. The critic takes `critic_epochs` passes; with fewer,
    more training seeds learned to hover instead of landing.

    Args:
        spec: the environment; training episodes take their seeds from its demonstrations block.
        privileged: whether the expert sees what the environment hides from students.
        seed: determines weights, sampling and episodes.
        total_steps: environment steps of training.
        hidden: width of each hidden layer of actor and critic.
        n_envs, n_steps: one rollout is n_envs × n_steps steps.
        batch_size: environment steps per gradient step.
        critic_epochs: passes of the critic over each rollout.
        gamma, gae_lambda: discount factor, and GAE's trade-off between bias and variance.
        learning_rate: initial rate; decays linearly to `final_learning_rate_fraction` of it at `total_steps`.
        ent_coef: weight of the entropy bonus.
        max_grad_norm: norm to which the gradients of actor and critic are clipped, separately.
        normalize_observations: standardize by running moments, which become part of the actor.
        normalize_rewards: divide rewards by the running standard deviation of the discounted return, so that the
            critic's targets are of order one at any scale of the rewards.
        log_std_init: initial log standard deviation, for Box actions.
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
        log_std_init: float = 0.0,
    ) -> None:
        torch.manual_seed(seed)
        self.steps, self.total_steps, self.n_steps = 0, total_steps, n_steps
        self.batch_size, self.critic_epochs = batch_size, critic_epochs
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.learning_rate, self.final_fraction = learning_rate, final_learning_rate_fraction
        self.ent_coef, self.max_grad_norm = ent_coef, max_grad_norm
        self.normalize_observations, self.normalize_rewards = normalize_observations, normalize_rewards
        self._envs = TrainingEnvs(spec, n_envs, [seed, 0], privileged=privileged)
        self.batch = self._envs.batch
        self.rng = np.random.default_rng([seed, 0])
        self._distribution = Distribution(self.batch.action_space)
        self.net = ActorCritic(
            observation_dim=self.batch.observation_dim,
            action_space=self.batch.action_space,
            hidden=hidden,
            log_std_init=log_std_init,
        )
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=learning_rate, eps=1e-5, fused=True)
        self.observation_moments = RunningMoments(self.batch.observation_dim)
        self.return_moments = RunningMoments()
        self._discounted = np.zeros(n_envs)

    def start_episodes(self) -> None:
        """Start an episode in every environment."""
        self._envs.begin()
        if self.normalize_observations:
            self._take_in_observations(self.batch.observations)

    def collect(self) -> dict[str, np.ndarray]:
        """Collect `n_steps` of every environment. Return arrays (n_steps, n_envs, …), with returns and advantages."""
        shape = (self.n_steps, self.batch.n_envs)
        observations = np.zeros((self.n_steps + 1, *self.batch.observations.shape), dtype=np.float32)
        actions, rewards = self.batch.action_space.zeros(*shape), np.zeros(shape)
        terminated, truncated = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        last_seen = []  # final observations of truncated episodes, in the order of `truncated`
        noise = self._distribution.draw(self.rng, *shape)
        for t in range(self.n_steps):
            observations[t] = self.batch.observations
            with torch.inference_mode():
                outputs = self.net.actor(torch.from_numpy(observations[t])).numpy()
            actions[t] = self._distribution.choose(self.net.actor, outputs, noise[t])
            executed = self.batch.action_space.decode(actions[t])
            rewards[t], terminated[t], truncated[t], final = self._envs.step(executed)
            last_seen += [seen for slot, seen in final.items() if truncated[t, slot]]
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
        self.steps += rewards.size
        return {"observations": observations, "actions": actions, "advantages": advantages, "returns": returns}

    def update(self, data: dict[str, np.ndarray]) -> None:
        """Update the policy in one pass and the critic in `critic_epochs` passes over the collected data."""
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
        outputs = self.net.actor(batch["observations"])
        chosen, entropy = self._distribution.log_prob_and_entropy(self.net.actor, outputs, batch["actions"])
        return -(chosen * batch["advantages"]).mean() - self.ent_coef * entropy

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # skips what gets no gradient: the actor in later epochs
        loss.backward()
        for part in (self.net.actor, self.net.critic):  # separately, since the critic's gradients are larger
            nn.utils.clip_grad_norm_(part.parameters(), self.max_grad_norm)
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed training run needs, as plain containers and tensors."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "observation_moments": self.observation_moments.state(),
            "return_moments": self.return_moments.state(),
            "discounted": self._discounted.tolist(),
            "rng": rng_state(self.rng),
            "envs": self._envs.state(),
            "steps": self.steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.observation_moments.restore(state["observation_moments"])
        self.return_moments.restore(state["return_moments"])
        self._discounted = np.array(state["discounted"])
        restore_rng(self.rng, state["rng"])
        self._envs.restore(state["envs"])
        self.steps = state["steps"]

    @torch.inference_mode()
    def _values(self, observations: np.ndarray) -> np.ndarray:
        return self.net.values(torch.from_numpy(observations)).numpy()

    def _scale_rewards(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Divide rewards (n_steps, n_envs) by the standard deviation of the discounted returns so far."""
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


class A2C(Expert):
    """Our own advantage actor-critic; see `Learner` for the algorithm and its hyperparameters.

    It is the synchronous form of Mnih et al. 2016, ["Asynchronous methods for deep reinforcement
    learning"](https://arxiv.org/abs/1602.01783), with [generalized advantage
    estimation](https://arxiv.org/abs/1506.02438) (Schulman et al. 2016).

    Args:
        total_steps: environment steps of training.
        score_every: environment steps between scorings on selection seeds.
        hyperparameters: the arguments of `Learner`.
    """

    def __init__(self, *, total_steps: int, score_every: int, **hyperparameters: Any) -> None:
        self.total_steps, self._score_every, self._hyperparameters = total_steps, score_every, hyperparameters
        self.rollout_steps = hyperparameters["n_envs"] * hyperparameters["n_steps"]
        self.gradient_steps = total_steps * hyperparameters["critic_epochs"] // hyperparameters["batch_size"]

    def train(
        self, env: EnvSpec, folder: Path, *, seed: int, privileged: bool, score: Score, report: Report
    ) -> dict[str, Any]:
        log = TrainingLog(
            folder / "training", env, score=score, every=self._score_every, report=report, privileged=privileged
        )
        learner = Learner(env, privileged=privileged, seed=seed, total_steps=self.total_steps, **self._hyperparameters)
        if (state := log.resume()) is not None:
            learner.restore(state)
        else:
            learner.start_episodes()
        while learner.steps < self.total_steps:
            learner.update(learner.collect())
            log.after(learner.steps, lambda: learner.net.actor, learner.state)
        return log.finish(learner.steps, learner.net.actor, learner.state, folder)

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        actor = Actor.load(folder / "actor.safetensors")
        return actor_policy(actor, env.action_space, privileged=privileged, deterministic=deterministic)
