"""A weights file is enough to rebuild its model and head, and runs no untrusted code."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ilt.envs.actions import ActionSpace
from ilt.models.heads import Discretized
from ilt.models.recurrent import Recurrent
from ilt.models.spec import ModelSpec
from ilt.schema import ConfigError
from ilt.tracking.weights import save_tensors
from tests.models.test_check import BASELINES, BOX, SPACES, make_up, spec


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", ["nano", *BASELINES])
def test_a_saved_model_loads_unchanged(name: str, space: ActionSpace, tmp_path: Path) -> None:
    saved, path = spec(name, space, dropout=0.1), tmp_path / "model.safetensors"
    model, head = saved.build()
    model.set_normalization(torch.arange(4.0), torch.arange(1.0, 5.0))
    saved.save(model, path)
    loaded, again, its_head = ModelSpec.load(path)
    assert loaded == saved
    assert not again.training
    assert torch.equal(again(*make_up(space)), model.eval()(*make_up(space)))
    assert type(its_head) is type(head)
    assert its_head.n_outputs == head.n_outputs == again.n_outputs


def test_the_head_loads_with_its_keys(tmp_path: Path) -> None:
    saved = replace(spec("nano", BOX), head={"_target_": "ilt.models.heads.Discretized", "n_bins": 7})
    saved.save(saved.build()[0], tmp_path / "model.safetensors")
    _, model, head = ModelSpec.load(tmp_path / "model.safetensors")
    assert isinstance(head, Discretized)
    assert head.n_outputs == model.n_outputs == 14


class Foreign(Recurrent):
    """A model from another package."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(cell="gru", d_model=4, n_layer=1, dropout=0.0, **sizes)


def test_code_of_other_packages_runs_only_if_trusted(tmp_path: Path) -> None:
    saved = replace(spec("nano", BOX), model={"_target_": f"{__name__}.Foreign"})
    saved.save(saved.build()[0], tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model\._target_=.*Foreign is not a component of ilt.*trust=\[tests\]"):
        ModelSpec.load(tmp_path / "model.safetensors")
    assert isinstance(ModelSpec.load(tmp_path / "model.safetensors", trust=["tests"])[1], Foreign)


@pytest.mark.parametrize(
    "change", [{"context_length": n} for n in (10**6, 10**12, [])] + [{"observation_dim": n} for n in (10**9, -1)]
)
def test_a_file_that_asks_for_more_memory_than_its_weights_need_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    saved = spec("nano", BOX)
    evil = ModelSpec(**{**vars(saved), **change})
    evil.save(saved.build()[0], tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors(: | has weights of another model: )"):
        ModelSpec.load(tmp_path / "model.safetensors")


def test_a_target_in_a_file_is_not_called(tmp_path: Path) -> None:
    saved = spec("nano", BOX)
    replace(saved, head={"_target_": "os.abort"}).save(saved.build()[0], tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"head\._target_=os\.abort is not a component of ilt"):
        ModelSpec.load(tmp_path / "model.safetensors")


def test_a_target_other_than_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\._target_ must be a subclass of ilt\.SequenceModel"):
        replace(spec("nano", BOX), model={"_target_": "ilt.envs.actions.ActionSpace"}).build()
    with pytest.raises(ConfigError, match=r"head\._target_ must be a subclass of ilt\.ActionHead, got .*ActionSpace"):
        replace(spec("nano", BOX), head={"_target_": "ilt.envs.actions.ActionSpace"}).build()


def test_a_wrong_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.n_layers is not a key .*did you mean model\.n_layer\?"):
        spec("nano", BOX, n_layers=3).build()


@pytest.mark.parametrize("damage", ["text", "cut", "other", "old"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    path, saved = tmp_path / "model.safetensors", spec("nano", BOX)
    saved.save(saved.build()[0], path)
    message = "contains no readable weights"
    if damage == "text":
        path.write_bytes(b"no weights")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "other":
        spec("tiny", BOX).save(saved.build()[0], path)
        message = "has weights of another model"
    else:
        save_tensors({"weight": torch.zeros(1)}, path, {"n_actions": 4})
        message = "was not written by this version of ilt"
    with pytest.raises(ValueError, match=rf"model\.safetensors {message}"):
        ModelSpec.load(path)
