"""The actor network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ilt.experts.actor import Actor, FastActor
from ilt.models import native
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


KINDS = [{}, {"continuous": True}, {"activation": "relu"}, {"continuous": True, "activation": "relu", "squash": True}]


@pytest.mark.parametrize("language", ["c", "numpy"])
@pytest.mark.parametrize("hidden", [[], [5], [64, 64], [20, 40, 3]], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_fast_actor_matches_and_keeps_the_weights_it_was_made_with(
    kind: dict[str, Any], hidden: list[int], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if language == "numpy":
        monkeypatch.setattr(native, "perceive", None)
    elif native.perceive is None:
        pytest.skip("ilt was installed without a C compiler")
    torch.manual_seed(0)
    actor = Actor(observation_dim=8, n_outputs=4, hidden=hidden, log_std_init=-0.5, **kind)
    actor.observation_mean.normal_()
    actor.observation_std.uniform_(0.5, 2.0)
    for layer in actor.layers.parameters():
        torch.nn.init.normal_(layer, std=0.5)
    observations = torch.randn(63, 8)
    made = FastActor(actor)
    outputs = made(observations.numpy())
    with_deviations = "continuous" in kind and "squash" not in kind
    assert (outputs.dtype, outputs.shape) == (np.float32, (63, 8 if with_deviations else 4))
    assert np.allclose(outputs[:, :4], actor(observations).detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs[:, 4:], for_deviation(np.array(-0.5)), rtol=1e-6)
    with np.errstate(invalid="ignore"):
        assert np.isnan(made(np.full((1, 8), np.nan, dtype=np.float32))[:, :4]).all()
    assert made(observations[:0].numpy()).shape == outputs[:0].shape
    for tensor in actor.state_dict().values():
        tensor.add_(1.0)
    assert np.array_equal(made(observations.numpy()), outputs)


@pytest.mark.skipif(native.perceive is None, reason="ilt was installed without a C compiler")
def test_arrays_that_do_not_fit_are_refused() -> None:
    x, out = native.rows(4, 8), native.rows(4, 3)
    first, second = (native.padded(np.ones((n, 3), dtype=np.float32)) for n in (8, 3))
    bias = native.padded(np.zeros(3))
    native.perceive((first, bias, second, bias), x, out, 4, True, False)
    for layers, given, n_rows in (
        ((first, bias, second), x, 4),
        ((), x, 4),
        ((first, bias), x, 3),
        ((first, bias), x, 8),
        ((first, bias[:3]), x, 4),
        ((first[:, :3].copy(), bias), x, 4),
        ((np.ones((20, 16), dtype=np.float32), bias), x, 4),
        ((first.astype(np.float64), bias), x, 4),
        ((first, bias), x.T, 4),
    ):
        with pytest.raises(ValueError, match=r"must|contiguous"):
            native.perceive(layers, given, out, n_rows, True, False)
