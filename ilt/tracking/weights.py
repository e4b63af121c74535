"""Weights on disk: safetensors files with the module's config as metadata. Reading one runs no code."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ilt.schema import ConfigError, leaves
from ilt.tracking.reading import UnreadableFileError

_LARGE = 16_384  # a size that any model may have, however few weights it has; its square fits into memory
_Module = TypeVar("_Module", bound=nn.Module)


def save_weights(module: nn.Module, path: Path, config: Mapping[str, Any]) -> None:
    """Write a module's state, and its config, which must consist of plain containers."""
    save_tensors(module.state_dict(), path, config)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, config: Mapping[str, Any]) -> None:
    """Write tensors, by name, and their config, which must consist of plain containers."""
    written = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(written, path, metadata={"config": json.dumps(config)})


def load_weights(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Load the config and tensors that `save_weights` or `save_tensors` wrote. Raise UnreadableFileError on failure."""
    try:
        with safe_open(path, framework="pt") as file:
            config = dict(json.loads(file.metadata()["config"]))
            return config, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # a damaged or foreign file may fail in any way
        raise UnreadableFileError(f"{path} contains no readable weights: {error}") from error


def load_module(
    path: Path,
    build: Callable[[], _Module],
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    plan: bool = True,
) -> _Module:
    """Build the module that a weights file describes, load its weights, and return it in evaluation mode.

    Args:
        path: the file, for error messages.
        build: builds the module.
        config: the sizes that `build` uses.
        state: the weights.
        plan: whether to compare the module's size with the weights before allocating memory for it.

    Raises:
        ConfigError: `build` raises it; the path is added.
        UnreadableFileError: the weights do not fit the module.
    """
    try:
        if plan:
            _check_plan(build, config, state)
        module = build()
        module.load_state_dict(state)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except Exception as error:  # a damaged or foreign file may fail in any way
        raise UnreadableFileError(f"{path} has weights of another model: {error or type(error).__name__}") from error
    return module.eval()


def _check_plan(build: Callable[[], nn.Module], config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    held = sum(tensor.numel() for tensor in state.values())
    for name, value in leaves(config):
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number > max(held, _LARGE):
                raise ValueError(f"{name}={number} exceeds its number of weights")
    with torch.device("meta"):
        planned = build()
    wanted, given = ({name: tuple(t.shape) for name, t in each.items()} for each in (planned.state_dict(), state))
    if wanted != given:
        differing = sorted(name for name in {*wanted, *given} if wanted.get(name) != given.get(name))
        raise ValueError(f"{', '.join(differing[:3])} differ")
    if (needed := sum(buffer.numel() for buffer in planned.buffers())) > held + _LARGE**2:
        raise ValueError(f"it needs {needed:,} numbers besides its {held:,} weights")
