"""Run commands as a user does: in this process, or in their own process where a test needs that."""

import importlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig

from ilt.cli import main as cli
from ilt.cli.sync import records

ROOT = Path(__file__).parents[2]
SMOKE = ["experiment=smoke", "evaluation.video=false", "evaluation.n_episodes=4"]
KEYLESS = {"WANDB_MODE": "offline", "WANDB_API_KEY": "", "NETRC": "/dev/null", "OMP_NUM_THREADS": "1"}
ENVIRONMENT = {**os.environ, **KEYLESS, "WANDB_MODE": "disabled"}


def run_command(command: str, *overrides: str) -> Any:
    """Run a command with this config and return its result. `train` needs its folder from Hydra: use `type_command`."""
    app = importlib.import_module(f"ilt.cli.{command.replace('-', '_')}")
    with initialize_config_module("ilt.conf", version_base="1.3"):
        return app.main(compose(command, list(overrides)))


def type_command(*arguments: str, **variables: str) -> None:
    """Run `ilt <arguments>` in this process with environment variables; `capsys` captures its output."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    try:
        variables = {**KEYLESS, "HYDRA_FULL_ERROR": "0", **variables}
        with patch.object(sys, "argv", ["ilt", *arguments]), patch.dict(os.environ, variables):
            cli.main()
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
        HydraConfig.instance().cfg = None


def refusal(*arguments: str) -> str:
    """Return the one-line error message for wrong arguments."""
    with pytest.raises(SystemExit) as stopped:
        type_command(*arguments)
    return str(stopped.value.code)


def call(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run `ilt <arguments>` in its own process."""
    command = [sys.executable, "-m", "ilt", *arguments]
    process = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert not check or process.returncode == 0, process.stderr
    return process


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Start `ilt <arguments>` in its own process, with stdout and stderr in one stream."""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([sys.executable, "-m", "ilt", *arguments], cwd=ROOT, env=ENVIRONMENT, text=True, **streams)


def only_run(outputs: Path) -> Path:
    (run,) = (path.parent for path in outputs.glob("runs/*/config.yaml"))
    return run


def results_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def wandb_records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the records of the only W&B run in a folder, by kind."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records(path):
        found.setdefault(record["type"], []).append(record[record["type"]])
    return found
