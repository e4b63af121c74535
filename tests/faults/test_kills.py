"""Jobs that are killed at random moments, or hit a full disk, end like undisturbed ones: `make test-faults`.

`ILT_FAULTS_SEED` sets the moments, and `ILT_FAULTS_KILLS` the number of kills per kind of job.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults.running import SEED, content

pytestmark = pytest.mark.slow


KILLS = int(os.environ.get("ILT_FAULTS_KILLS", "3"))
KILLS_OF_A_RUN = 2  # a search gives up a trial that was interrupted three times
SMALL = ["experiment=smoke", "evaluation.video=false", "evaluation.n_episodes=10", "demos.n_episodes=10"]
TRAIN = ["train", *SMALL, "trainer.max_steps=400", "trainer.val_check_interval=100"]
EXPERT = ["expert", "logger=none", "env=gymnasium", "env.id=CartPole-v1", "expert.gate=null", "expert.n_steps=64"]
EXPERT += ["expert.total_steps=40000", "expert.score_every=4000", "expert.selection_episodes=4"]
SEARCH = ["train", "-m", "sweep=optuna", *SMALL, "trainer.max_steps=20", "trainer.val_check_interval=10"]
JOBS = {
    "bc": TRAIN,
    "bc, logged to W&B": [*TRAIN, "logger=wandb"],
    "dagger": [*TRAIN, "imitation=dagger"],
    "dart": [*TRAIN, "imitation=dart"],
    "hidden physics": [*TRAIN, "env=lunar_lander_hidden", "expert=ppo_privileged", "model.dropout=0.1"],
    "two processes": [*TRAIN, "trainer.devices=2"],
    "expert by a2c": [*EXPERT, "expert=a2c"],
    "expert by ppo": [*EXPERT, "expert=ppo"],
    "search": [*SEARCH, "search.study_name=faults", "search.n_trials=2", "search.pruning=false"],
}
LIMITS = [2_000, 20_000, 60_000, 200_000]
"""File size limits in bytes that imitate a full disk; the largest checkpoint has about 100,000."""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder for outputs on a different file system than the temporary folder, if there is one."""
    memory = Path("/dev/shm")
    folder = (memory if memory.is_dir() else tmp_path) / f"ilt-faults-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def start(arguments: list[str], outputs: Path, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "ilt", *arguments, f"outputs={outputs}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, text=True, start_new_session=True, env={**os.environ}, **pipes, **options)


def finish(arguments: list[str], outputs: Path) -> float:
    """Run a job to its end; return the seconds it took."""
    started = time.monotonic()
    process = start(arguments, outputs)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said[-3000:]
    return time.monotonic() - started


def limit_files(n_bytes: int) -> None:
    """Limit the size of files that this process and its children can write."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


@pytest.mark.parametrize("kind", JOBS)
def test_a_killed_job_ends_like_an_undisturbed_one(
    kind: str, tmp_path: Path, elsewhere: Path, survived: Callable[[str, int], None]
) -> None:
    rng = random.Random(f"{SEED} {kind}")
    seconds = finish(JOBS[kind], tmp_path / "whole")
    killed = 0
    while killed < KILLS:  # start a new run every few kills, since a finished run cannot be killed
        outputs, before, finished = elsewhere / f"after-{killed}", killed, False
        for _ in range(min(KILLS_OF_A_RUN, KILLS - before)):
            process = start(JOBS[kind], outputs)
            time.sleep(rng.uniform(0.2, 0.9) * seconds)
            if process.poll() is not None:  # faster than the undisturbed run
                finished, seconds = True, 0.8 * seconds
            with contextlib.suppress(ProcessLookupError):  # it has already ended
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += not finished
        finish(JOBS[kind], outputs)
        assert content(outputs) == content(tmp_path / "whole")
        shutil.rmtree(outputs, ignore_errors=True)  # W&B may still be writing there
        survived(f"kills, {kind}", killed - before)


@pytest.mark.parametrize("kind", ["bc", "dagger", "expert by a2c"])
def test_a_job_on_a_full_disk_resumes_once_there_is_room(
    kind: str, tmp_path: Path, survived: Callable[[str, int], None]
) -> None:
    finish(JOBS[kind], tmp_path / "whole")
    for limit in LIMITS:
        process = start(JOBS[kind], tmp_path / "full", preexec_fn=partial(limit_files, limit))
        process.communicate(timeout=900)
    finish(JOBS[kind], tmp_path / "full")
    assert content(tmp_path / "full") == content(tmp_path / "whole")
    survived(f"full disks, {kind}", len(LIMITS))
