from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ilt.tracking.weights import load_weights, save_weights


def test_config_and_state_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    module, config = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), {"sizes": [1, 2], "positions": None}
    module[0].weight = nn.Parameter(torch.arange(6.0).view(2, 3).T)  # not contiguous
    save_weights(module, tmp_path / "w.safetensors", config)
    loaded, state = load_weights(tmp_path / "w.safetensors")
    assert loaded == config
    torch.testing.assert_close(state, dict(module.state_dict()), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("size", [None, 0, 4, 30, -1])
def test_a_truncated_or_missing_file_is_an_error_that_names_it(tmp_path: Path, size: int | None) -> None:
    path = tmp_path / "w.safetensors"
    if size is not None:
        save_weights(nn.Linear(2, 1), path, {})
        path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"w\.safetensors holds no readable weights"):
        load_weights(path)


@pytest.mark.parametrize("metadata", [None, {}, {"other": "1"}, {"config": "{"}])
def test_weights_without_the_config_of_their_module_are_refused(tmp_path: Path, metadata: dict | None) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "w.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"w\.safetensors holds no readable weights"):
        load_weights(tmp_path / "w.safetensors")
