"""`ilt show`: describe a run or an artifact, and suggest the next command."""

import json
from pathlib import Path

import pytest

from ilt.schema import ConfigError
from tests.cli.commands import type_command
from tests.cli.test_list import write_artifact, write_run

POLICY = {"return_mean": 487.2, "return_mean_interval": [480.0, 490.0], "return_p05": 400.0}
POLICY |= {"success_rate": None, "crash_rate": None}
RESULTS = {
    "return_mean": 487.2,
    "n_episodes": 1000,
    "env": "CartPole-v1",
    "expert_return_mean": 500.0,
    "random_return_mean": 20.0,
    "checkpoints": {"last": POLICY},
    "policies": {"expert": POLICY, "random": POLICY},
    "expert": "ppo-0123456789",
    "demonstrations": "ppo-9876543210",
    "imitation": {"name": "dagger", "expert_labels": 50_000},
    "n_parameters": 25_762,
    "context_length": 8,
    "seed": 3,
    "made_at": "2026-01-02T03:04:05Z",
    "machine": "a machine",
    "git_commit": "c0ffee",
    "seconds": {"training": 30.0, "total": 61.0},
}

Captured = pytest.CaptureFixture[str]


def shown(path: Path, capsys: Captured) -> list[str]:
    type_command("show", f"run={path}")
    return capsys.readouterr().out.splitlines()


def test_a_finished_run_shows_its_inputs_its_results_and_the_next_command(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "runs" / "it", results=RESULTS)
    lines = shown(run, capsys)
    text = "\n".join(lines)
    for said in (
        "ppo-0123456789",
        "ppo-9876543210",
        "50,000 expert labels, dagger",
        "25,762 parameters",
        "480.0 … 490.0",
    ):
        assert said in text
    assert lines[-2] == f"everything is in {run}"
    assert lines[-1].startswith(f"next: ilt evaluate run={run} (")
    assert lines[-1].endswith(f"ilt report runs={run.parent}")


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"return_mean": 250.0}, "the student is far from its expert: "),
        ({"expert_return_mean": 20.0}, "the expert is no better than the random policy, so performance means nothing"),
    ],
)
def test_a_poor_expert_or_student_is_pointed_out(
    changed: dict[str, float], advice: str, tmp_path: Path, capsys: Captured
) -> None:
    run = write_run(tmp_path / "runs" / "it", results={**RESULTS, **changed, "env": "my_lab.envs:Own-v0"})
    lines = shown(run, capsys)
    assert lines[-3].startswith(advice)
    assert lines[-1].startswith(f"next: ilt evaluate run={run} trust=[my_lab] (")


def test_a_failed_run_shows_the_error_and_the_command_to_resume(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "runs" / "it", error="ValueError: no luck\n\nTraceback …")
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps(["env.id=Own Env", "seed=1", "resume=false"]))
    lines = shown(run, capsys)
    assert lines[:2] == [f"{run}: failed", "ValueError: no luck"]
    assert lines[-1] == "next: ilt train 'env.id=Own Env' seed=1"


def test_an_unfinished_run_shows_the_remaining_stages(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "multirun" / "it")
    assert shown(run, capsys) == [
        f"{run}: not finished",
        "still to do: expert, demonstrations, training, scores, figures",
        "next: rerun the command that started it",
    ]
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    assert shown(run, capsys)[1] == "still to do: training from its last checkpoint, scores, figures"


def test_an_artifact_is_described(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "demos" / "ppo-0123456789"
    made = {"parents": ["ppo-9876543210"], "files": {"demonstrations.npz": ""}, "machine": "it", "git_commit": None}
    write_artifact(path, metrics={"demonstrations": {"return_mean": 1.5, "crash_rate": None}}, **made)
    text = "\n".join(shown(path, capsys))
    for said in ("CartPole-v1", "ppo-9876543210", "demonstrations return mean", "1.5", "demonstrations.npz"):
        assert said in text
    assert "crash" not in text


def test_damage_is_reported_and_other_folders_are_refused(tmp_path: Path, capsys: Captured) -> None:
    run = write_run(tmp_path / "runs" / "it", results="{")
    assert shown(run, capsys)[0].startswith(f"damaged: {run / 'results.json'}")
    with pytest.raises(ConfigError, match="run must be the folder of a run or of an artifact"):
        type_command("show", f"run={tmp_path}", HYDRA_FULL_ERROR="1")
