"""The actor network."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ilt.experts.actor import Actor, NumpyActor
from ilt.models.heads import for_deviation


def test_a_saved_actor_loads_with_its_normalization(tmp_path: Path) -> None:
    actor = Actor(observation_dim=3, n_outputs=4, hidden=[8, 6])
    actor.observation_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    actor.observation_std.copy_(torch.tensor([2.0, 4.0, 8.0]))
    actor.save(tmp_path / "actor.safetensors")
    loaded = Actor.load(tmp_path / "actor.safetensors")
    assert loaded.sizes == {"observation_dim": 3, "n_outputs": 4, "hidden": [8, 6], "continuous": False}
    assert not loaded.training
    normalized = actor.layers(torch.tensor([[1.0, -1.0, 0.0]]))
    assert torch.equal(loaded(torch.tensor([[3.0, -2.0, 3.0]])), normalized)


def test_a_new_actor_is_orthogonal_with_tanh_between_its_layers_and_close_to_uniform() -> None:
    torch.manual_seed(0)
    actor = Actor(observation_dim=8, n_outputs=4, hidden=[8])
    assert [type(layer).__name__ for layer in actor.layers] == ["Linear", "Tanh", "Linear"]
    hidden, _, out = actor.layers
    torch.testing.assert_close(hidden.weight @ hidden.weight.T, 2 * torch.eye(8))
    torch.testing.assert_close(out.weight @ out.weight.T, 1e-4 * torch.eye(4))
    assert not hidden.bias.any()
    probabilities = actor(torch.randn(100, 8)).softmax(dim=-1)
    torch.testing.assert_close(probabilities, torch.full((100, 4), 0.25), atol=0.01, rtol=0)


@pytest.mark.parametrize("hidden", [[], [5], [64, 64]])
@pytest.mark.parametrize("continuous", [False, True])
def test_the_numpy_actor_matches_and_keeps_the_weights_it_was_made_with(hidden: list[int], continuous: bool) -> None:
    torch.manual_seed(0)
    actor = Actor(observation_dim=8, n_outputs=4, hidden=hidden, continuous=continuous, log_std_init=-0.5)
    actor.observation_mean.normal_()
    actor.observation_std.uniform_(0.5, 2.0)
    for layer in actor.layers.parameters():
        torch.nn.init.normal_(layer, std=0.5)
    observations = torch.randn(64, 8)
    made = NumpyActor(actor)
    outputs = made(observations.numpy())
    assert (outputs.dtype, outputs.shape[1]) == (np.float32, 8 if continuous else 4)
    assert np.allclose(outputs[:, :4], actor(observations).detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs[:, 4:], for_deviation(np.array(-0.5)), rtol=1e-6)
    for tensor in actor.state_dict().values():
        tensor.add_(1.0)
    assert np.array_equal(made(observations.numpy()), outputs)
