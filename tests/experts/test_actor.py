"""The actor network."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ilt.experts.actor import Actor, NumpyActor, mlp
from ilt.models.heads import for_deviation


def small_actor() -> Actor:
    """An actor with some weights and some normalization."""
    torch.manual_seed(0)
    actor = Actor(observation_dim=3, n_outputs=4, hidden=[8, 6])
    for tensor in actor.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.1)
    return actor


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    actor, observations = small_actor(), torch.randn(5, 3)
    actor.save(tmp_path / "actor.safetensors")
    loaded = Actor.load(tmp_path / "actor.safetensors")
    assert torch.equal(loaded(observations), actor(observations))
    assert loaded.sizes == {"observation_dim": 3, "n_outputs": 4, "hidden": [8, 6], "continuous": False}
    assert not loaded.training


def test_normalization_is_inside_and_travels_with_the_weights(tmp_path: Path) -> None:
    actor = small_actor()
    actor.observation_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    actor.observation_std.copy_(torch.tensor([2.0, 4.0, 8.0]))
    actor.save(tmp_path / "actor.safetensors")
    logits = Actor.load(tmp_path / "actor.safetensors")(torch.tensor([[3.0, -2.0, 3.0]]))
    assert torch.equal(logits, actor.layers(torch.tensor([[1.0, -1.0, 0.0]])))


def test_a_new_actor_is_close_to_uniform() -> None:
    torch.manual_seed(0)
    actor = Actor(observation_dim=8, n_outputs=4, hidden=[64, 64])
    probabilities = actor(torch.randn(100, 8)).softmax(dim=-1)
    torch.testing.assert_close(probabilities, torch.full((100, 4), 0.25), atol=0.01, rtol=0)


def test_layers_start_orthogonal_with_tanh_between_them() -> None:
    layers = mlp([8, 8, 4])
    assert [type(layer).__name__ for layer in layers] == ["Linear", "Tanh", "Linear"]
    hidden, out = layers[0].weight, layers[2].weight
    torch.testing.assert_close(hidden @ hidden.T, 2 * torch.eye(8))
    torch.testing.assert_close(out @ out.T, 1e-4 * torch.eye(4))
    assert not layers[0].bias.any()


@pytest.mark.parametrize("content", [b"", b"garbage that is no header", None])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "actor.safetensors"
    small_actor().save(path)
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    with pytest.raises(ValueError, match=r"actor\.safetensors holds no readable weights"):
        Actor.load(path)


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"actor\.safetensors holds no readable weights"):
        Actor.load(tmp_path / "actor.safetensors")


@pytest.mark.parametrize("hidden", [[], [5], [64, 64]])
@pytest.mark.parametrize("continuous", [False, True])
def test_the_numpy_actor_computes_the_same(hidden: list[int], continuous: bool) -> None:
    torch.manual_seed(0)
    actor = Actor(observation_dim=8, n_outputs=4, hidden=hidden, continuous=continuous, log_std_init=-0.5)
    actor.observation_mean.normal_()
    actor.observation_std.uniform_(0.5, 2.0)
    for layer in actor.layers.parameters():
        torch.nn.init.normal_(layer, std=0.5)
    observations = torch.randn(64, 8)
    outputs = NumpyActor(actor)(observations.numpy())
    assert outputs.dtype == np.float32
    assert np.allclose(outputs[:, :4], actor(observations).detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs[:, 4:], for_deviation(np.array(-0.5)), rtol=1e-6)
    assert outputs.shape[1] == (8 if continuous else 4)


def test_the_numpy_actor_keeps_the_weights_of_its_making() -> None:
    actor = Actor(observation_dim=2, n_outputs=3, hidden=[4])
    made = NumpyActor(actor)
    before = made(np.ones((1, 2), np.float32))
    with torch.no_grad():
        actor.layers[0].weight.add_(1.0)
        actor.observation_mean.add_(1.0)
    assert np.array_equal(made(np.ones((1, 2), np.float32)), before)
