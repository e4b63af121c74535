"""`ilt list`, and `ilt clean`, which deletes only leftovers."""

import json
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from filelock import FileLock

from ilt.cli.clean import delete, find_leftovers
from ilt.cli.list import Entry, find_entries, find_shipped, lock_of, row
from ilt.tracking.store import digest
from tests.cli.commands import run_command
from tests.tracking.hostile_files import JSON, YAML, replaced

CONFIG = "env: {id: CartPole-v1, wrappers: {blind: {hide: [1]}}}\nexpert: {name: ppo}\n"
HYDRA = "hydra:\n  runtime:\n    cwd: /\n    choices:\n      env: cartpole\n      model: nano\n      logger: none\n"
PARTIAL = ".a2c-0123456789.partial"
FINISHED = {"return_mean": 487.25, "seconds": {"total": 61.0}}


def write_run(path: Path, *, results: Any = None, error: str = "") -> Path:
    """Write a run's folder with a config, and with results or an error."""
    files = {"config.yaml": CONFIG, ".hydra/config.yaml": CONFIG, ".hydra/hydra.yaml": HYDRA, "train.log": ""}
    if results is not None:
        files["results.json"] = results if isinstance(results, str) else json.dumps(results)
    if error:
        files["error.txt"] = error
    (path / ".hydra").mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_text(content)
    return path


def write_artifact(path: Path, **manifest: Any) -> None:
    path.mkdir(parents=True)
    whole = {"config": {"env": {"id": "CartPole-v1"}}, "metrics": {}, "seconds": 3.4, "made_at": "2026-01-02T03:04:05Z"}
    whole |= manifest
    (path / "manifest.json").write_text(json.dumps({**whole, "digest": digest(whole)}))


def states(outputs: Path) -> dict[str, str]:
    return {entry.path.relative_to(outputs).as_posix(): entry.state for entry in find_entries(outputs)}


def only(outputs: Path) -> Entry:
    (entry,) = find_entries(outputs)
    return entry


def age(path: Path, *, hours: float) -> None:
    """Make a folder look as if it was last written to `hours` ago."""
    then = time.time() - 3600 * hours
    for each in [*path.rglob("*"), path]:
        os.utime(each, (then, then))


def clean(outputs: Path, *overrides: str) -> int:
    return run_command("clean", f"outputs={outputs}", *overrides)


RUNS = {  # by folder: the expected state and the content
    "runs/failed": ("failed", {"error": "ValueError: no"}),
    "runs/unfinished": ("not finished", {}),
    "runs/again": ("finished", {"results": FINISHED}),
    "runs/again.1": ("set aside", {}),
    "runs/again.2": ("finished", {"results": FINISHED}),
    "runs/damaged": ("damaged", {"results": "{"}),
    "multirun/sweep/job": ("finished", {"results": FINISHED}),
    "multirun/search/trial-000/seed-1": ("trial", {}),
}
STATES = {folder: state for folder, (state, _) in RUNS.items()}
STATES |= {"multirun/refused": "failed", "experts/ppo-0123456789": "finished", f"experts/{PARTIAL}": "not finished"}
LEFT_OVER = {folder for folder, state in STATES.items() if state in ("failed", "set aside", "not finished")}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Return outputs with every kind of entry, two days old."""
    for folder, (_, files) in RUNS.items():
        write_run(tmp_path / folder, **files)
    write_run(tmp_path / "runs" / "again" / "wandb" / "files")  # not a run
    write_run(tmp_path / "reference" / "old")
    write_artifact(tmp_path / "experts" / "ppo-0123456789")
    (tmp_path / "multirun" / "refused").mkdir()
    (tmp_path / "multirun" / "refused" / "error.txt").write_text("ConfigError: no")
    (tmp_path / "experts" / PARTIAL).mkdir()
    for name in (f"experts/{PARTIAL}/weights", "experts/.a2c-0123456789.lock", "runs/.unfinished.lock"):
        (tmp_path / name).touch()
    (tmp_path / "multirun" / "search" / "study.db").touch()
    age(tmp_path, hours=48)
    return tmp_path


def test_states_of_runs_and_artifacts(outputs: Path) -> None:
    assert states(outputs) == STATES
    with FileLock(outputs / "runs" / ".failed.lock"), lock_of(outputs / "experts" / PARTIAL):
        assert states(outputs) == {**STATES, "runs/failed": "running", f"experts/{PARTIAL}": "running"}


def test_a_finished_run_is_described(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "nano-s0", results=FINISHED)
    cells = row(only(tmp_path), tmp_path)
    assert cells[:6] == ["runs", "nano-s0", "CartPole-v1 + blind", "ppo", "nano", "487.2"]
    assert cells[7:] == ["61", "finished"]


@pytest.mark.parametrize(
    ("file", "how"), [(file, how) for file, table in (("results.json", JSON), ("config.yaml", YAML)) for how in table]
)
def test_a_hostile_run_is_listed_as_damaged_with_the_reason(file: str, how: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "it", results=FINISHED)
    replaced(run / file, how)
    entry = only(tmp_path)
    assert entry.state == "damaged"
    assert str(run) in entry.damage
    assert row(entry, tmp_path)[-1] == "damaged"


@pytest.mark.parametrize("change", [{"return_mean": "[/]"}, {"return_mean": 1e999}, {"seconds": {"total": None}}, {}])
def test_values_that_a_table_cannot_show_count_as_damage(change: dict[str, Any], tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "it", results={**FINISHED, **change})
    entry = only(tmp_path)
    assert (entry.state == "damaged") == bool(change) or entry.seconds is None


@pytest.mark.parametrize(
    ("kind", "metrics", "expert", "mean"),
    [
        ("experts", {"selection": {"deterministic": {"return_mean": 280.5}}}, "ppo-privileged", "280.5"),
        ("demos", {"demonstrations": {"return_mean": 1.5}}, "–", "1.5"),
        ("references", {"return_mean": -3.0}, "–", "-3.0"),
        ("comparisons", {"return_mean": {"student": 1.0}}, "–", "–"),
    ],
)
def test_an_artifact_is_described(kind: str, metrics: Any, expert: str, mean: str, tmp_path: Path) -> None:
    write_artifact(tmp_path / kind / "ppo-privileged-0123456789", metrics=metrics)
    cells = row(only(tmp_path), tmp_path)
    assert cells[:4] == [kind, "ppo-privileged-0123456789", "CartPole-v1", expert]
    assert (cells[5], *cells[7:]) == (mean, "3", "finished")


def test_shipped_experts_are_listed() -> None:
    assert {entry.expert for entry in find_shipped()} >= {"ppo", "a2c", "ppo-privileged", "a2c-privileged"}
    assert {entry.state for entry in find_shipped()} == {"shipped"}
    assert "LunarLander-v3 + RandomizedPhysics" in {entry.env for entry in find_shipped()}


def test_only_leftovers_are_deleted_with_their_locks(outputs: Path) -> None:
    assert clean(outputs, "yes=true") == 5
    assert STATES.keys() - states(outputs).keys() == LEFT_OVER
    assert not list(outputs.rglob("*.lock"))
    assert (outputs / "reference" / "old" / "config.yaml").exists()
    assert clean(outputs) == 0  # and does not ask again


@pytest.mark.parametrize(("answer", "deleted"), [("", 0), ("n", 0), ("no", 0), (EOFError, 0), ("y", 5)])
def test_nothing_is_deleted_without_confirmation(outputs: Path, answer: Any, deleted: int) -> None:
    with patch("builtins.input", side_effect=[answer]) as asked:
        assert clean(outputs) == deleted
    asked.assert_called_once_with("Delete 5 folders? [y/N] ")
    assert len(STATES) - len(states(outputs)) == deleted


def test_recently_written_folders_are_not_leftovers(outputs: Path) -> None:
    def kept(hours: float) -> set[str]:
        found = {entry.path.relative_to(outputs).as_posix() for entry in find_leftovers(outputs, hours=hours)}
        return LEFT_OVER - found

    assert kept(hours=72) == {"runs/unfinished", f"experts/{PARTIAL}"}
    age(outputs / "runs" / "unfinished", hours=0)
    assert kept(hours=24) == {"runs/unfinished"}
    (outputs / "experts" / PARTIAL / "weights").touch()
    assert kept(hours=24) == {"runs/unfinished", f"experts/{PARTIAL}"}


def test_folders_in_use_are_kept(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "it", error="ValueError: of the last time")
    entry = only(tmp_path)
    with FileLock(tmp_path / "runs" / ".it.lock"):
        assert clean(tmp_path, "yes=true", "hours=0") == 0
        assert not delete(entry)  # it started after the question was asked
    assert run.exists()
    assert delete(entry)
