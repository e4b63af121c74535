"""Run commands in processes forked from one that has already done the imports, and read their outputs."""

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from tests.cli.commands import ENVIRONMENT

SEED = int(os.environ.get("ILT_FAULTS_SEED", "0"))
"""Seed of the random moments, bits and positions."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["ilt.pipeline", "ilt.cli.train", "ilt.cli.report", "ilt.cli.list", "ilt.cli.evaluate"]
)

SECONDS = 300
"""Time after which a command counts as hanging."""


CARTPOLE = ["env=gymnasium", "env.id=CartPole-v1", "expert=a2c", "expert.gate=null", "expert.selection_episodes=4"]
CARTPOLE += ["expert.score_every=1000", "processes=1"]
STUDENT = ["experiment=smoke", *CARTPOLE, "evaluation.video=false", "evaluation.n_episodes=10", "demos.n_episodes=10"]
SHORT = [*STUDENT, "expert.total_steps=2000", "trainer.max_steps=40", "trainer.val_check_interval=20"]
AGAIN = ["train", *SHORT, "run_name=one"]
"""Train for a few seconds, including the expert and the demonstrations."""


@dataclass(frozen=True)
class Answer:
    """The outcome of a command.

    Attributes:
        code: exit code; −9 if the command hung and was killed.
        said: everything it printed.
    """

    code: int
    said: str

    @property
    def last_line(self) -> str:
        """Return the last line it printed."""
        return (self.said.strip().splitlines() or [""])[-1]


def start(folder: Path, *arguments: str, **variables: str) -> Any:
    """Start `ilt <arguments>` in a folder with extra environment variables; its output goes to `.said` there."""
    process = _processes.Process(target=_type, args=(arguments, folder, {**ENVIRONMENT, **variables}))
    process.start()
    return process


def run(folder: Path, *arguments: str, **variables: str) -> Answer:
    """Run `ilt <arguments>` in a folder and wait for it to end."""
    process = start(folder, *arguments, **variables)
    process.join(SECONDS)
    process.kill()
    process.join()
    return Answer(process.exitcode or 0, (folder / ".said").read_text(encoding="utf-8", errors="replace"))


def _type(arguments: tuple[str, ...], folder: Path, variables: Mapping[str, str]) -> None:
    from ilt.cli.main import main

    descriptor = os.open(folder / ".said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(folder)
    os.environ.update(variables)
    sys.argv = ["ilt", *arguments]
    main()


def in_parallel(task: Any, *cases: Any) -> list[Any]:
    """Return a function's results for the cases, running two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(task, *cases))


def content(outputs: Path) -> dict[str, str]:
    """Return the digests of the weights of every student and expert."""
    paths = [*outputs.glob("**/weights/*.safetensors"), *outputs.glob("experts/*/actor.safetensors")]
    assert paths
    return {path.relative_to(outputs).as_posix(): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    if not path.is_file():
        return "no file"
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        return str(error)
    return hashlib.sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors))).hexdigest()
