"""Sweeps: names, sharing of cores, resuming, and summaries."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ilt.cli import sweep as multirun
from ilt.cli.sweep import ShareCores, sweep_name
from ilt.rollout.workers import cores
from ilt.studies.sweeps import find_jobs, summarize
from ilt.tracking.store import paths_below
from tests.cli.commands import ENVIRONMENT, ROOT
from tests.marks import slow
from tests.rollout.test_workers import gone, members
from tests.tracking.hostile_files import JSON, REPLACEMENTS, YAML, replaced

COUNT = ["trainer.max_steps=10", "trainer.val_check_interval=10", "logger=none"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
TEN = [str(step) for step in range(10)]


def command(*arguments: str, outputs: Path, program: Sequence[str] = ("tests.counting",)) -> list[str]:
    return [sys.executable, "-m", *program, "-m", *arguments, f"outputs={outputs}"]


def run(line: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    process = subprocess.run(line, **{"cwd": ROOT, "env": ENVIRONMENT, **options}, capture_output=True, text=True)
    assert "Callback" not in process.stderr  # Hydra only warns about errors in callbacks
    return process


def only_sweep(outputs: Path) -> Path:
    (sweep,) = outputs.glob("multirun/*")
    return sweep


def contents(folder: Path, *patterns: str) -> dict[Path, tuple[int, bytes]]:
    """Return the modification time and content of each file."""
    paths = (path for pattern in patterns for path in folder.rglob(pattern) if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_a_sweep_name_depends_on_the_overrides_but_not_their_order() -> None:
    name = sweep_name("train", ["model=tiny,small", "dataset.context_length=4,16", "expert=a2c"])
    assert name.startswith("context_length-model-")
    assert sweep_name("train", ["expert=a2c", "dataset.context_length=4,16", "model=tiny,small"]) == name
    commands = [["seed=0,1"], ["seed=0,1,2"], ["seed=0,1", "model=small"], ["seed=range(0,2)"], ["seed=1"], []]
    assert len({sweep_name("train", given) for given in commands} | {sweep_name("expert", ["seed=0,1"])}) == 7


def test_overrides_that_change_no_result_do_not_change_the_sweep_name() -> None:
    others = ["threads=2", "processes=1", "logger=none", "logger.project=other", "outputs=/elsewhere", "resume=false"]
    others += ["evaluation.video=true,false", "evaluation.n_episodes=9", "n_envs=2"]
    assert sweep_name("train", ["seed=0,1", *others]) == sweep_name("train", ["seed=0,1"])
    assert sweep_name("train", ["evaluation.context_length=2,4"]).startswith("context_length-")  # affects the weights


def shared(overrides: list[str], *launcher: str) -> DictConfig:
    """Return a multirun's config after its jobs have shared the cores."""
    given = [line for line in overrides if not OverridesParser.create().parse_override(line).is_sweep_override()]
    with initialize_config_module("ilt.conf", version_base="1.3"):
        cfg = compose("train", ["run_name=any", *given, *launcher], return_hydra_config=True)
        OmegaConf.set_readonly(cfg.hydra, False)
        cfg.hydra.overrides.task = overrides
        ShareCores().on_multirun_start(cfg)
    return cfg


@pytest.mark.parametrize(
    ("overrides", "n_jobs", "at_once", "added"),
    [
        (["seed=0,1,2,3"], -1, 4, ["processes=2"]),  # as many as jobs
        (["seed=0,1,2,3", "model=tiny,small"], -1, 8, ["processes=1"]),
        (["seed=0,1,2,3", "model=tiny,small,nano"], -1, 8, ["processes=1"]),  # as many as cores
        (["seed=0,1,2,3"], 2, 2, ["processes=4"]),
        (["seed=0,1,2,3", "threads=8"], 2, 2, ["processes=4", "threads=4"]),
        (["seed=0,1,2,3", "threads=null", "processes=2"], 2, 2, ["threads=4"]),
        (["seed=0,1,2,3"], 1, 1, []),
    ],
)
def test_parallel_jobs_divide_the_cores(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], n_jobs: int, at_once: int, added: list[str]
) -> None:
    monkeypatch.setattr(multirun, "cores", lambda: 8)
    cfg = shared(overrides, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={n_jobs}")
    assert (cfg.hydra.launcher.n_jobs, cfg.hydra.launcher.batch_size) == (at_once, "1")
    assert list(cfg.hydra.overrides.task) == [*overrides, *added]


@pytest.mark.parametrize(
    ("overrides", "num_cpus", "added"),
    [
        (["seed=0,1"], 2, ["processes=2"]),
        (["seed=0,1", "threads=8"], 2, ["processes=2", "threads=2"]),
        (["seed=0,1", "threads=null", "processes=1"], 0.5, ["threads=1"]),
    ],
)
def test_jobs_on_ray_use_the_cores_they_request(overrides: list[str], num_cpus: float, added: list[str]) -> None:
    cfg = shared(overrides, "hydra/launcher=ray", f"hydra.launcher.remote.num_cpus={num_cpus}")
    assert list(cfg.hydra.overrides.task) == [*overrides, *added]


def test_sweeps_do_not_import_heavy_packages() -> None:
    modules = "ilt.cli.train, ilt.cli.sweep, ilt.studies.sweeps, ilt.studies.sweep_tables, ilt.evaluation.tables"
    heavy = "{'torch', 'pytorch_lightning', 'gymnasium', 'scipy', 'matplotlib', 'wandb'}"
    code = f"import sys, {modules}; print(*{heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def write_job(sweep: Path, name: str, overrides: list[str], *, error: str = "", finished: bool = False) -> None:
    (sweep / name / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(overrides), sweep / name / ".hydra" / "overrides.yaml")
    if error:
        (sweep / name / "error.txt").write_text(error)
    if finished:
        (sweep / name / "results.json").write_text(json.dumps(RESULTS))
        (sweep / name / "config.yaml").write_text("env: {id: Toy-v0}")


RESULTS = {
    **dict.fromkeys(("selection_return_mean", "return_mean", "success_rate", "crash_rate"), 1.0),
    "return_mean_interval": [0.0, 2.0],
    "seconds": {"total": 3.0},
}


def test_a_damaged_job_is_listed_with_the_reason_and_does_not_affect_others(tmp_path: Path) -> None:
    write_job(tmp_path, "good", ["seed=0"], finished=True)
    write_job(tmp_path, "silent", ["seed=1"])
    (tmp_path / "silent" / "error.txt").touch()
    files = {"results.json": JSON, "config.yaml": YAML, ".hydra/overrides.yaml": YAML}
    wrong = {(file, how) for file, table in files.items() for how in table}
    wrong |= {("results.json", change) for change in ("NaN", '"text"', "1" + "0" * 400, "Infinity")}
    for i, (file, how) in enumerate(sorted(wrong)):
        folder = tmp_path / f"bad-{i:02}"
        write_job(tmp_path, folder.name, [f"seed={i + 2}"], finished=True)
        if how in REPLACEMENTS:
            replaced(folder / file, how)
        else:
            (folder / file).write_text(json.dumps(RESULTS).replace("1.0", how, 1))
    summarize(tmp_path)
    statuses = {job.name: job.status for job in find_jobs(tmp_path)}
    assert statuses.pop("good") == "finished"
    assert statuses.pop("silent") == "failed: "
    assert len(statuses) == len(wrong)
    assert all(status.startswith("damaged: ") and str(tmp_path) not in status for status in statuses.values())
    assert f"1 of {len(wrong) + 2} jobs finished" in (tmp_path / "sweep.md").read_text()
    assert (tmp_path / "sweep.png").stat().st_size > 5000


def test_jobs_are_finished_failed_or_not_finished(tmp_path: Path) -> None:
    others = ["threads=3", "evaluation.video=false"]
    write_job(tmp_path, "a", ["seed=0", "+expert.extra=1", "~callbacks.ema", *others], finished=True)
    write_job(tmp_path, "b", ["seed=1"], error="ValueError: no\n\nTraceback")
    write_job(tmp_path, "c", ["seed=2"], error="ValueError: once", finished=True)
    write_job(tmp_path, "d", ["seed=3"])
    (tmp_path / "e").mkdir()
    write_job(tmp_path, "a.1", ["seed=0"])  # set aside by a later run
    jobs = find_jobs(tmp_path)
    statuses = {"a": "finished", "b": "failed: ValueError: no", "c": "finished", "d": "not finished"}
    assert {job.name: job.status for job in jobs} == statuses
    assert jobs[0].overrides == {"seed": "0", "expert.extra": "1", "~callbacks.ema": ""}


@pytest.mark.parametrize("launcher", slow([], JOBLIB))
def test_a_failing_job_does_not_affect_the_others(launcher: list[str], tmp_path: Path) -> None:
    process = run(command(*COUNT, "model.dropout=0.5,0.0,2.0", "model=nano,tiny", *launcher, outputs=tmp_path))
    assert process.returncode == 1
    assert "2 of 6 jobs finished" in process.stdout
    sweep = only_sweep(tmp_path)
    assert sweep.name.startswith("model-dropout-")
    results = [json.loads(path.read_text()) for path in sweep.glob("*/results.json")]
    assert [result["processes"] for result in results] == [max(1, cores() // 2) if launcher else None] * 2
    texts = [path.read_text() for path in sweep.glob("*/error.txt")]
    assert len(texts) == 4
    assert sum("CountingError: model.dropout is 0.5" in text and "in main" in text for text in texts) == 2
    summary = (sweep / "sweep.md").read_text()
    assert summary.count("failed: CountingError: model.dropout is 0.5 \\| a bar") == 2
    assert summary.count("failed: ConfigError: model.dropout must be") == 2
    assert len((sweep / "sweep.csv").read_text().splitlines()) == 1 + 6 + 6
    assert (sweep / "sweep.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_killed_sweep_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    swept = [*COUNT, "optimizer.weight_decay=range(0,8)"]
    line = command(*swept, *JOBLIB, outputs=tmp_path)
    process = subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True)
    while len(list(paths_below(tmp_path, "results.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(process.pid, 10), members(process.pid)
    finished = contents(tmp_path, "results.json")
    assert 3 <= len(finished) < 8
    assert run(line).returncode == 0
    after = contents(tmp_path, "results.json")
    assert len(after) == 8
    assert finished.items() <= after.items()
    assert [path.read_text().split() for path in tmp_path.rglob("steps.txt")] == [TEN] * 8
    assert "8 of 8 jobs finished" in (only_sweep(tmp_path) / "sweep.md").read_text()
    everything = contents(only_sweep(tmp_path), "*-s0-*/**/*", "sweep.*")
    assert run(command(*swept, outputs=tmp_path)).returncode == 0  # with a different launcher
    assert contents(only_sweep(tmp_path), "*-s0-*/**/*", "sweep.*") == everything


@pytest.mark.slow
def test_on_ray_a_job_whose_worker_dies_resumes_and_does_not_affect_the_others(tmp_path: Path) -> None:
    ray = ["hydra/launcher=ray", "hydra.launcher.init.address=local", "hydra.launcher.init.num_cpus=2"]
    swept = [*COUNT, "model.dropout=0.0,0.5,0.75,0.875", *ray, "hydra.launcher.remote.max_retries=1"]
    line = command(*swept, outputs=Path("here"))  # relative to the current folder
    process = run(line, cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)})
    assert process.returncode == 1
    assert "2 of 4 jobs finished" in process.stdout
    sweep = only_sweep(tmp_path / "here")
    jobs = {job.overrides["model.dropout"]: job for job in find_jobs(sweep)}
    assert [(job.status, job.results["processes"]) for job in jobs.values() if job.results] == [("finished", 1)] * 2
    assert "failed: CountingError: model.dropout is 0.5" in jobs["0.5"].status
    assert jobs["0.875"].status == "not finished"
    steps = {value: (sweep / job.name / "steps.txt").read_text().split() for value, job in jobs.items()}
    assert steps["0.75"] == steps["0.0"] == TEN
    assert steps["0.875"] == ["0", "1"]
    assert (sweep / "sweep.png").stat().st_size > 5000


@pytest.mark.slow
def test_parallel_jobs_can_use_their_own_worker_processes(tmp_path: Path) -> None:
    swept = ["experiment=smoke", "seed=0,1", "processes=choice(2)", *JOBLIB, "evaluation.video=false"]  # not capped
    line = command(*swept, outputs=tmp_path, program=("ilt", "train"))
    process = subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True)
    assert process.wait() == 0
    jobs = [path.parent / ".hydra" / "config.yaml" for path in tmp_path.rglob("results.json")]
    assert [OmegaConf.load(path).processes for path in jobs] == [2, 2]
    assert gone(process.pid, 10), members(process.pid)
