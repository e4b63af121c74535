"""Weights on disk: one safetensors file that also says how the module is built. Reading one runs no code."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_weights(module: nn.Module, path: Path, config: dict[str, Any]) -> None:
    """Write a module's state and the keyword arguments that build it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, path, metadata={"config": json.dumps(config)})


def load_weights(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The keyword arguments and the state that `save_weights` wrote. ValueError if the file is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["config"])
            return config, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no readable weights: {error}") from error
