"""`ilt clean`: what it deletes, and what it never touches."""

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir

from ilt.cli.clean import delete, find_leftovers, main
from tests.cli.test_list import FINISHED, only, states, write_artifact, write_run
from tests.cli.test_train import ROOT


def age(path: Path, *, hours: float) -> None:
    """Make a folder look as if it was last written to so many hours ago."""
    then = time.time() - 3600 * hours
    for each in [*path.rglob("*"), path]:
        os.utime(each, (then, then))


def clean(outputs: Path, *overrides: str) -> int:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("clean", [f"outputs={outputs}", *overrides])
    return main.__wrapped__(cfg)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Everything that there may be, unfinished things two days old."""
    runs = tmp_path / "runs"
    write_run(runs / "again", results=FINISHED)
    write_run(runs / "again.1")
    write_run(runs / "again.2", results=FINISHED)
    write_run(runs / "failed", error="ValueError: no")
    write_run(runs / "unfinished")
    write_run(runs / "damaged", results="{")
    write_run(tmp_path / "reference" / "old")
    write_artifact(tmp_path / "experts" / "ppo-0123456789")
    partial = tmp_path / "experts" / ".a2c-0123456789.partial"
    partial.mkdir()
    (partial / "weights").touch()
    for path in (runs / "unfinished", partial):
        (path.parent / f".{path.name.strip('.').removesuffix('.partial')}.lock").touch()
        age(path, hours=48)
    return tmp_path


LEFT_OVER = {"runs/again.1", "runs/failed", "runs/unfinished", "experts/.a2c-0123456789.partial"}


def test_only_leftovers_are_deleted_with_their_locks(outputs: Path) -> None:
    before = set(states(outputs))
    assert clean(outputs, "yes=true") == 4
    assert before - set(states(outputs)) == LEFT_OVER
    assert not list(outputs.rglob("*.lock"))
    assert (outputs / "reference" / "old" / "config.yaml").exists()


@pytest.mark.parametrize("answer", ["", "n", "no", None])
def test_nothing_is_deleted_without_a_yes(outputs: Path, answer: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def answering(question: str) -> str:
        assert question == "Delete 4 folders? [y/N] "
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", answering)
    before = states(outputs)
    assert clean(outputs) == 0
    assert states(outputs) == before


def test_a_yes_deletes(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert clean(outputs) == 4
    assert clean(outputs) == 0  # and does not ask again


def test_what_was_just_written_to_is_not_left_over(outputs: Path) -> None:
    assert len(list(find_leftovers(outputs, hours=72))) == 2  # what failed and what was set aside
    age(outputs / "runs" / "unfinished", hours=0)
    assert {e.path.name for e in find_leftovers(outputs, hours=24)} == {"again.1", "failed", ".a2c-0123456789.partial"}
    (outputs / "experts" / ".a2c-0123456789.partial" / "weights").touch()
    assert {entry.path.name for entry in find_leftovers(outputs, hours=24)} == {"again.1", "failed"}


def test_what_a_process_works_on_is_kept(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "it", error="ValueError: of the last time")
    entry = only(tmp_path)
    with FileLock(tmp_path / "runs" / ".it.lock"):
        assert clean(tmp_path, "yes=true", "hours=0") == 0
        assert not delete(entry)  # it began after the question was asked
    assert run.exists()
    assert delete(entry)
