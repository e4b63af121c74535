import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ilt.cli.sync import AT_WORK, OfflineRun, find_offline
from ilt.tracking.loggers import open_run
from ilt.tracking.store import Artifact
from tests.cli.commands import run_command
from tests.tracking.hostile_files import replaced
from tests.tracking.test_loggers import WANDB, expert, job, no_key

__all__ = ["expert", "no_key"]  # fixtures


@pytest.fixture
def outputs(tmp_path: Path, expert: Artifact) -> Path:
    """Return outputs with two runs that use the same expert; the second run failed."""
    outputs = tmp_path  # where the expert is stored
    for job_type in ("collect", "train"):
        about = job(outputs / "multirun" / job_type, job_type=job_type, name=job_type)
        with suppress(KeyError), open_run({**WANDB, "entity": "us"}, about) as run:
            run.use_artifacts(expert=expert)
            if job_type == "train":
                raise KeyError
    return outputs


@pytest.fixture
def first(outputs: Path) -> OfflineRun:
    return find_offline(outputs)[0]


def test_offline_runs_are_found_in_any_folder_with_their_uploads(outputs: Path, expert: Artifact) -> None:
    first, second = runs = sorted(find_offline(outputs), key=lambda run: run.name)
    assert [(run.name, run.job_type, run.project) for run in runs] == [(n, n, "us/ilt") for n in ("collect", "train")]
    assert [(run.ended, run.missing) for run in runs] == [(True, ())] * 2
    assert first.size > 1000
    assert list(first.artifacts.values()) == [sum(path.stat().st_size for path in expert.path.iterdir())]
    assert first.artifacts == second.artifacts  # it would be uploaded once
    first.path.with_suffix(".wandb.synced").touch()  # W&B marks uploaded runs like this
    assert [run.name for run in find_offline(outputs)] == ["train"]


def test_a_missing_artifact_file_is_named(outputs: Path, expert: Artifact) -> None:
    expert.file("actor.safetensors").unlink()
    assert find_offline(outputs)[0].missing == (str(expert.file("actor.safetensors")),)


def test_a_run_counts_as_active_until_it_ends_or_stops_writing(outputs: Path, first: OfflineRun) -> None:
    first.path.write_bytes(first.path.read_bytes()[:-40])  # drop the record that the run ended
    assert find_offline(outputs)[0].at_work
    long_ago = time.time() - 2 * AT_WORK
    os.utime(first.path, (long_ago, long_ago))
    assert not find_offline(outputs)[0].at_work
    first.path.write_bytes(b"")  # nothing written yet
    assert find_offline(outputs)[0].at_work


@pytest.mark.parametrize("how", ["rubbish", "a link", "a FIFO"])
def test_a_damaged_run_is_excluded_with_the_reason(how: str, outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = (run.path for run in find_offline(outputs))
    if how == "rubbish":
        bad.write_bytes(b"rubbish" * 1000)
    else:
        replaced(bad, how)
    assert [run.path for run in find_offline(outputs)] == [good]
    (message,) = caplog.messages
    assert message.startswith(f"left out: {bad} cannot be used: ")


def test_a_broken_link_has_no_size(outputs: Path, first: OfflineRun) -> None:
    before = first.size
    (first.path.parent / "debug.log").symlink_to(
        outputs / "cleaned-away.log"
    )  # W&B links to a log in its cache like this
    assert first.size == before


def test_without_a_key_sync_says_what_to_do_and_fails(outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert run_command("sync", f"outputs={outputs}", "dry_run=true") == 0
    assert "2 runs (1 collect, 1 train)" in caplog.text
    assert "to https://" in caplog.text
    assert "no API key" not in caplog.text
    with pytest.raises(SystemExit, match="1"):
        run_command("sync", f"outputs={outputs}")
    assert "set WANDB_API_KEY" in caplog.text
    assert not list(outputs.rglob("*.synced"))
    (outputs / "empty").mkdir()
    run_command("sync", f"outputs={outputs / 'empty'}")
    assert "nothing to upload" in caplog.text


def test_a_run_that_would_upload_files_outside_its_outputs_is_excluded(
    tmp_path: Path, expert: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = tmp_path / "outputs"  # a colleague's outputs, whose expert is outside
    with open_run(WANDB, job(outputs / "run", job_type="train", name="train")) as run:
        run.use_artifacts(expert=expert)
    assert find_offline(outputs) == []
    assert "would upload" in caplog.text
    assert "which is outside outputs" in caplog.text
