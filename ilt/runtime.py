"""What every entry point does first: threads, environment, store."""

from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from ilt.envs import EnvSpec
from ilt.store import Store


def prepare(cfg: DictConfig) -> tuple[EnvSpec, Store]:
    """Set the number of threads; the environment that the config describes, and the store it works in."""
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    return instantiate(cfg.env, _convert_="object"), Store(Path(cfg.outputs))
