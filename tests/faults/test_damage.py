"""Damage to every kind of file: a command names the damaged file in one line, or does not need it."""

import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.running import AGAIN, CARTPOLE, SEED, SHORT, Answer, content, in_parallel, run, start

pytestmark = pytest.mark.slow

ANOTHER = ["train", *SHORT, "run_name=another", "seed=5"]
RESUMED = ["train", *SHORT, "run_name=half", "trainer.max_steps=600", "trainer.val_check_interval=100"]
RESUMED_EXPERT = ["expert", "logger=none", *CARTPOLE, "expert.total_steps=60000"]
SWEEP = ["train", "-m", *SHORT, "seed=3,4"]
SEARCH = ["train", "-m", "sweep=optuna", *SHORT, "search.study_name=study", "search.n_trials=1", "model=nano"]
EVALUATE = ["evaluate", "run=outputs/runs/one", "seeds=selection:0:5", "logger=none", "processes=1"]
REPORT = ["report", "runs=outputs/runs", "videos=false"]
LIST = ["list"]

NEEDED_BY = {
    "runs/one/config.yaml": EVALUATE,
    "runs/one/results.json": REPORT,
    "runs/one/curve.csv": REPORT,
    "runs/one/episodes.csv": REPORT,
    "runs/one/training.json": AGAIN,
    "runs/one/identity.json": AGAIN,
    "runs/one/train.log": AGAIN,
    "runs/one/.hydra/overrides.yaml": LIST,
    "runs/one/learning_curve.png": REPORT,
    "runs/one/weights/last.safetensors": EVALUATE,
    "runs/one/weights/best.safetensors": AGAIN,
    "runs/one/evaluations/*.json": REPORT,
    "runs/half/checkpoints/last.ckpt": RESUMED,
    "runs/half/checkpoints/last.ckpt.before": RESUMED,
    "runs/half/checkpoints/best.ckpt": RESUMED,
    "runs/half/config.yaml": RESUMED,
    "experts/a2c-*/manifest.json": ANOTHER,
    "experts/a2c-*/actor.safetensors": ANOTHER,
    "experts/.a2c-*.partial/training/checkpoint.pt": RESUMED_EXPERT,
    "demos/a2c-*/manifest.json": ANOTHER,
    "demos/a2c-*/demonstrations.npz": ANOTHER,
    "demos/a2c-*/validation.npz": ANOTHER,
    "rollouts/a2c-*/manifest.json": ANOTHER,
    "rollouts/a2c-*/episodes.npz": ANOTHER,
    "multirun/seed-*/sweep.csv": SWEEP,
    "multirun/seed-*/multirun.yaml": SWEEP,
    "multirun/seed-*/*-s4-*/results.json": SWEEP,
    "multirun/study/study.db": SEARCH,
    "multirun/study/search.json": SEARCH,
}
"""Files below `outputs`, and a command that reads each."""


def _one_bit(path: Path, rng: random.Random) -> None:
    damaged = bytearray(path.read_bytes())
    if damaged:
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)


def _instead(make: Callable[[Path], Any]) -> Callable[[Path, random.Random], None]:
    def damage(path: Path, rng: random.Random) -> None:
        path.rename(path.parents[len(path.parts) - path.parts.index("outputs") - 1] / "moved")
        make(path)

    return damage


DAMAGE: dict[str, Callable[[Path, random.Random], Any]] = {
    "cut short": lambda path, rng: os.truncate(path, rng.randrange(path.stat().st_size or 1)),
    "one bit": _one_bit,
    "empty": lambda path, rng: path.write_bytes(b""),
    "foreign": lambda path, rng: path.write_bytes(b"PK\x03\x04" + rng.randbytes(5000)),
    "gone": _instead(lambda path: None),
    "a folder": _instead(Path.mkdir),
    "a link": _instead(lambda path: path.symlink_to("/etc/hostname")),
    "a FIFO": _instead(os.mkfifo),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose `outputs` contain every kind of file, finished and half done."""
    folder = tmp_path_factory.mktemp("made")
    for arguments in (AGAIN, SWEEP, SEARCH, EVALUATE, REPORT):
        answer = run(folder, *arguments)
        assert answer.code == 0, answer.said
    half_done = {
        "runs/half/checkpoints/last.ckpt.before": RESUMED,
        "experts/.*.partial/training/*.before": RESUMED_EXPERT,
    }
    for written, arguments in half_done.items():
        process = start(folder, *arguments)
        while process.is_alive() and not any((folder / "outputs").glob(written)):
            time.sleep(0.01)
        assert process.is_alive(), (folder / ".said").read_text()
        process.kill()
    return folder


def seen(folder: Path, arguments: list[str], answer: Answer) -> dict[str, Any]:
    """Return a command's results, which damage must not change: weights, returns, tables."""
    outputs = folder / "outputs"
    found: dict[str, Any] = {"code": answer.code, **content(outputs)}
    for path in outputs.glob("**/results.json"):
        text = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(outputs))] = re.findall(rb'"return_mean": (.*)', text)
    if arguments == REPORT:
        found["report"] = (outputs / "runs" / "report.md").read_text()
    if arguments == LIST:
        found["list"] = answer.said
    return found


def test_damaged_files_are_named_or_make_no_difference(
    made: Path, tmp_path: Path, survived: Callable[[str, int], None]
) -> None:
    whole: dict[str, dict[str, Any]] = {}
    for n, arguments in enumerate({" ".join(each): each for each in NEEDED_BY.values()}.values()):
        folder = shutil.copytree(made, tmp_path / f"whole-{n}")
        whole[" ".join(arguments)] = seen(folder, arguments, answer := run(folder, *arguments))
        assert answer.code == 0, answer.said
    cases = [(pattern, how) for pattern in NEEDED_BY for how in DAMAGE]

    def fault(case: tuple[str, str]) -> str:
        pattern, how = case
        folder = shutil.copytree(made, tmp_path / f"{cases.index(case)}")
        path = min((folder / "outputs").glob(pattern))
        DAMAGE[how](path, random.Random(f"{SEED} {case}"))
        arguments = NEEDED_BY[pattern]
        answer = run(folder, *arguments)
        page = folder / "outputs" / "runs" / "report.html"
        said = answer.said + page.read_text() if page.exists() else answer.said
        named = path.name in said or "one: not finished" in said
        plain = answer.code in (0, 1) and "Traceback" not in answer.said
        if plain and (named or seen(folder, arguments, answer) == whole[" ".join(arguments)]):
            shutil.rmtree(folder)
            return ""
        return f"{path.relative_to(folder)}, {how}: {arguments[0]} ended with {answer.code}: {answer.said[-1500:]}"

    faults = [fault for fault in in_parallel(fault, cases) if fault]
    assert not faults, "\n\n".join(faults)
    survived("damaged files", len(cases))
