"""The faults of `ilt study faults` are what they say, and nothing else changes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ilt.data.windows import WindowDataset
from ilt.envs.actions import ActionSpace
from ilt.models.decoder import Decoder
from ilt.studies.faults import ActionReadout, EqualLayers, StatesAfterActions, UnscaledActions
from tests.evaluation.test_copycat import episodes_of

TORQUE = ActionSpace(low=(-2.0,), high=(2.0,), shape=(1,))
THREE = ActionSpace(n_choices=(3,), start=(0,))
EPISODES = episodes_of([[0.5], [1.0], [-2.0], [0.0]], space=TORQUE)


def batch_of(kind: type[WindowDataset]) -> dict[str, Tensor]:
    windows = kind(EPISODES, action_space=TORQUE, context_length=3)
    return windows.__getitems__(torch.arange(len(windows)))


def model_of(kind: type[Decoder], **options: Any) -> Decoder:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"observation_dim": 2, "action_space": THREE, "n_outputs": 3, "context_length": 4}
    return kind(**sizes, n_layer=2, n_head=2, d_model=8, **options)


@pytest.mark.parametrize("kind", [StatesAfterActions, UnscaledActions])
def test_faulty_windows_change_one_thing(kind: type[WindowDataset]) -> None:
    right, wrong = batch_of(WindowDataset), batch_of(kind)
    changed = "observations" if kind is StatesAfterActions else "actions"
    for name in right.keys() - {changed}:
        torch.testing.assert_close(wrong[name], right[name])
    if changed == "observations":
        torch.testing.assert_close(wrong[changed][:, :-1], right[changed][:, 1:])
    else:
        torch.testing.assert_close(wrong[changed], 2 * right[changed])


def test_equal_layers_are_those_of_the_first_block() -> None:
    right, wrong = model_of(Decoder), model_of(EqualLayers)
    first, second = (block.state_dict() for block in wrong.blocks)
    torch.testing.assert_close(first, right.blocks[0].state_dict())
    torch.testing.assert_close(second, first)


@pytest.mark.parametrize("positions", ["rotary", "learned", "none"])
def test_an_unsupervised_readout_trains_as_usual_and_ignores_nothing_that_it_should_see(positions: str) -> None:
    """While acting, each output is read one token later, from the action that is to be predicted."""
    right, wrong = (model_of(kind, positions=positions) for kind in (Decoder, ActionReadout))
    seen, actions = torch.randn(5, 4, 2), torch.from_numpy(np.random.default_rng(0).integers(0, 3, (5, 4)))
    torch.testing.assert_close(wrong(seen, actions), right(seen, actions))
    right.eval(), wrong.eval()
    outputs, other = wrong(seen, actions), actions.clone()
    assert outputs.shape == (5, 4, 3)
    assert (outputs - right(seen, actions)).abs().max() > 1e-3
    other[:, 1] = (other[:, 1] + 1) % 3
    changed = (wrong(seen, other) - outputs).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.tolist() == [False, True, True, True]  # step 1 itself: it reads the token of its own action
