"""Gymnasium's hand-written controllers that remember something, as policies. `env.heuristic` names one of them."""

import numpy as np
from gymnasium.envs.box2d.bipedal_walker import BipedalWalkerHeuristics

from ilt.rollout.policies import Policy


class BipedalWalker(Policy):
    """Gymnasium's controller for BipedalWalker: a state machine in each slot, which starts anew with each episode."""

    def __init__(self) -> None:
        self._controllers: dict[int, BipedalWalkerHeuristics] = {}

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        for slot in slots.tolist():
            self._controllers[slot] = BipedalWalkerHeuristics()

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        each = zip(slots.tolist(), observations, strict=True)
        return np.array([self._controllers[slot].step_heuristic(seen) for slot, seen in each], dtype=np.float32)
