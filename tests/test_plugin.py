"""A package that no file of `ilt` knows, used through the command line: `tests/plugin`."""

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
    """Type `ilt train` with the package's own configs; the results of the run."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.chdir(tmp_path)

    def typed(*arguments: str) -> dict[str, Any]:
        type_command("train", "--config-dir", str(CONF), *SMALL, *arguments, "run_name=run", f"outputs={tmp_path}")
        return json.loads((tmp_path / "runs" / "run" / "results.json").read_text())

    return typed


def test_an_environment_an_expert_a_model_an_optimizer_and_an_algorithm_of_ones_own(run: Any) -> None:
    results = run("imitation=random_start", "demos.n_episodes=60", "demos.n_validation_episodes=10")
    assert results["expert_return_mean"] == 10.0
    assert results["return_mean"] > 9.0  # which only a student that remembers the cue can earn
    assert results["imitation"]["by_round"][1]["acts"] == "random"
    assert results["imitation"]["expert_labels"] == 600


def test_recordings_of_ones_own(run: Any) -> None:
    results = run("demos=recordings")
    assert results["return_mean"] > 9.0
    assert results["demonstrations"].startswith("recorded-")
