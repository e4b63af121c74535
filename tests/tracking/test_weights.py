"""Weights on disk."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ilt.tracking.weights import load_weights, save_weights


def test_config_and_state_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    module, config = nn.BatchNorm1d(3), {"sizes": [1, 2], "positions": None, "dropout": 0.1}
    save_weights(module, tmp_path / "w.safetensors", config)
    loaded, state = load_weights(tmp_path / "w.safetensors")
    assert loaded == config
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        name: tensor.dtype for name, tensor in module.state_dict().items()
    }
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in state.items())


def test_weights_that_are_not_contiguous_are_saved_too(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    module.weight = nn.Parameter(torch.arange(6.0).view(2, 3).T)
    save_weights(module, tmp_path / "w.safetensors", {})
    assert torch.equal(load_weights(tmp_path / "w.safetensors")[1]["weight"], module.weight)


def test_the_file_is_a_json_header_and_numbers(tmp_path: Path) -> None:
    save_weights(nn.Linear(2, 1), tmp_path / "w.safetensors", {"a": 1})
    content = (tmp_path / "w.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert header["__metadata__"] == {"config": '{"a": 1}'}
    assert len(content) == 8 + size + 3 * 4


@pytest.mark.parametrize("size", [None, 0, 4, 30, -1])
def test_a_truncated_or_missing_file_is_an_error_that_names_it(tmp_path: Path, size: int | None) -> None:
    path = tmp_path / "w.safetensors"
    if size is not None:
        save_weights(nn.Linear(2, 1), path, {})
        path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"w\.safetensors holds no readable weights"):
        load_weights(path)


@pytest.mark.parametrize("metadata", [None, {}, {"other": "1"}, {"config": "{"}])
def test_weights_that_do_not_say_how_their_module_is_built_are_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "w.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"w\.safetensors holds no readable weights"):
        load_weights(tmp_path / "w.safetensors")
