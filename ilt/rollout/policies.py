"""Policies: whatever chooses one action for each of many environments at once.

To write another, subclass `Policy`; `privileged`, `reset` and `act` are all that a rollout asks for.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ilt.envs.actions import ActionSpace
from ilt.models.base import SequenceModel
from ilt.models.heads import ActionHead
from ilt.models.steppers import stepper_of

_SAMPLING = 0x5A17  # keeps a policy's random numbers apart from the env's, which start from the same seed
MIXING = 0x313C  # and those that decide who acts from those that decide how


class Policy(ABC):
    """Chooses actions for the slots of a rollout, and is told when an episode begins in one.

    Attributes:
        privileged: whether it is shown what the environment hides from a student, behind what the student sees.
        action_space: what it chooses from, for `predict` to return actions of the environment's own shape; may be None.
        flatten: turns an observation of the environment, or a batch of them, into (obs_dim,) or (n, obs_dim) for
            `predict`, as `ObservationLayout.flatten` does; None where observations are vectors.
    """

    privileged: bool = False
    action_space: ActionSpace | None = None
    flatten: Callable[[Any], np.ndarray] | None = None

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:  # noqa: B027 (nothing is to be forgotten by many)
        """Episodes with these seeds (n,) begin in these slots (n,): forget what was there."""

    @abstractmethod
    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Slots (n,), their observations (n, obs_dim) float32, to actions (n,) or (n, dim) in the simulator's units."""

    def set_deterministic(self, deterministic: bool) -> None:  # noqa: B027 (many know one way only)
        """Take the most likely action from the next episodes on, or sample; may do nothing where there is no choice."""

    def predict(
        self,
        observation: Any,
        state: "PolicyState | None" = None,
        episode_start: Any = None,
        deterministic: bool | None = None,
    ) -> tuple[Any, "PolicyState"]:
        """Act in one environment, or in several side by side, as in Stable-Baselines3.

        Args:
            observation: one observation, or (n, obs_dim) of several environments.
            state: what the last call returned; None at the first one.
            episode_start: whether an episode begins here, (n,) or a bool; at the first call it does.
            deterministic: whether it takes its most likely action or samples; None for what it was made to do.

        Returns:
            the action or actions, and the state to pass to the next call.
        """
        seen = np.asarray(observation if self.flatten is None else self.flatten(observation), dtype=np.float32)
        single = seen.ndim == 1
        rows = seen[None] if single else seen
        if state is None:
            state = PolicyState(copy.deepcopy(self), np.random.default_rng(0))
            if deterministic is not None:
                state.policy.set_deterministic(deterministic)
            episode_start = np.ones(len(rows), dtype=bool)
        begins = np.zeros(len(rows), dtype=bool) if episode_start is None else np.broadcast_to(episode_start, len(rows))
        if begins.any():
            slots = np.flatnonzero(begins)
            state.policy.reset(slots, state.rng.integers(2**31, size=len(slots)))
        actions = state.policy.act(np.arange(len(rows)), rows)
        if self.action_space is not None:
            actions = actions.reshape(len(rows), *self.action_space.shape)
        return (actions[0] if single else actions), state


class PolicyState:
    """A policy's memory of the episodes that `predict` is in the middle of."""

    def __init__(self, policy: Policy, rng: np.random.Generator) -> None:
        self.policy, self.rng = policy, rng


@runtime_checkable
class Labeling(Protocol):
    """A policy that asks an expert at every step; what it says is recorded as `step/label`.

    Attributes:
        labels: (n,) or (n, dim), what the expert would have done at the newest call of `act`.
    """

    labels: np.ndarray


class EpisodeRNG:
    """One random stream per slot, started by the seed of the episode that runs there.

    Args:
        purpose: a number of each use's own, or two uses in one rollout would draw the same numbers.
    """

    def __init__(self, purpose: int = _SAMPLING) -> None:
        self._purpose = purpose
        self._generators: dict[int, np.random.Generator] = {}

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        """Episodes with these seeds (n,) begin in these slots (n,)."""
        for slot, seed in zip(slots.tolist(), seeds.tolist(), strict=True):
            self._generators[slot] = np.random.default_rng([self._purpose, seed])

    def uniform(self, slots: np.ndarray, size: int | None = None) -> np.ndarray:
        """(n,) float64 in [0, 1), or (n, size), from each slot's own stream."""
        if size == 1:
            return self.uniform(slots)[:, None]  # the same numbers, sooner
        return np.array([self._generators[slot].random(size) for slot in slots.tolist()])


class RandomPolicy(Policy):
    """Every action equally likely."""

    def __init__(self, action_space: ActionSpace) -> None:
        self.action_space: ActionSpace = action_space
        self._rng = EpisodeRNG()

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._rng.reset(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return self.action_space.sample(self._rng.uniform(slots, self.action_space.dim))


class FunctionPolicy(Policy):
    """Any function from (n, obs_dim) float32 observations to n actions in the simulator's units.

    ValueError names the `source`, at the first call that gives something else than n actions of the environment.
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
        return self.action_space.check(self._function(observations), len(slots), source=self._source)


class ActionSampler:
    """From an action head's outputs to actions: the most likely one, or a sample that the episode's seed decides.

    Args:
        head: what the outputs mean.
        action_space: whose units the actions are returned in.
        deterministic: take the most likely action.
    """

    def __init__(self, head: ActionHead, action_space: ActionSpace, *, deterministic: bool) -> None:
        self._head, self._action_space = head, action_space
        self.deterministic, self._rng = deterministic, EpisodeRNG()

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        """Episodes with these seeds (n,) begin in these slots (n,)."""
        if not self.deterministic:
            self._rng.reset(slots, seeds)

    def choose(self, slots: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """(n, n_outputs) to actions (n,) or (n, dim) in the simulator's units."""
        if self.deterministic:
            return self._action_space.decode(self._head.mode(outputs))
        uniforms = self._rng.uniform(slots, self._head.n_uniforms)
        return self._action_space.decode(self._head.sample(outputs, uniforms))


class NetworkPolicy(Policy):
    """A network that sees the present observation only, such as a trained expert's actor.

    Args:
        network: maps (n, obs_dim) float32 to outputs (n, n_outputs).
        head: what these outputs mean.
        action_space: the environment's.
        deterministic: take the most likely action; otherwise sample, from the episode's seed alone.
        privileged: whether the network was trained on what is hidden from a student too.
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
    """A sequence model that acts: from the last steps of every slot's episode it predicts the next action.

    It sees what it saw in training: up to `context_length` steps, the true start of the episode included. Where the
    model has a stepper, it acts with the weights that the model had when the policy was made.

    Args:
        model, head: the student, and what its outputs mean.
        context_length: how many steps it may look at, at most what the model was built for; None for all of them.
        deterministic: take the most likely action; otherwise sample, from the episode's seed alone.
        recompute: recompute the whole window at every step, also where the model has a stepper.
    """

    def __init__(
        self,
        model: SequenceModel,
        head: ActionHead,
        *,
        context_length: int | None = None,
        deterministic: bool = True,
        recompute: bool = False,
    ) -> None:
        length = model.context_length if context_length is None else context_length
        if not 1 <= length <= model.context_length:
            raise ValueError(
                f"context_length must be from 1 to the model's {model.context_length}, got {context_length}"
            )
        self.action_space: ActionSpace = model.action_space
        self._sampler = ActionSampler(head, model.action_space, deterministic=deterministic)
        self._stepper = stepper_of(model, context_length=length, recompute=recompute)
        self._previous = model.action_space.zeros(0)  # the newest action of each slot, in model units

    def set_deterministic(self, deterministic: bool) -> None:
        self._sampler.deterministic = deterministic

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        missing = max(slots.max() + 1 - len(self._previous), 0)
        if missing:
            self._previous = np.concatenate([self._previous, self.action_space.zeros(missing)])
        self._stepper.reset(slots)
        self._sampler.reset(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        actions = self._sampler.choose(slots, self.outputs(slots, observations))
        self.observe_action(slots, actions)
        return actions

    def observe_action(self, slots: np.ndarray, actions: np.ndarray) -> None:
        """Say what was done in these slots (n,), which may be something else than what it chose there."""
        self._previous[slots] = self.action_space.encode(actions)

    def outputs(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Take in one observation per slot and return the outputs (n, n_outputs) float32 for the action to choose."""
        return self._stepper.step(slots, observations, self._previous[slots])
