"""`ilt list`: every run and artifact, with what it is of and how far it came."""

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ilt.cli.list import Entry, find_entries, find_shipped, lock_of, row
from ilt.tracking.store import digest
from tests.tracking.hostile_files import JSON, YAML, replaced

CONFIG = """
env:
  id: CartPole-v1
  wrappers:
    blind: {hide: [1]}
expert:
  name: ppo
"""
HYDRA = "hydra:\n  runtime:\n    cwd: /\n    choices:\n      env: cartpole\n      model: nano\n      logger: none\n"


def write_run(path: Path, **files: Any) -> Path:
    """A run's folder with a config, and `results`, `error`, … as files."""
    (path / ".hydra").mkdir(parents=True)
    (path / "config.yaml").write_text(CONFIG)
    (path / ".hydra" / "config.yaml").write_text(CONFIG)
    (path / ".hydra" / "hydra.yaml").write_text(HYDRA)
    (path / "train.log").write_text("")
    for name, content in files.items():
        file = {"results": "results.json", "error": "error.txt"}[name]
        (path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_artifact(path: Path, **manifest: Any) -> Path:
    path.mkdir(parents=True)
    whole = {"config": {"env": {"id": "CartPole-v1"}}, "metrics": {}, "seconds": 3.4, "made_at": "2026-01-02T03:04:05Z"}
    whole |= manifest
    (path / "manifest.json").write_text(json.dumps({**whole, "digest": digest(whole)}))
    return path


FINISHED = {"return_mean": 487.25, "seconds": {"total": 61.0}}


def states(outputs: Path) -> dict[str, str]:
    return {entry.path.relative_to(outputs).as_posix(): entry.state for entry in find_entries(outputs)}


def only(outputs: Path) -> Entry:
    (entry,) = find_entries(outputs)
    return entry


def test_a_finished_run_says_what_it_is(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "nano-s0", results=FINISHED)
    cells = row(only(tmp_path), tmp_path)
    assert cells[:6] == ["runs", "nano-s0", "CartPole-v1 + blind", "ppo", "nano", "487.2"]
    assert cells[7:] == ["61", "finished"]


def test_states_of_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "failed", error="ValueError: no")
    write_run(tmp_path / "runs" / "unfinished")
    write_run(tmp_path / "runs" / "again", results=FINISHED)
    write_run(tmp_path / "runs" / "again.1")
    write_run(tmp_path / "runs" / "damaged", results="{")
    write_run(tmp_path / "runs" / "at_work", error="ValueError: of the last time")
    write_run(tmp_path / "multirun" / "sweep" / "job", results=FINISHED)
    write_run(tmp_path / "multirun" / "search" / "trial-000" / "seed-1")
    (tmp_path / "multirun" / "search" / "study.db").touch()
    (tmp_path / "multirun" / "sweep" / "refused").mkdir()
    (tmp_path / "multirun" / "sweep" / "refused" / "error.txt").write_text("ConfigError: no")
    write_run(tmp_path / "reference" / "old")
    with FileLock(tmp_path / "runs" / ".at_work.lock"):
        assert states(tmp_path) == {
            "runs/failed": "failed",
            "runs/unfinished": "not finished",
            "runs/again": "finished",
            "runs/again.1": "set aside",
            "runs/damaged": "damaged",
            "runs/at_work": "running",
            "multirun/sweep/job": "finished",
            "multirun/search/trial-000/seed-1": "trial",
            "multirun/sweep/refused": "failed",
        }
    assert states(tmp_path)["runs/at_work"] == "failed"


@pytest.mark.parametrize(
    ("file", "how"), [(file, how) for file, table in (("results.json", JSON), ("config.yaml", YAML)) for how in table]
)
def test_a_hostile_run_is_damaged_and_says_why(file: str, how: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "it", results=FINISHED)
    replaced(run / file, how)
    if (file, how) == ("config.yaml", "a folder"):  # then no file says that this is a run
        assert states(tmp_path) == {}
        return
    entry = only(tmp_path)
    assert entry.state == "damaged"
    assert str(run) in entry.damage
    assert row(entry, tmp_path)[-1] == "damaged"


@pytest.mark.parametrize("change", [{"return_mean": "[/]"}, {"return_mean": 1e999}, {"seconds": {"total": None}}, {}])
def test_values_that_no_table_can_show_are_damage(change: dict[str, Any], tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "it", results={**FINISHED, **change})
    entry = only(tmp_path)
    assert (entry.state == "damaged") == bool(change) or entry.seconds is None


def test_what_lies_inside_a_run_is_no_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "it", results=FINISHED)
    (run / "wandb" / "files").mkdir(parents=True)
    (run / "wandb" / "files" / "config.yaml").write_text("")
    assert list(states(tmp_path)) == ["runs/it"]


@pytest.mark.parametrize(
    ("kind", "metrics", "expected"),
    [
        ("experts", {"selection": {"deterministic": {"return_mean": 280.5}}}, "280.5"),
        ("demos", {"demonstrations": {"return_mean": 1.5}}, "1.5"),
        ("references", {"return_mean": -3.0}, "-3.0"),
        ("comparisons", {"return_mean": {"student": 1.0}}, "–"),
    ],
)
def test_an_artifact_says_what_it_is(kind: str, metrics: dict[str, Any], expected: str, tmp_path: Path) -> None:
    write_artifact(tmp_path / kind / "ppo-privileged-0123456789", metrics=metrics)
    cells = row(only(tmp_path), tmp_path)
    assert cells[:3] == [kind, "ppo-privileged-0123456789", "CartPole-v1"]
    assert cells[3] == ("ppo-privileged" if kind == "experts" else "–")
    assert (cells[5], *cells[7:]) == (expected, "3", "finished")


def test_an_artifact_in_the_making_is_not_finished(tmp_path: Path) -> None:
    partial = tmp_path / "experts" / ".ppo-0123456789.partial"
    partial.mkdir(parents=True)
    assert only(tmp_path).state == "not finished"
    with lock_of(partial):
        assert only(tmp_path).state == "running"


def test_shipped_experts_are_there() -> None:
    assert {entry.expert for entry in find_shipped()} >= {"ppo", "a2c", "ppo-privileged", "a2c-privileged"}
    assert {entry.state for entry in find_shipped()} == {"shipped"}
