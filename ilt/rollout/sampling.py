"""From a model's outputs to actions: random streams of episodes, sampling, and the execution of action chunks."""

import numpy as np

from ilt.envs.actions import ActionSpace
from ilt.models.chunks import ActionChunks
from ilt.models.heads import ActionHead

_SAMPLING = 0x5A17  # separates a policy's random stream from the environment's, which has the same seed
MIXING = 0x313C  # separates the stream that decides who acts, or which noise is added, from a policy's samples


class EpisodeRNG:
    """One random stream per slot, seeded by the episode that runs there.

    Args:
        purpose: a number that must differ between uses; otherwise two uses in a rollout would draw the same numbers.
    """

    def __init__(self, purpose: int = _SAMPLING) -> None:
        self._purpose = purpose
        self._generators: dict[int, np.random.Generator] = {}

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        """Start the streams of these seeds (n,) in these slots (n,)."""
        for slot, seed in zip(slots.tolist(), seeds.tolist(), strict=True):
            self._generators[slot] = np.random.default_rng([self._purpose, seed])

    def uniform(self, slots: np.ndarray, size: int | None = None) -> np.ndarray:
        """Draw (n,) float64 in [0, 1), or (n, size), from each slot's own stream."""
        if size == 1:
            return self.uniform(slots)[:, None]  # the same numbers, but faster
        return np.array([self._generators[slot].random(size) for slot in slots.tolist()])


class ActionSampler:
    """Maps an action head's outputs to actions: the most likely one, or a sample that depends on the episode's seed.

    Args:
        head: the distribution that the outputs parametrize.
        action_space: converts actions to the simulator's units.
        deterministic: whether to take the most likely action.
    """

    def __init__(self, head: ActionHead, action_space: ActionSpace, *, deterministic: bool) -> None:
        self._head, self._action_space = head, action_space
        self.deterministic, self._rng = deterministic, EpisodeRNG()

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        """Start episodes with these seeds (n,) in these slots (n,)."""
        if not self.deterministic:
            self._rng.reset(slots, seeds)

    def choose(self, slots: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Map outputs (n, n_outputs) to actions (n,) or (n, dim) in the simulator's units."""
        if self.deterministic:
            return self._action_space.decode(self._head.mode(outputs))
        uniforms = self._rng.uniform(slots, self._head.n_uniforms)
        return self._action_space.decode(self._head.sample(outputs, uniforms))

    def replan(self, slots: np.ndarray) -> None:
        """Forget what was predicted for later steps in these slots (n,), where another action was executed."""


class ChunkSampler(ActionSampler):
    """Executes the first actions of a chunk, one in each step, and then takes those of the newest one.

    Args:
        chunks: the head, of which `execute` actions are executed.
        action_space, deterministic: see `ActionSampler`.
    """

    def __init__(self, chunks: ActionChunks, action_space: ActionSpace, *, deterministic: bool) -> None:
        super().__init__(chunks.step_head, action_space, deterministic=deterministic)
        self._chunks = chunks
        self._outputs = np.zeros((0, chunks.execute, chunks.step_head.n_outputs), dtype=np.float32)
        self._executed = np.zeros(0, dtype=np.int64)  # actions of each slot's chunk

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        super().reset(slots, seeds)
        self._outputs, self._executed = _grown(self._outputs, slots), _grown(self._executed, slots)
        self.replan(slots)

    def replan(self, slots: np.ndarray) -> None:
        self._executed[slots] = self._chunks.execute

    def choose(self, slots: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Map outputs (n, n_outputs) of the newest chunks to actions (n,) or (n, dim) in the simulator's units."""
        place = self._executed[slots] % self._chunks.execute
        new = place == 0
        self._outputs[slots[new]] = self._chunks.split(outputs[new])[:, : self._chunks.execute]
        self._executed[slots] = place + 1
        return super().choose(slots, self._outputs[slots, place])


class EnsembleSampler(ActionSampler):
    """Averages all predictions of the present action, the i-th with weight exp(−m · i), where i = 0 is the oldest.

    If actions are sampled, all predictions of an action are sampled with the same uniform numbers, so that averaging
    does not shrink their deviation.

    Args:
        chunks: the head, with `ensemble` = m.
        action_space, deterministic: see `ActionSampler`.
    """

    def __init__(self, chunks: ActionChunks, action_space: ActionSpace, *, deterministic: bool) -> None:
        super().__init__(chunks.step_head, action_space, deterministic=deterministic)
        assert chunks.ensemble is not None
        assert action_space.continuous, "choices have no average"
        self._chunks = chunks
        log_weights = -chunks.ensemble * np.arange(chunks.chunk)
        # the share of prediction i in the average of predictions 0 … i
        self._shares = np.exp(log_weights - np.logaddexp.accumulate(log_weights))
        self._means = np.zeros((0, chunks.chunk, action_space.dim))  # of the present action and the next ones
        self._uniforms = np.zeros((0, chunks.chunk, chunks.n_uniforms))  # of the same actions
        self._n_chunks = np.zeros(0, dtype=np.int64)  # predicted so far, up to H

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        super().reset(slots, seeds)
        self._means, self._uniforms = _grown(self._means, slots), _grown(self._uniforms, slots)
        self._n_chunks = _grown(self._n_chunks, slots)
        self.replan(slots)
        if not self.deterministic:
            ahead = self._rng.uniform(slots, (self._chunks.chunk - 1) * self._chunks.n_uniforms)
            self._uniforms[slots, 1:] = ahead.reshape(len(slots), self._chunks.chunk - 1, -1)

    def replan(self, slots: np.ndarray) -> None:
        self._means[slots], self._n_chunks[slots] = 0.0, 0

    def choose(self, slots: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Map outputs (n, n_outputs) of the newest chunks to actions (n, dim) in the simulator's units."""
        means, n_chunks = _next(self._means[slots]), self._n_chunks[slots, None]
        n_earlier = np.minimum(n_chunks, np.arange(self._chunks.chunk)[::-1])  # predictions of each action before
        means += self._shares[n_earlier, None] * (self._predicted(slots, outputs) - means)
        self._means[slots], self._n_chunks[slots] = means, np.minimum(n_chunks[:, 0] + 1, self._chunks.chunk)
        return self._action_space.decode(means[:, 0])

    def _predicted(self, slots: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return the actions (n, H, dim) of chunks, in model units."""
        rows = self._chunks.split(outputs).reshape(-1, self._chunks.step_head.n_outputs)
        if self.deterministic:
            actions = self._head.mode(rows)
        else:
            uniforms = _next(self._uniforms[slots])
            uniforms[:, -1] = self._rng.uniform(slots, self._chunks.n_uniforms)
            self._uniforms[slots] = uniforms
            actions = self._head.sample(rows, uniforms.reshape(len(rows), -1))
        return actions.reshape(len(slots), self._chunks.chunk, -1)


def _next(actions: np.ndarray) -> np.ndarray:
    """Shift arrays (n, H, …) by one step. The last place becomes zero."""
    return np.concatenate([actions[:, 1:], np.zeros_like(actions[:, :1])], axis=1)


def _grown(memory: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Return a memory (n_slots, …) with zeros appended, so that it has a place for each of these slots (n,)."""
    missing = int(slots.max()) + 1 - len(memory)
    return memory if missing <= 0 else np.concatenate([memory, np.zeros((missing, *memory.shape[1:]), memory.dtype)])


def make_sampler(head: ActionHead, action_space: ActionSpace, *, deterministic: bool) -> ActionSampler:
    """Return a sampler for the outputs of a head, which may be `ActionChunks`. See `ActionSampler`."""
    if not isinstance(head, ActionChunks):
        return ActionSampler(head, action_space, deterministic=deterministic)
    made: type[ChunkSampler | EnsembleSampler] = ChunkSampler if head.ensemble is None else EnsembleSampler
    return made(head, action_space, deterministic=deterministic)
