"""What takes minutes: `make test-slow`."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from ilt.experts.actor import Actor
from ilt.rollout.metrics import episode_metrics
from ilt.rollout.policies import ExpertPolicy
from ilt.rollout.run import rollout
from ilt.tracking.store import SHIPPED, open_artifact
from tests.cli.test_train import ROOT, call, environment, only_run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "env", "least_return", "most_crashes"),
    [
        ("ppo-c607fd4f4f", "lunar_lander", 270, 0.01),
        ("a2c-ea3d452acd", "lunar_lander", 250, 0.02),
        ("ppo-privileged-21bf44e617", "lunar_lander_hidden", 240, 0.06),
        ("a2c-privileged-62c2af7d90", "lunar_lander_hidden", 240, 0.1),
        ("a2c-90929c76a6", "lunar_lander_blind", 270, 0.01),
    ],
)
def test_shipped_experts_land_the_thousand_test_episodes(
    name: str, env: str, least_return: float, most_crashes: float
) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        spec = instantiate(compose("expert", [f"env={env}"]).env, _convert_="object")
    expert = open_artifact(SHIPPED["experts"] / name)
    privileged = expert.manifest["config"].get("observes") == "privileged"
    policy = ExpertPolicy(Actor.load(expert.file("actor.safetensors")), deterministic=True, privileged=privileged)
    metrics = episode_metrics(rollout(spec, policy, spec.seeds("test", 1000)), spec)
    assert metrics["return_mean"] >= least_return
    assert metrics["crash_rate"] <= most_crashes


@pytest.mark.parametrize(("name", "steps"), [("ppo", 1_000_000), ("a2c", 1_000_000)])
def test_an_expert_learns_to_land_from_nothing_though_it_is_killed(name: str, steps: int, tmp_path: Path) -> None:
    arguments = [f"expert={name}", f"expert.training.total_steps={steps}", f"outputs={tmp_path}"]
    arguments += ["expert.training.score_every=100000"]
    command = [sys.executable, "-m", "ilt", "expert", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
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
    results = json.loads((only_run(tmp_path) / "results.json").read_text())
    assert results["return_mean"] >= results["expert_return_mean"] - 5
    assert results["crash_rate"] <= results["policies"]["expert"]["crash_rate"] + 0.01
    assert results["action_accuracy"] > 0.95


def test_a_cluster_job_whose_time_is_over_saves_is_requeued_and_goes_on(tmp_path: Path) -> None:
    """On submitit's local executor, which tells a job after 30 s of its minute, as SLURM would."""
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
