"""Action chunks: losses by hand, the first action, any head inside, and keys that do not go together."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ilt.envs.actions import ActionSpace
from ilt.models.check import check_model
from ilt.models.chunks import ActionChunks
from ilt.models.heads import ActionHead, Categorical, Gaussian, Regression
from ilt.models.spec import ModelSpec
from ilt.registry import load_option, options_of
from ilt.schema import ConfigError
from tests.models.test_check import BOX, FOUR, MULTI, SPACES, spec
from tests.models.test_heads import HEADS, ONE, uniforms

CHUNK = {"chunk": 3, "execute": 2}


def chunked(space: ActionSpace, *, head: str = "auto", name: str = "nano", **keys: Any) -> ModelSpec:
    """Return the spec of a model whose head has these keys."""
    return replace(spec(name, space), head={**load_option("head", head), **keys})


def random_outputs(head: ActionHead, n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, head.n_outputs)).astype(np.float32)


def test_the_loss_is_the_mean_over_real_actions() -> None:
    head = ActionChunks(Regression(action_space=ONE), chunk=2)
    outputs, targets = torch.tensor([[0.1, 0.2], [0.3, 9.9]]), torch.tensor([[[0.0], [0.0]], [[0.0], [float("nan")]]])
    outputs.requires_grad_()
    loss = head.loss(outputs, targets, torch.tensor([[True, True], [True, False]]))
    assert loss.item() == pytest.approx((0.01 + 0.04 + 0.09) / 3)
    loss.backward()
    assert outputs.grad is not None
    torch.testing.assert_close(outputs.grad, torch.tensor([[0.2, 0.4], [0.6, 0.0]]) / 3)


def test_the_loss_of_choices_by_hand() -> None:
    head = ActionChunks(Categorical(action_space=FOUR), chunk=2)
    outputs = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.7, 0.1, 0.1, 0.1]]))
    assert head.loss(outputs, torch.tensor([[3, 0]])).item() == pytest.approx(-(math.log(0.4) + math.log(0.7)) / 2)


@pytest.mark.parametrize("name", HEADS)
def test_any_head_can_predict_chunks(name: str) -> None:
    space, step_head = HEADS[name]
    head, drawn = ActionChunks(step_head, chunk=3), uniforms(step_head, 7)
    outputs = random_outputs(head, 7)
    rows = head.split(outputs)
    assert rows.shape == (7, 3, step_head.n_outputs)
    # as a head, it speaks of the first action
    np.testing.assert_array_equal(head.mode(outputs), step_head.mode(rows[:, 0]))
    np.testing.assert_array_equal(head.sample(outputs, drawn), step_head.sample(rows[:, 0], drawn))
    targets = torch.from_numpy(step_head.mode(rows.reshape(21, -1))).clamp(-1, 3)
    loss = head.loss(torch.from_numpy(outputs), targets.reshape(space.zeros(7, 3).shape))
    assert torch.equal(loss, step_head.loss(torch.from_numpy(rows.reshape(21, -1)), targets))


@pytest.mark.parametrize("name", HEADS)
def test_a_chunk_of_one_action_is_the_head_itself(name: str) -> None:
    _, step_head = HEADS[name]
    head, drawn = ActionChunks(step_head, chunk=1), uniforms(step_head, 7)
    outputs = random_outputs(head, 7)
    targets = torch.from_numpy(step_head.mode(outputs)).clamp(-1, 3)
    assert (head.n_outputs, head.n_uniforms) == (step_head.n_outputs, step_head.n_uniforms)
    np.testing.assert_array_equal(head.mode(outputs), step_head.mode(outputs))
    np.testing.assert_array_equal(head.sample(outputs, drawn), step_head.sample(outputs, drawn))
    alone, mask = step_head.loss(torch.from_numpy(outputs), targets), torch.ones(7, 1, dtype=torch.bool)
    for given in (None, mask):
        assert torch.equal(head.loss(torch.from_numpy(outputs), targets[:, None], given), alone)


def test_by_default_a_head_has_no_chunks() -> None:
    for name in options_of("head"):
        space = FOUR if name in ("auto", "categorical") else BOX
        head = chunked(space, head=name).build_head()
        assert not isinstance(head, ActionChunks)
        kept = {key: value for key, value in load_option("head", name).items() if key not in (*CHUNK, "ensemble")}
        assert type(replace(spec("nano", space), head=kept).build_head()) is type(head)  # as in older files


@pytest.mark.parametrize("name", ["nano", "mlp", "gru"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_models_with_chunks_keep_the_contract(name: str, space: ActionSpace) -> None:
    torch.manual_seed(0)
    model, head = chunked(space, name=name, **CHUNK).build()
    assert isinstance(head, ActionChunks)
    assert model.n_outputs == head.n_outputs == 3 * head.step_head.n_outputs
    check_model(model)


def test_a_saved_model_loads_with_its_chunks(tmp_path: Path) -> None:
    saved = chunked(BOX, head="gaussian", chunk=4, ensemble=0.25)
    saved.save(saved.build()[0], tmp_path / "model.safetensors")
    loaded, _, head = ModelSpec.load(tmp_path / "model.safetensors")
    assert loaded == saved
    assert isinstance(head, ActionChunks)
    assert isinstance(head.step_head, Gaussian)
    assert (head.chunk, head.execute, head.ensemble) == (4, 1, 0.25)


class Absolute(ActionHead):
    """A head of somebody else's, with a key of its own, that does not know about chunks."""

    def __init__(self, *, action_space: ActionSpace, scale: float) -> None:
        self.n_outputs, self.n_uniforms, self._scale = action_space.dim, 0, scale

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._scale * (outputs - targets).abs().mean()

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        return outputs

    def sample(self, outputs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        return outputs


def test_a_head_of_another_package_has_chunks_too() -> None:
    own = {"_target_": f"{__name__}.Absolute", "scale": 2.0}
    assert type(replace(spec("nano", ONE), head=own).build_head()) is Absolute
    head = replace(spec("nano", ONE), head={**own, **CHUNK}).build_head()
    assert isinstance(head, ActionChunks)
    mask = torch.tensor([[True, False, False]])
    assert head.loss(torch.tensor([[0.5, 9.0, 9.0]]), torch.zeros(1, 3, 1), mask).item() == 1.0


@pytest.mark.parametrize(
    ("space", "keys", "message"),
    [
        (BOX, {"chunk": 0}, "head.chunk must be an integer of at least 1, got 0"),
        (BOX, {"chunk": "4"}, "head.chunk must be an integer of at least 1, got '4'"),
        (BOX, {"chunk": 3, "execute": 4}, "head.execute must be from 1 to head.chunk = 3, got 4"),
        (BOX, {"execute": 2}, "head.execute must be from 1 to head.chunk = 1, got 2"),
        (BOX, {"chunk": 3, "execute": 0}, "head.execute must be an integer of at least 1, got 0"),
        (BOX, {"ensemble": 0.1}, "head.ensemble must be null where head.chunk is 1, .*, got 0.1"),
        (BOX, {"chunk": 3, "execute": 2, "ensemble": 0.1}, "head.execute must be 1 where head.ensemble is set, .* 2"),
        (BOX, {"chunk": 3, "ensemble": math.inf}, "head.ensemble must be a number, or null, got inf"),
        (FOUR, {"chunk": 3, "ensemble": 0.0}, "head.ensemble must be null for Discrete .*, got 0.0"),
        (MULTI, {"chunk": 3, "ensemble": 0.1}, "head.ensemble must be null for Discrete and MultiDiscrete"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(space: ActionSpace, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chunked(space, **keys).build_head()
