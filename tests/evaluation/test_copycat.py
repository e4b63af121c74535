"""How much students rely on past actions: one that repeats its last action, and one that looks."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ilt.data.episodes import Episodes
from ilt.envs.actions import ActionSpace
from ilt.evaluation.copycat import copycat, mean_change
from ilt.models.base import SequenceModel
from ilt.models.heads import Categorical, Regression

THREE = ActionSpace(n_choices=(3,), start=(1,))
PAIRS = ActionSpace(n_choices=(3, 2), start=(0, 0), shape=(2,))
BOX = ActionSpace(low=(-2.0,), high=(2.0,), shape=(1,))


def episodes_of(*actions: list[Any], space: ActionSpace) -> Episodes:
    """Return episodes with these actions, each of which its observation tells."""
    flat = np.concatenate([np.array(each, dtype=space.dtype) for each in actions])
    lengths = np.array([len(each) for each in actions])
    encoded = space.encode(flat).reshape(len(flat), -1)
    seen = [np.vstack([part, part[:1]]) for part in np.split(encoded, lengths.cumsum()[:-1])]
    return Episodes(
        observations=np.concatenate(seen).astype(np.float32),
        actions=flat,
        rewards=np.zeros(len(flat)),
        lengths=lengths,
        terminated=np.ones(len(lengths), dtype=bool),
        truncated=np.zeros(len(lengths), dtype=bool),
        seeds=np.arange(len(lengths)),
    )


class Looking(SequenceModel):
    """Takes the action that the observation tells."""

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.outputs(observations)

    def outputs(self, wanted: Tensor) -> Tensor:
        if self.action_space.continuous:
            return wanted
        sizes = self.action_space.n_choices
        parts = [torch.eye(n)[wanted[..., i].long().clamp(0)] for i, n in enumerate(sizes)]
        return torch.cat(parts, dim=-1)


class Repeating(Looking):
    """Repeats the last action of the window; the first one is 0."""

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        past = actions if actions.ndim == 3 else actions[..., None]
        return self.outputs(torch.cat([torch.zeros_like(past[:, :1]), past[:, :-1]], dim=1).float())


def measure(kind: type[SequenceModel], episodes: Episodes, space: ActionSpace) -> dict[str, float]:
    head = Regression(action_space=space) if space.continuous else Categorical(action_space=space)
    model = kind(
        observation_dim=episodes.observations.shape[1], action_space=space, n_outputs=head.n_outputs, context_length=3
    )
    return copycat(model, head, episodes, action_space=space, context_length=3)


CHOICES = episodes_of([1, 1, 2, 2, 3, 3], [3, 3, 3, 3, 1, 1], space=THREE)
SEVERAL = episodes_of([[0, 0], [0, 0], [0, 1], [2, 1]], [[1, 0], [1, 0], [1, 1], [1, 1]], space=PAIRS)
NUMBERS = episodes_of([[0.0], [0.0], [2.0], [2.0]], [[0.0], [0.2], [0.2], [0.2]], space=BOX)


@pytest.mark.parametrize(
    ("episodes", "space", "change"),
    [(CHOICES, THREE, 3 / 10), (SEVERAL, PAIRS, 3 / 6), (NUMBERS, BOX, (1.0 + 0.1) / 6)],
    ids=["choices", "several choices", "numbers"],
)
def test_changes_are_counted_within_episodes(episodes: Episodes, space: ActionSpace, change: float) -> None:
    assert mean_change(episodes, space) == pytest.approx(change)
    assert mean_change(episodes_of([episodes.actions[0]], space=space), space) is None


@pytest.mark.parametrize(
    ("episodes", "space", "error"),
    [(CHOICES, THREE, 1.0), (SEVERAL, PAIRS, 1.0), (NUMBERS, BOX, 1.0)],  # for numbers: at the change by 2, half of 4
    ids=["choices", "several choices", "numbers"],
)
def test_a_student_that_repeats_itself_errs_at_every_change_and_moves_with_its_past(
    episodes: Episodes, space: ActionSpace, error: float
) -> None:
    repeating, looking = measure(Repeating, episodes, space), measure(Looking, episodes, space)
    assert looking == {"error_at_changes": 0.0, "moved_by_swap": 0.0}
    assert repeating["error_at_changes"] == pytest.approx(error)
    assert repeating["moved_by_swap"] > 0.05


def test_an_expert_that_never_changes_has_no_error_at_changes() -> None:
    assert measure(Repeating, episodes_of([1, 1, 1], [2, 2, 2], space=THREE), THREE) == {"moved_by_swap": 1.0}


@pytest.mark.parametrize("space", [THREE, BOX], ids=["choices", "numbers"])
def test_episodes_of_one_step_have_no_past_actions(space: ActionSpace) -> None:
    one = [1] if space is THREE else [1.0]
    episodes = episodes_of([one] if space is BOX else one, [one] if space is BOX else one, space=space)
    assert measure(Looking, episodes, space) == {}
