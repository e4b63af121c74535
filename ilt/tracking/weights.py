"""Weights on disk: safetensors files with the config of the module as metadata. Reading one runs no code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_weights(module: nn.Module, path: Path, config: Mapping[str, Any]) -> None:
    """Write a module's state, and its config as plain containers."""
    save_tensors(module.state_dict(), path, config)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, config: Mapping[str, Any]) -> None:
    """Write tensors by name, and their config as plain containers."""
    written = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(written, path, metadata={"config": json.dumps(config)})


def load_weights(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Load config and tensors that `save_weights` or `save_tensors` wrote. ValueError if the file is not readable."""
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["config"])
            return config, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no readable weights: {error}") from error
