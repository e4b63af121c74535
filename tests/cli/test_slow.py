"""Tests that take minutes: `make test-slow`."""

import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

import ilt
from tests.cli.commands import ROOT, call, only_run, results_of, start

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "env", "least_return", "most_crashes"),
    [
        ("ppo-091d97b2b3", "lunar_lander", 270, 0.01),
        ("a2c-ecdd424b2b", "lunar_lander", 250, 0.02),
        ("ppo-privileged-519026c884", "lunar_lander_hidden", 240, 0.06),
        ("a2c-privileged-1855fe6993", "lunar_lander_hidden", 240, 0.1),
        ("a2c-9c4e8dfa89", "lunar_lander_blind", 270, 0.01),
    ],
)
def test_shipped_experts_succeed_on_a_thousand_test_episodes(
    name: str, env: str, least_return: float, most_crashes: float
) -> None:
    spec = ilt.make_env(env)
    metrics = ilt.evaluate(ilt.load_policy(name, spec), spec)
    assert metrics["return_mean"] >= least_return
    assert metrics["crash_rate"] <= most_crashes


@pytest.mark.parametrize(("name", "steps"), [("ppo", 1_500_000), ("a2c", 1_000_000)])
def test_an_expert_that_is_killed_and_resumed_learns_to_land(name: str, steps: int, tmp_path: Path) -> None:
    arguments = [f"expert={name}", f"expert.total_steps={steps}", f"outputs={tmp_path}", "expert.score_every=100000"]
    process = start("expert", *arguments)
    while not list(tmp_path.glob("experts/.*.partial/training/checkpoint.pt")):
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    call("expert", *arguments)
    (folder,) = tmp_path.glob(f"experts/{name}-*")
    measured = json.loads((folder / "manifest.json").read_text())["metrics"]
    assert len(measured["training"]["resumed_at_steps"]) == 1
    assert measured["selection"]["deterministic"]["return_mean"] >= 200


def test_the_default_run_matches_its_expert(tmp_path: Path) -> None:
    call("train", f"outputs={tmp_path}")
    results = results_of(only_run(tmp_path))
    assert results["return_mean"] >= results["expert_return_mean"] - 5
    assert results["crash_rate"] <= results["policies"]["expert"]["crash_rate"] + 0.01
    assert results["action_accuracy"] > 0.95


def test_a_cluster_job_that_times_out_is_requeued_and_resumes(tmp_path: Path) -> None:
    """Run on submitit's local executor, which signals a job after 30 s of its minute, as SLURM would."""
    command = ["-m", "experiment=smoke", "logger=none", "trainer.max_steps=8000", "trainer.val_check_interval=4000"]
    command += [f"outputs={tmp_path}", f"hydra.sweep.dir={tmp_path}/sweep"]
    call("train", *command, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=1", check=False)
    (log,) = tmp_path.glob("sweep/*/train.log")
    told = log.read_text()
    assert "SIGUSR2: saved at step" in told
    assert "Requeued job" in told
    call("train", *command)
    assert "resuming from" in log.read_text()
    (results,) = tmp_path.glob("sweep/*/results.json")
    assert json.loads(results.read_text())["resumed"]


def test_the_built_wheel_works_in_an_empty_environment_and_folder(tmp_path: Path) -> None:
    """Run the command alone, and with the configs of a third-party package."""
    env = {**os.environ, "PYTHONPATH": "", "VIRTUAL_ENV": "", "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(*command: object, **variables: str) -> None:
        subprocess.run([str(part) for part in command], cwd=folder, env={**env, **variables}, check=True)

    uv, venv = ROOT / ".venv" / "bin" / "uv", tmp_path / "venv"
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # leftovers of a build would be packaged too
    run(uv, "build", "--wheel", "--out-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("ilt-*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    assert {"ilt/py.typed", "ilt/conf/train.yaml", "ilt/analysis/templates/report.html"} <= {*packed}
    run(uv, "venv", venv)
    run(uv, "pip", "install", "--python", venv / "bin" / "python", "-c", ROOT / "constraints.txt", wheel)
    ilt_command, small = venv / "bin" / "ilt", ["experiment=smoke", "logger=none"]
    run(ilt_command, "train", *small)
    plugin = ROOT / "tests" / "plugin"
    brought = ["env=cue", "expert=teacher", "model=my_gru", "optimizer=adam", "evaluation.video=false"]
    run(ilt_command, "train", "--config-dir", plugin / "memory_lab" / "conf", *small, *brought, PYTHONPATH=str(plugin))
    assert len(list(folder.glob("outputs/runs/*/results.json"))) == 2
