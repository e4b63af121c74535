"""Policies, which choose actions for many environments at once.

To write your own, subclass `Policy`. A rollout uses only `privileged`, `reset`, `act` and `observe_reward`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ilt.data.returns import condition
from ilt.envs.actions import ActionSpace
from ilt.models.base import SequenceModel
from ilt.models.heads import ActionHead
from ilt.models.steppers import stepper_of
from ilt.rollout.sampling import ActionSampler, EpisodeRNG, make_sampler
from ilt.schema import ConfigError


class Policy(ABC):
    """Chooses actions for the slots of a rollout. `reset` marks the start of an episode.

    Attributes:
        privileged: whether its observations include, at the end, what the environment hides from students.
        return_conditioned: whether its actions depend on the rewards so far, so that `predict` requires them.
        action_space: lets `predict` return actions of the environment's own shape; may be None.
        flatten: flattens an observation of the environment, or a batch, to (obs_dim,) or (n, obs_dim) for `predict`, as
            `ObservationLayout.flatten` does; None if observations are already vectors.
    """

    privileged: bool = False
    return_conditioned: bool = False
    action_space: ActionSpace | None = None
    flatten: Callable[[Any], np.ndarray] | None = None

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:  # noqa: B027 (many policies have no memory)
        """Start episodes with these seeds (n,) in these slots (n,), and forget the previous ones."""

    @abstractmethod
    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Map slots (n,) and observations (n, obs_dim) float32 to actions (n,) or (n, dim) in the simulator's units."""

    def observe_reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:  # noqa: B027 (few policies need it)
        """Take note of what the last actions in these slots (n,) earned: rewards (n,) float64, in the env's units."""

    def set_deterministic(self, deterministic: bool) -> None:  # noqa: B027 (many policies have one mode only)
        """Take the most likely action or sample, from the next episodes on. No effect if the policy has one mode."""

    def predict(
        self,
        observation: Any,
        state: "PolicyState | None" = None,
        episode_start: Any = None,
        deterministic: bool | None = None,
        reward: Any = None,
    ) -> tuple[Any, "PolicyState"]:
        """Act in one environment, or in several at once, as in Stable-Baselines3.

        Args:
            observation: one observation, or (n, obs_dim) of several environments.
            state: the state that the last call returned; None at the first call.
            episode_start: whether an episode starts here, a bool or (n,) bools; ignored at the first call, which always
                starts one.
            deterministic: whether to take the most likely action instead of sampling, read at the first call only; None
                for the policy's own setting.
            reward: what the last action earned, or (n,) rewards; ignored where an episode starts. A return-conditioned
                policy needs it, since it acts by what is left of its target return.

        Returns:
            the action or actions, and the state to pass to the next call.
        """
        seen = np.asarray(observation if self.flatten is None else self.flatten(observation), dtype=np.float32)
        if not np.isfinite(seen).all():
            raise ValueError(f"an observation must be finite, got {seen}")
        single = seen.ndim == 1
        rows = seen[None] if single else seen
        if state is None:
            state = PolicyState(copy.deepcopy(self), np.random.default_rng(0))
            if deterministic is not None:
                state.policy.set_deterministic(deterministic)
            episode_start = np.ones(len(rows), dtype=bool)
        begins = np.zeros(len(rows), dtype=bool) if episode_start is None else np.broadcast_to(episode_start, len(rows))
        if (running := np.flatnonzero(~begins)).size and reward is not None:
            state.policy.observe_reward(running, np.broadcast_to(reward, len(rows))[running].astype(np.float64))
        elif running.size and self.return_conditioned:
            raise ValueError("predict needs `reward`, what the last action earned: the policy is return-conditioned")
        if begins.any():
            slots = np.flatnonzero(begins)
            state.policy.reset(slots, state.rng.integers(2**31, size=len(slots)))
        actions = state.policy.act(np.arange(len(rows)), rows)
        if self.action_space is not None:
            actions = actions.reshape(len(rows), *self.action_space.shape)
        return (actions[0] if single else actions), state


class PolicyState:
    """A policy's memory of the episodes in progress, between calls to `predict`."""

    def __init__(self, policy: Policy, rng: np.random.Generator) -> None:
        self.policy, self.rng = policy, rng


@runtime_checkable
class Labeling(Protocol):
    """A policy with an expert that labels every step; its labels are recorded as `step/label`.

    Attributes:
        labels: (n,) or (n, dim), the expert's actions at the last call of `act`.
    """

    labels: np.ndarray


class RandomPolicy(Policy):
    """Uniformly random actions."""

    def __init__(self, action_space: ActionSpace) -> None:
        self.action_space: ActionSpace = action_space
        self._rng = EpisodeRNG()

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._rng.reset(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return self.action_space.sample(self._rng.uniform(slots, self.action_space.dim))


class FunctionPolicy(Policy):
    """Any function from observations (n, obs_dim) float32 to n actions in the simulator's units.

    `act` raises ConfigError, naming the `source`, if the function fails or does not return n actions of the
    environment.
    """

    def __init__(
        self,
        function: Callable[[np.ndarray], np.ndarray],
        action_space: ActionSpace,
        *,
        privileged: bool = False,
        source: str = "the function",
    ) -> None:
        self._function, self.privileged, self._source = function, privileged, source
        self.action_space: ActionSpace = action_space

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        try:
            actions = self._function(observations)
        except Exception as error:
            raise ConfigError(
                f"{self._source} must map a batch of observations to as many actions, but fails on shape "
                f"{observations.shape} with expert.privileged={str(self.privileged).lower()}: "
                f"{type(error).__name__}: {error}"
            ) from error
        try:
            return self.action_space.check(actions, len(slots), source=self._source)
        except ValueError as error:
            raise ConfigError(str(error)) from error


class NetworkPolicy(Policy):
    """A network that sees only the current observation, such as a trained expert's actor.

    Args:
        network: maps (n, obs_dim) float32 to outputs (n, n_outputs).
        head: the distribution that the outputs parametrize.
        action_space: the environment's actions.
        deterministic: whether to take the most likely action; otherwise samples depend only on the episode's seed.
        privileged: whether the network also sees what is hidden from students.
    """

    def __init__(
        self,
        network: Callable[[np.ndarray], np.ndarray],
        head: ActionHead,
        action_space: ActionSpace,
        *,
        deterministic: bool,
        privileged: bool = False,
    ) -> None:
        self._network, self.privileged, self.action_space = network, privileged, action_space
        self._sampler = ActionSampler(head, action_space, deterministic=deterministic)

    def set_deterministic(self, deterministic: bool) -> None:
        self._sampler.deterministic = deterministic

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._sampler.reset(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return self._sampler.choose(slots, self._network(observations))


class SequencePolicy(Policy):
    """A sequence model as a policy: it predicts the next action from the last steps of every slot's episode.

    It sees what it saw in training: up to `context_length` steps, including the true start of the episode. A decoder
    with a key-value cache acts with the weights that it had when the policy was made. To act in a single environment,
    see [`predict`][ilt.Policy.predict].

    Args:
        model, head: the student, and the distribution that its outputs parametrize.
        context_length: how many steps it sees, at most the model's context length; None for that length.
        deterministic: whether to take the most likely action; otherwise samples depend only on the episode's seed.
        target_return: what a return-conditioned model aims for in an episode; None for the model's own target.
        recompute: whether to recompute the whole window at every step, even if the model has a stepper.

    Attributes:
        target_return: what it aims for in an episode; None if the model is not return-conditioned.
    """

    def __init__(
        self,
        model: SequenceModel,
        head: ActionHead,
        *,
        context_length: int | None = None,
        deterministic: bool = True,
        target_return: float | None = None,
        recompute: bool = False,
    ) -> None:
        length = model.context_length if context_length is None else context_length
        if not 1 <= length <= model.context_length:
            raise ValueError(
                f"context_length must be from 1 to the model's {model.context_length}, got {context_length}"
            )
        self.action_space: ActionSpace = model.action_space
        self._sampler = make_sampler(head, model.action_space, deterministic=deterministic)
        self._stepper = stepper_of(model, context_length=length, recompute=recompute)
        self._previous = model.action_space.zeros(0)  # the last action of each slot, in model units
        if target_return is not None and not model.return_conditioned:
            raise ValueError(f"target_return must be None for a model that sees no returns, got {target_return}")
        self.return_conditioned = model.return_conditioned
        if target_return is None and model.target_return is not None:
            target_return = float(model.target_return)
        self.target_return = target_return
        self._returns_to_go = np.zeros(0)  # what is left of each slot's target

    def set_deterministic(self, deterministic: bool) -> None:
        self._sampler.deterministic = deterministic

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        missing = max(slots.max() + 1 - len(self._previous), 0)
        if missing:
            self._previous = np.concatenate([self._previous, self.action_space.zeros(missing)])
            self._returns_to_go = np.pad(self._returns_to_go, (0, missing))
        if self.target_return is not None:
            self._returns_to_go[slots] = self.target_return
        self._stepper.reset(slots)
        self._sampler.reset(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        actions = self._sampler.choose(slots, self.outputs(slots, observations))
        self._previous[slots] = self.action_space.encode(actions)
        return actions

    def observe_action(self, slots: np.ndarray, actions: np.ndarray) -> None:
        """Record the actions executed in these slots (n,), if they differ from the chosen ones.

        Where one does, the rest of an action chunk is dropped, because it assumes that its first actions were executed:
        the next action is a new prediction.
        """
        executed = self.action_space.encode(actions)
        differs = executed != self._previous[slots]
        self._sampler.replan(slots[differs if differs.ndim == 1 else differs.any(axis=1)])
        self._previous[slots] = executed

    def observe_reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        self._returns_to_go[slots] -= rewards

    def outputs(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Process one observation per slot. Return outputs (n, n_outputs) float32 for the actions to choose."""
        if self.return_conditioned:
            observations = condition(observations, self._returns_to_go[slots])
        return self._stepper.step(slots, observations, self._previous[slots])
