"""Using a third-party package (`tests/plugin`) through the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import type_command

PLUGIN = Path(__file__).parent / "plugin"
CONF = PLUGIN / "memory_lab" / "conf"
SMALL = [
    "trainer=smoke", "trainer.max_steps=120", "trainer.val_check_interval=60", "logger=none",
    "dataset.context_length=10", "dataset.batch_size=32", "callbacks.rollout.n_episodes=10", "evaluation.n_episodes=20",
    "evaluation.video=false", "processes=1", "env=cue", "expert=teacher", "model=my_gru", "optimizer=adam",
]  # fmt: skip


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that runs `ilt train` with the package's configs and returns the results."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.chdir(tmp_path)

    def typed(*arguments: str) -> dict[str, Any]:
        type_command("train", "--config-dir", str(CONF), *SMALL, *arguments, "run_name=run", f"outputs={tmp_path}")
        return json.loads((tmp_path / "runs" / "run" / "results.json").read_text())

    return typed


def test_third_party_environment_expert_model_optimizer_and_algorithm(run: Any) -> None:
    results = run("imitation=random_start", "demos.n_episodes=60", "demos.n_validation_episodes=10")
    assert results["expert_return_mean"] == 10.0
    assert results["return_mean"] > 9.0  # only a student that remembers the cue can reach this
    assert results["imitation"]["by_round"][1]["acts"] == "random"
    assert results["imitation"]["expert_labels"] == 600


def test_third_party_recordings(run: Any) -> None:
    results = run("demos=recordings")
    assert results["return_mean"] > 9.0
    assert results["demonstrations"].startswith("recorded-")
