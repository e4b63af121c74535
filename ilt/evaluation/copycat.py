"""The copycat problem: whether a student copies its past actions instead of reacting to its observations.

An expert often repeats its last action, so a student that sees past actions may learn to copy them. It then predicts
well, but acts badly (Wen et al. 2020, "Fighting copycat agents in behavioral cloning from observation histories",
NeurIPS).
"""

import numpy as np
import torch

from ilt.data.episodes import Episodes
from ilt.envs.actions import ActionSpace
from ilt.models.base import SequenceModel
from ilt.models.heads import ActionHead
from ilt.models.inspection import deployed_batches

MOST_EPISODES = 20
"""Demonstrations that are used, which takes little time."""


def copycat(
    model: SequenceModel, head: ActionHead, demonstrations: Episodes, *, action_space: ActionSpace, context_length: int
) -> dict[str, float]:
    """Measure on demonstrations how much a student relies on past actions.

    Distances between two actions are 0 or 1 for choices, and the mean absolute difference in model units for numbers.

    Args:
        demonstrations: episodes of the expert that the student was not trained on.
        context_length: steps that the student sees, at least 2.

    Returns:
        `error_at_changes`, the mean distance from the expert's action at steps where it changes (for numbers, by more
        than on average), and `moved_by_swap`, the mean distance that the student's action moves if past actions are
        those of other windows. The first is missing if the expert never changes its action, and both are if all
        episodes have one step.
    """
    used = demonstrations.first(min(len(demonstrations), MOST_EPISODES))
    changes, errors, moves = [], [], []
    with torch.no_grad():
        for batch in deployed_batches(model, used, action_space=action_space, context_length=context_length):
            actions, scored = batch["actions"], batch["scored"].clone()
            scored[:, 0] = False  # no action before it
            swapped = actions.roll(len(actions) // 2, dims=0)
            chosen, moved = (
                head.mode(model(batch["observations"], past, batch["mask"])[scored].numpy())
                for past in (actions, swapped)
            )
            before, wanted = actions.roll(1, dims=1)[scored].numpy(), actions[scored].numpy()
            changes.append(_distances(wanted, before))
            errors.append(_distances(chosen, wanted))
            moves.append(_distances(chosen, moved))
    change, error = np.concatenate(changes), np.concatenate(errors)
    if len(change) == 0:
        return {}
    at = (change > 0) & (change >= change.mean())
    found = {"moved_by_swap": float(np.concatenate(moves).mean())}
    return {"error_at_changes": float(error[at].mean()), **found} if at.any() else found


def mean_change(episodes: Episodes, action_space: ActionSpace) -> float | None:
    """Return the mean distance between successive actions: for choices, how often they change.

    None if no episode has two steps. Distances are those of `copycat`.
    """
    actions = action_space.encode(episodes.actions)
    within = np.ones(len(actions), dtype=bool)
    within[episodes.step_offsets] = False
    later = np.flatnonzero(within)
    return float(_distances(actions[later], actions[later - 1]).mean()) if len(later) else None


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the distances (n,) float between actions (n,) or (n, dim) in model units."""
    if one.dtype.kind == "f":
        return np.abs(one - other).mean(axis=1)
    apart = one != other
    return (apart if apart.ndim == 1 else apart.any(axis=1)).astype(np.float64)
