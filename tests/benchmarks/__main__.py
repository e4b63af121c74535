"""`python -m tests.benchmarks [only=score]` prints a table and writes `outputs/bench/<date>.json`."""

import importlib
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from ilt.envs.spec import EnvSpec
from ilt.evaluation.tables import print_table
from ilt.registry import load_option
from ilt.rollout import workers
from ilt.tracking.store import provenance, write_json
from ilt.training.runtime import keep_freed_memory
from tests.benchmarks.measuring import Row

MODULES = {
    "start": "commands", "run": "commands", "collect": "sb3", "score": "rollouts", "cache": "rollouts",
    "train": "training", "lightning": "training", "memory": "memory", "a2c": "sb3", "zoo": "zoo", "growth": "growth",
    "peers": "peers", "gpu_steps": "gpu", "gpu_attention": "gpu", "gpu_runs": "gpu",
}  # fmt: skip
NAMED_ONLY = ("growth", "peers", "gpu")
"""Modules that run only when named: one draws figures, one installs other packages, one needs a GPU."""
COLUMNS = ["work", "ours", "beside", "there", "ratio (min … max)", "bar"]


def main(arguments: list[str]) -> None:
    """Run all benchmarks, or those named by `only=`."""
    chosen = [name for argument in arguments for name in argument.removeprefix("only=").split(",")]
    if unknown := [name for name in chosen if name not in MODULES]:
        raise SystemExit(f"only= must name some of {list(MODULES)}, got {unknown[0]}")
    torch.set_num_threads(1)
    keep_freed_memory()
    spec = EnvSpec.from_config(OmegaConf.create(load_option("env", "lunar_lander")))
    folder = Path("outputs/bench")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    measured: list[Row] = []
    for name in chosen or [name for name, module in MODULES.items() if module not in NAMED_ONLY]:
        rows: list[Row] = getattr(importlib.import_module(f"tests.benchmarks.{MODULES[name]}"), name)(spec)
        print_table(name, COLUMNS, [line for row in rows for line in row.cells()])
        measured += rows
        write_json(path, {**provenance(), "machine": machine(), "rows": [asdict(row) for row in measured]})
    print(path)  # noqa: T201 (this is a command)


def machine() -> dict[str, Any]:
    """Describe the machine and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "platform": platform.platform(),
        "cpu": names[0] if names else platform.processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": workers.cores(),
        "load_before": os.getloadavg()[0],
        "training_threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
