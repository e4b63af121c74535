"""What every entry point does first: threads, memory, environment, store."""

import ctypes
import sys
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from threadpoolctl import threadpool_limits

from ilt.config import ConfigError, check_shares
from ilt.envs.spec import EnvSpec
from ilt.tracking.store import Store


def prepare(cfg: DictConfig) -> tuple[EnvSpec, Store]:
    """Set up threads and memory; the environment that the config describes, and the store it works in."""
    set_up(cfg)
    if "trainer" in cfg and cfg.trainer.accelerator == "gpu":
        n_gpus = torch.cuda.device_count()
        if not n_gpus:
            raise ConfigError("trainer.accelerator must be one that this machine has, got gpu; trainer=cpu needs none")
        if n_ranks(cfg) > n_gpus:
            raise ConfigError(f"trainer.devices must be at most {n_gpus}, the GPUs here, got {cfg.trainer.devices}")
        check_shares(cfg.dataset.batch_size, n_ranks(cfg) * n_nodes(cfg))
    try:
        spec: EnvSpec = instantiate(cfg.env, _convert_="object")
    except InstantiationException as error:
        raise ConfigError(str(error.__cause__)) from error
    spec.sizes()  # a wrapper or a kind of space that cannot be used is refused before anything is made
    return spec, Store(Path(cfg.outputs))


def prepare_run(cfg: DictConfig, run: DictConfig) -> tuple[EnvSpec, Store]:
    """The same for a run that was trained before, and perhaps by someone else.

    Its config only fills in numbers and names: nothing it names as a `_target_` is called, and no module is imported
    for its `env.id`.
    """
    set_up(cfg)
    if ":" in run.env.id:
        raise ValueError(f"env.id of a run must not name a module to import, got {run.env.id}")
    env = OmegaConf.to_object(run.env)
    assert isinstance(env, dict)
    return EnvSpec(**{str(key): value for key, value in env.items() if key != "_target_"}), Store(Path(cfg.outputs))


def on_gpus(cfg: DictConfig) -> bool:
    """Whether the model learns on GPUs."""
    return cfg.trainer.accelerator == "gpu" or (cfg.trainer.accelerator == "auto" and torch.cuda.is_available())


def n_ranks(cfg: DictConfig) -> int:
    """How many processes learn together: what the config key `trainer.devices` says; for auto, one for each GPU."""
    if cfg.trainer.devices == "auto":
        return torch.cuda.device_count() if on_gpus(cfg) else 1
    return int(cfg.trainer.devices)


def n_nodes(cfg: DictConfig) -> int:
    """How many machines learn together."""
    return int(cfg.trainer.get("num_nodes", 1))


def set_up(cfg: DictConfig) -> None:
    """What every process that computes needs: the number of threads, and memory that stays."""
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
        threadpool_limits(
            cfg.threads, user_api="blas"
        )  # NumPy's, with which this process flies: they would wait by spinning
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let the C library keep what is freed instead of handing it back.

    A training step frees and takes the same large blocks each time, and the kernel hands them out anew page by page:
    10,000 page faults and a tenth of the time of a step of `small`.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h of glibc
        libc.mallopt(m_mmap_threshold, 32 << 20)
        libc.mallopt(m_trim_threshold, 1 << 30)
