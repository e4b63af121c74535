"""What a config asks of this machine: its disk, memory and devices, the files it names, and one environment."""

import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ilt.memory import check_memory
from ilt.models.config import check_head
from ilt.registry import parts_of
from ilt.schema import ConfigError, code_of, locate, named


def check_environment(cfg: DictConfig) -> None:
    """Raise ConfigError, naming the key, unless a config fits its environment, its files and this machine.

    The only heavy imports are Gymnasium and the environment.
    """
    check_writable(cfg.outputs)
    check_memory(cfg)
    for prefix, found, values in parts_of(cfg):
        for name, field in (found.fields if found else {}).items():
            if field.metadata["file"]:
                _check_zip(f"{prefix}.{name}", Path(values[name]), field.metadata["file"])
    if "trainer" in cfg:
        _check_machine(cfg.trainer)
    from ilt.data.sources import env_of  # not earlier: Gymnasium takes most of the time to a command's first line

    space = env_of(cfg.env, cfg.get("demos")).action_space
    by_hand = "expert" in cfg and cfg.expert._target_ == named("expert", "heuristic").target
    if by_hand and not callable(locate(cfg.env.heuristic, key="env.heuristic")):
        raise ConfigError(f"env.heuristic must be a function from observations to actions, got {cfg.env.heuristic}")
    if "head" in cfg:
        check_head(cfg.head, space)
    for prefix, found, values in parts_of(cfg):
        name, target = code_of(found, values)
        if target and (found is None or target != found.target):
            locate(target, key=f"{prefix}.{name}")  # a user's own component, which may import a lot


def _check_zip(key: str, path: Path, members: Sequence[str]) -> None:
    """Raise ConfigError, naming the key, unless a zip file contains these members."""
    if not path.is_file():
        raise ConfigError(f"{key} must be a file, got {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            absent = sorted(set(members) - set(archive.namelist()))
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{key} must be a file that can be read, got {path}: {error}") from error
    if absent:
        raise ConfigError(f"{key} must be a file that contains {', '.join(members)}, got {path} without {absent[0]}")


def _check_machine(trainer: DictConfig) -> None:
    """Raise ConfigError for devices that this machine lacks, as far as can be told without torch."""
    if sys.platform == "linux" and not any(map(os.path.exists, _GPU_DEVICES)):
        if trainer.accelerator == "gpu":
            raise ConfigError("trainer.accelerator must be one that this machine has, got gpu; trainer=cpu needs none")
        check_precision(trainer, on_gpus=False)
    if trainer.get("num_nodes", 1) > 1 and not STARTERS & os.environ.keys():
        raise ConfigError(
            f"trainer.num_nodes must be 1 where neither torchrun nor srun starts the processes, got {trainer.num_nodes}"
        )
    n_cores = os.cpu_count() or 1  # of the machine; srun may have given this process fewer
    if trainer.accelerator == "cpu" and trainer.devices != "auto" and trainer.devices > n_cores:
        raise ConfigError(f"trainer.devices must be at most {n_cores}, the CPU cores here, got {trainer.devices}")


STARTERS = {"WORLD_SIZE", "SLURM_STEP_ID"}
"""Environment variables of processes started by torchrun or srun."""

_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows Subsystem for Linux


def check_precision(trainer: Any, *, on_gpus: bool) -> None:
    """Raise ConfigError if a config's `trainer` asks for a precision that the device does not support."""
    if trainer.precision == "16-mixed" and not on_gpus:
        raise ConfigError("trainer.precision must be auto, 32-true, bf16-mixed or 64-true on a CPU, got 16-mixed")


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this machine's CPU multiplies bfloat16 numbers, by AMX or AVX-512; False where that is unknown."""
    return cpuinfo.is_file() and not {"amx_bf16", "avx512_bf16"}.isdisjoint(cpuinfo.read_text().split())


def outputs_of(cfg: DictConfig) -> Path:
    """Return `outputs` for reading. Raise ConfigError if it is not a folder; only the default one may be missing."""
    outputs = Path(cfg.outputs)
    if not outputs.is_dir() and (outputs.exists() or cfg.outputs != named("command", "train").defaults["outputs"]):
        raise ConfigError(f"outputs must be a folder, got {outputs}")
    return outputs


def check_writable(outputs: str) -> None:
    """Raise ConfigError if the folder `outputs` cannot be made or written to."""
    try:
        tempfile.TemporaryFile(dir=existing(outputs)).close()
    except OSError as error:
        raise ConfigError(
            f"outputs must be a folder that can be written to, got {outputs}: {error.strerror}"
        ) from error


def existing(outputs: str) -> Path:
    """Return `outputs`, or its nearest existing parent if missing. Raise ConfigError if it cannot be a folder."""
    path = Path(outputs).absolute()
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise ConfigError(f"outputs must be a folder, but {there} is a file")
    for name in path.relative_to(there).parts:
        if len(name.encode()) > _LONGEST_NAME:
            raise ConfigError(f"outputs must be a folder whose name has at most {_LONGEST_NAME} bytes, got {name}")
    return there


_LONGEST_NAME = 255  # bytes in a file's name, on Linux and macOS
