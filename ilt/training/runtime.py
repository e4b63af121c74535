"""Runtime settings of every process that computes: threads, memory and devices."""

import ctypes
import sys
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ilt.machine import check_precision, multiplies_bfloat16
from ilt.schema import ConfigError
from ilt.training.ranks import cluster


def set_up(threads: int | None) -> None:
    """Set the number of CPU threads, and keep freed memory.

    Args:
        threads: number of threads of torch and NumPy; idle ones would spin during rollouts. None for the libraries'
            defaults.
    """
    if threads is not None:
        torch.set_num_threads(threads)
        threadpool_limits(threads, user_api="blas")
    keep_freed_memory()


def check_devices(trainer: Any, batch_size: int) -> None:
    """Raise ConfigError unless the devices and processes that a config's `trainer` asks for exist."""
    environment = cluster()
    if environment is None and n_nodes(trainer) > 1:
        raise ConfigError(
            f"trainer.num_nodes must be 1 where neither torchrun nor srun starts the processes, got {trainer.num_nodes}"
        )
    if environment is not None:
        try:
            environment.validate_settings(n_ranks(trainer), n_nodes(trainer))
        except ValueError as error:
            raise ConfigError(
                f"trainer.devices and trainer.num_nodes do not match the processes that were started: {error}"
            ) from error
    n = n_ranks(trainer) * n_nodes(trainer)
    if batch_size % n:
        raise ConfigError(
            f"dataset.batch_size must be divisible by trainer.devices = {n} (of all machines), which "
            f"share each batch, got {batch_size}"
        )
    check_precision(trainer, on_gpus=on_gpus(trainer))
    if trainer.accelerator == "gpu":
        n_gpus = torch.cuda.device_count()
        if not n_gpus:
            raise ConfigError("trainer.accelerator must be one that this machine has, got gpu; trainer=cpu needs none")
        if n_ranks(trainer) > n_gpus:
            raise ConfigError(f"trainer.devices must be at most {n_gpus}, the GPUs here, got {trainer.devices}")


def on_gpus(trainer: Any) -> bool:
    """Return whether the model trains on GPUs."""
    return trainer.accelerator == "gpu" or (trainer.accelerator == "auto" and torch.cuda.is_available())


def precision_of(trainer: Any) -> str:
    """Return the precision in which a config's `trainer` trains; `auto` is chosen by the device."""
    if trainer.precision != "auto":
        return str(trainer.precision)
    if on_gpus(trainer):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if multiplies_bfloat16() else "32-true"


def n_ranks(trainer: Any) -> int:
    """Return how many processes per machine train together: `trainer.devices`, or one per GPU if it is auto."""
    if trainer.devices == "auto":
        return torch.cuda.device_count() if on_gpus(trainer) else 1
    return int(trainer.devices)


def n_nodes(trainer: Any) -> int:
    """Return how many machines train together."""
    return int(trainer.get("num_nodes", 1))


def keep_freed_memory() -> None:
    """Let the C library keep freed memory instead of returning it to the kernel.

    Every training step frees and allocates the same large blocks. Returning them each time would cost 10,000 page
    faults and a tenth of the time of a step of `small`.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h of glibc
        libc.mallopt(m_mmap_threshold, 32 << 20)
        libc.mallopt(m_trim_threshold, 1 << 30)
