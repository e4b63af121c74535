"""A lower bound on the memory that a config needs, estimated before anything is allocated."""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from ilt.data.config import is_return_conditioned
from ilt.schema import ConfigError, schema_of

_GRADIENT = 8
"""Bytes of a parameter and its gradient, in float32."""

_MODULE = 1000
"""Memory of a layer's Python objects, as a number of parameters."""


def machine_memory() -> float:
    """Return how many bytes this process may use: the machine's memory, or the limit of its control group if lower."""
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else float("inf")
    return min(here, float("inf") if allowed == "max" else int(allowed))


def check_memory(cfg: Any) -> None:
    """Raise ConfigError, naming the keys, if the least memory that a config needs exceeds this machine's."""
    here = machine_memory()
    for keys, n_bytes in _least_memory(cfg):
        if n_bytes > here:
            raise ConfigError(
                f"{keys} must be smaller: at least {n_bytes / 1e9:,.0f} GB of memory are needed, and this machine has "
                f"{here / 1e9:,.0f} GB"
            )


def _least_memory(cfg: Any) -> Iterator[tuple[str, float]]:
    """Yield keys with their values, and a lower bound on the bytes that they need together."""
    if "expert" in cfg and "hidden" in cfg.expert:
        n_parameters = sum(a * b for a, b in pairwise([1, *cfg.expert.hidden, 1]))
        yield f"expert.hidden={list(cfg.expert.hidden)}", 2 * _GRADIENT * n_parameters  # an actor and a critic
        if "n_steps" in cfg.expert and cfg.expert.train:
            n_steps = cfg.expert.n_envs * cfg.expert.n_steps
            yield f"expert.n_envs={cfg.expert.n_envs}, expert.n_steps={cfg.expert.n_steps}", 20 * n_steps
    if "model" not in cfg or (found := schema_of("model", cfg.model)) is None:
        return
    model, length, batch_size = cfg.model, cfg.dataset.context_length, cfg.dataset.batch_size
    width, tokens = model.get("d_model") or 1, length
    shape = ", ".join(f"model.{key}={model[key]}" for key in ("d_model", "n_layer") if key in model)
    by_layer = {"transformer": 12, "gru": 6, "lstm": 8}.get(found.name, 1)
    yield shape, _GRADIENT * model.get("n_layer", 1) * max(by_layer * width**2, _MODULE)
    if found.name == "transformer":
        per_step = (1 if model.tokens == "states" else 2) + is_return_conditioned(cfg.dataset)
        tokens = per_step * (length - 1) + 1
        yield f"dataset.context_length={length}", 8 * tokens**2  # the distances between all tokens
    if found.name == "mlp_stack":
        inputs = length * (1 + model.d_action)
        yield f"dataset.context_length={length}, model.d_action={model.d_action}", _GRADIENT * inputs * width
    outputs = cfg.head.chunk * (cfg.head.get("n_bins") or cfg.head.get("n_components") or 1)
    yield f"head={cfg.head}", _GRADIENT * width * outputs
    if cfg.trainer.accelerator == "cpu":
        numbers = batch_size // cfg.trainer.num_nodes * tokens * max(width if tokens > 1 else 1, outputs)
        named = f"dataset.batch_size={batch_size}, dataset.context_length={length}, {shape}"
        yield named.removesuffix(", "), 4 * numbers
