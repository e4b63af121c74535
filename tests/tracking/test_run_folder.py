"""Run folders."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ilt.tracking.run_folder import RunFolder, check_run_files, peak_memory_mb, read_config
from ilt.tracking.store import DamagedArtifactError

ENV = {"success_return": 1.0, "crash_reward": None, "seed_blocks": {"test": [3000, 100]}}
CONFIG = {"seed": 0, "model": {"n_layer": 2}, "env": ENV, "evaluation": {"n_episodes": 4, "video": True}}
IDENTITY = {"kind": "training", "seed": 0}


def open_run(
    path: Path, *, resume: bool = True, config: dict[str, Any] = CONFIG, identity: dict[str, Any] = IDENTITY
) -> RunFolder:
    return RunFolder(path, config, identity, resume=resume, started=time.monotonic())


def test_a_run_is_finished_when_its_results_and_figures_are_there(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        with run.stage("training"):
            pass
        assert not run.finished
        run.finish({"return_mean": 1.0})
        assert not run.finished
        with run.stage("figures"):
            pass
        run.finish({"return_mean": 1.0})
        assert run.finished
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["return_mean"] == 1.0
    assert results["evaluation"] == CONFIG["evaluation"]
    assert results["rules"] == {"success_return": 1.0, "crash_reward": None, "test_seeds": [3000, 100]}
    assert set(results["seconds"]) == {"startup", "training", "figures", "total"}
    assert results["peak_memory_mb"] > 0


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation": {"n_episodes": 5, "video": True}},
        {"evaluation": {"n_episodes": 4, "video": False}},
        {"env": {**ENV, "success_return": 2.0}},
        {"env": {**ENV, "crash_reward": -1.0}},
        {"env": {**ENV, "seed_blocks": {"test": [3000, 50]}}},
    ],
)
def test_a_run_that_would_be_scored_otherwise_is_not_finished(tmp_path: Path, change: dict[str, Any]) -> None:
    with open_run(tmp_path / "run") as run, run.stage("figures"):
        pass
    run.finish({})
    with open_run(tmp_path / "run") as run:
        assert run.finished
    with open_run(tmp_path / "run", config={**CONFIG, **change}) as run:
        assert not run.finished
        assert read_config(run.path) == {**CONFIG, **change}


def test_a_changed_config_of_a_finished_run_is_noticed_and_the_same_command_mends_it(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run, run.stage("figures"):
        pass
    run.finish({"files": {}})
    whole = (run.path / "config.yaml").read_text()
    digests = json.loads((run.path / "results.json").read_text())["files"]
    check_run_files(run.path, digests)
    (run.path / "config.yaml").write_text(whole.replace("n_layer: 2", "n_layer: 3"))
    with pytest.raises(DamagedArtifactError, match=r"config\.yaml is not the file that"):
        check_run_files(run.path, digests)
    with open_run(tmp_path / "run") as run:
        assert run.finished
    assert (run.path / "config.yaml").read_text() == whole
    check_run_files(run.path, digests)


def test_a_run_that_is_scored_again_knows_its_new_config(tmp_path: Path) -> None:
    for n_episodes in (4, 5):
        evaluation = {"n_episodes": n_episodes, "video": True}
        with open_run(tmp_path / "run", config={**CONFIG, "evaluation": evaluation}) as run:
            assert not run.finished
            with run.stage("figures"):
                pass
            run.finish({})
            assert run.finished
        check_run_files(run.path, json.loads((run.path / "results.json").read_text())["files"])
    with open_run(tmp_path / "run", config={**CONFIG, "evaluation": evaluation, "other": 1}) as run:
        assert run.finished  # and keeps the config that it was scored with
    check_run_files(run.path, json.loads((run.path / "results.json").read_text())["files"])


def test_what_there_is_to_do_is_said(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        assert run.next_steps == "expert, demonstrations, training, scores"
        run.checkpoints.mkdir()
        (run.checkpoints / "last.ckpt").touch()
        assert run.next_steps == "goes on from its last checkpoint"
        (run.path / "training.json").touch()
        assert run.next_steps == "is trained; scores and figures are made"


def test_the_config_is_read_back_as_it_was(tmp_path: Path) -> None:
    with open_run(tmp_path / "run"):
        assert read_config(tmp_path / "run") == CONFIG


def test_a_folder_is_worked_in_by_one_at_a_time(tmp_path: Path) -> None:
    one, other = open_run(tmp_path / "run"), open_run(tmp_path / "run")
    with one, pytest.raises(RuntimeError, match="another process is at work in"), other:
        pass
    with other:
        pass
    with pytest.raises(ValueError, match=r"run must be the folder of a run, with a config\.yaml in it"):
        read_config(tmp_path)


def test_a_folder_with_another_training_is_refused_and_left_alone(tmp_path: Path) -> None:
    with open_run(tmp_path / "run"):
        pass
    other = open_run(tmp_path / "run", config={**CONFIG, "seed": 1}, identity={**IDENTITY, "seed": 1})
    with pytest.raises(ValueError, match=r"another config \(seed differ\)"), other:
        pass
    with open_run(tmp_path / "run"):
        assert read_config(tmp_path / "run") == CONFIG


def test_without_resume_what_was_there_is_renamed_and_kept(tmp_path: Path) -> None:
    for _ in range(3):
        with open_run(tmp_path / "run", resume=False) as run:
            assert not run.finished
            run.finish({})
    assert sorted(path.name for path in tmp_path.glob("run*")) == ["run", "run.1", "run.2"]


def test_an_error_is_kept_until_the_run_begins_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run(tmp_path / "run"):
        raise ZeroDivisionError("in two\nlines")
    first_line, _, *trace = (tmp_path / "run" / "error.txt").read_text().splitlines()
    assert first_line == "ZeroDivisionError: in two"
    assert "Traceback" in trace[0]
    with open_run(tmp_path / "run") as run:
        run.begin()
        assert not (tmp_path / "run" / "error.txt").exists()


def test_what_is_logged_after_the_beginning_is_kept_with_the_command(tmp_path: Path) -> None:
    log = logging.getLogger("a")
    for text in ("first", "second"):
        with open_run(tmp_path / "run", resume=False) as run:
            log.warning("too early")
            run.begin(overrides=["seed=0"])
            log.warning(text)
        log.warning("too late")
    assert (tmp_path / "run.1" / "train.log").read_text() == "first\n"
    assert (tmp_path / "run" / "train.log").read_text() == "second\n"
    assert yaml.safe_load((tmp_path / "run" / ".hydra" / "overrides.yaml").read_text()) == ["seed=0"]


def test_whoever_interrupts_a_run_is_told_how_to_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run") as run:
        raise KeyboardInterrupt
    assert caplog.messages == ["stopped; the same command begins it again"]
    run.checkpoints.mkdir()
    (run.checkpoints / "last.ckpt").touch()
    with pytest.raises(SystemExit), open_run(tmp_path / "run"):
        raise SystemExit(1)
    assert caplog.messages[1:] == ["stopped; the same command goes on from the last checkpoint"]
    assert not (tmp_path / "run" / "error.txt").exists()


def test_peak_memory_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    held, before = np.ones(40_000_000), peak_memory_mb()
    print_peak = "from ilt.tracking.run_folder import peak_memory_mb; print(peak_memory_mb())"
    started = subprocess.run([sys.executable, "-c", print_peak], capture_output=True, check=True, text=True)
    assert 10 < int(started.stdout) < before - held.nbytes / 1e6 / 2
    held_mb = held.nbytes / 1e6
    del held
    # the kernel counts pages in batches for each core: its high-water mark may be read a megabyte lower later
    assert peak_memory_mb() > before - held_mb / 2
