"""Returns-to-go: what a return-conditioned student aims for.

In training, the return-to-go of a step is what the episode earned from there on. In a rollout, it is a target return
minus what was earned so far. Chen et al. 2021, [Decision Transformer](https://arxiv.org/abs/2106.01345), section 3.
"""

from dataclasses import replace

import numpy as np

from ilt.data.episodes import Episodes

RETURN_TO_GO = "step/return_to_go"
"""Key in `Episodes.extras` of the returns-to-go, if the recorded rewards end before the episode did."""


def returns_to_go(episodes: Episodes, target_return: float | None = None) -> np.ndarray:
    """Return the return-to-go (sum T,) float64 at every step, not discounted.

    Args:
        target_return: the return of every episode, of which is left what was not yet earned, as in a rollout. None for
            what each episode earned from the step on, or its own `step/return_to_go`.
    """
    if target_return is None and RETURN_TO_GO in episodes.extras:
        return episodes.extras[RETURN_TO_GO].astype(np.float64)
    before = np.cumsum(episodes.rewards) - episodes.rewards
    before -= np.repeat(before[episodes.step_offsets], episodes.lengths)  # earned in the episode so far
    totals = episodes.returns if target_return is None else np.full(len(episodes), target_return)
    return np.repeat(totals, episodes.lengths) - before


def keep_returns_to_go(episodes: Episodes) -> Episodes:
    """Record the returns-to-go, so that they stay what they are if the last episode is cut short."""
    return replace(episodes, extras={**episodes.extras, RETURN_TO_GO: returns_to_go(episodes)})


def condition(observations: np.ndarray, to_go: np.ndarray) -> np.ndarray:
    """Append returns-to-go (n,) to observations (n, obs_dim). Return what a return-conditioned model sees, float32."""
    return np.concatenate([observations, to_go[:, None].astype(np.float32)], axis=1)


def seen_by_model(episodes: Episodes, *, return_conditioned: bool, target_return: float | None = None) -> np.ndarray:
    """Return the observations (sum(T+1), obs_dim) float32 of episodes as a model sees them.

    For a return-conditioned model, the last number of each is the return-to-go. It is 0 after the last action.

    Args:
        target_return: see `returns_to_go`.
    """
    if not return_conditioned:
        return episodes.observations
    to_go = np.zeros(len(episodes.observations))
    rows = np.arange(len(episodes.actions)) + np.repeat(np.arange(len(episodes)), episodes.lengths)
    to_go[rows] = returns_to_go(episodes, target_return)
    return condition(episodes.observations, to_go)
