"""The expert's actor in NumPy."""

import numpy as np
import pytest
import torch
from ilt.experts.numpy_actor import NumpyActor

from ilt.experts.actor import Actor


@pytest.mark.parametrize("hidden", [[], [5], [64, 64]])
def test_its_logits_are_the_actors(hidden: list[int]) -> None:
    torch.manual_seed(0)
    actor = Actor(observation_dim=8, n_actions=4, hidden=hidden)
    actor.observation_mean.normal_()
    actor.observation_std.uniform_(0.5, 2.0)
    for parameter in actor.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    observations = torch.randn(64, 8)
    logits = NumpyActor(actor)(observations.numpy())
    assert logits.dtype == np.float32
    assert np.allclose(logits, actor(observations).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_it_keeps_the_weights_of_its_making() -> None:
    actor = Actor(observation_dim=2, n_actions=3, hidden=[4])
    lean = NumpyActor(actor)
    before = lean(np.ones((1, 2), np.float32))
    with torch.no_grad():
        actor.layers[0].weight.add_(1.0)
        actor.observation_mean.add_(1.0)
    assert np.array_equal(lean(np.ones((1, 2), np.float32)), before)
