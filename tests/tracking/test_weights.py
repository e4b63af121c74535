from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ilt.tracking.reading import UnreadableFileError
from ilt.tracking.weights import load_module, load_weights, save_weights


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
    with pytest.raises(UnreadableFileError, match=r"w\.safetensors contains no readable weights"):
        load_weights(path)


def test_any_flipped_bit_of_the_header_is_harmless_or_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(nn.Linear(2, 1), path, {"sizes": [1, 2]})
    content = path.read_bytes()
    for place in range(len(content) - 12):
        for bit in (1, 32, 128):
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            try:
                config, _ = load_weights(path)
                load_module(path, lambda: nn.Linear(2, 1), config, load_weights(path)[1])
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_in": 10**12}, "n_in=1000000000000 exceeds its number of weights"),
        ({"n_in": 16_000, "n_out": 16_000}, "bias, weight differ"),
        ({"n_in": 3}, "weight differ"),
        ({"n_in": -1}, "negative dimension"),
        ({"n_in": "x"}, "has weights of another model"),
        ({"n_other": 3}, "has weights of another model"),
    ],
)
def test_a_module_that_needs_more_than_the_file_contains_is_not_built(
    sizes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    built = []

    def build(n_in: int = 2, n_out: int = 1) -> nn.Module:
        module = nn.Linear(n_in, n_out)
        built.append(module.weight.device.type)
        return module

    path = tmp_path / "w.safetensors"
    save_weights(build(), path, sizes)
    _, state = load_weights(path)
    assert not load_module(path, build, {}, state).training
    built.clear()
    with pytest.raises(ValueError, match=rf"w\.safetensors has weights of another model: .*{message}|{message}"):
        load_module(path, lambda: build(**sizes), sizes, state)
    assert "cpu" not in built


@pytest.mark.parametrize("metadata", [None, {}, {"other": "1"}, {"config": "{"}])
def test_weights_without_the_config_of_their_module_are_refused(tmp_path: Path, metadata: dict | None) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "w.safetensors", metadata=metadata)
    with pytest.raises(UnreadableFileError, match=r"w\.safetensors contains no readable weights"):
        load_weights(tmp_path / "w.safetensors")
