import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ilt.schema import ConfigError
from ilt.tracking.reading import UnreadableFileError
from ilt.tracking.run_folder import RunFolder, check_run_files, peak_memory_mb, read_config
from ilt.tracking.store import DamagedArtifactError, sha256

ENV = {"success_return": 1.0, "crash_reward": None, "seed_blocks": {"test": [3000, 100]}}
CONFIG = {"seed": 0, "model": {"n_layer": 2}, "env": ENV, "evaluation": {"n_episodes": 4, "video": True}}


def open_run(outputs: Path, *, resume: bool = True, wait: bool = False, **changes: Any) -> RunFolder:
    config = {**CONFIG, **changes}
    identity = {"kind": "training", "seed": config["seed"]}
    return RunFolder(outputs / "run", config, identity, resume=resume, started=time.monotonic(), wait=wait)


def test_a_run_is_finished_when_results_and_figures_exist(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        with run.stage("training"):
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
def test_a_run_with_changed_scoring_is_not_finished(tmp_path: Path, change: dict[str, Any]) -> None:
    with open_run(tmp_path) as run, run.stage("figures"):
        pass
    run.finish({})
    with open_run(tmp_path) as run:
        assert run.finished
    with open_run(tmp_path, **change) as run:
        assert not run.finished
        assert read_config(run.path) == {**CONFIG, **change}


def test_a_tampered_config_is_detected_and_repeating_the_command_repairs_it(tmp_path: Path) -> None:
    with open_run(tmp_path) as run, run.stage("figures"):
        pass
    run.finish({"files": {}})
    whole = (run.path / "config.yaml").read_text()
    digests = json.loads((run.path / "results.json").read_text())["files"]
    check_run_files(run.path, digests)
    (run.path / "config.yaml").write_text(whole.replace("n_layer: 2", "n_layer: 3"))
    with pytest.raises(DamagedArtifactError, match=r"config\.yaml is not the file that"):
        check_run_files(run.path, digests)
    with open_run(tmp_path) as run:
        assert run.finished
    assert (run.path / "config.yaml").read_text() == whole
    check_run_files(run.path, digests)


@pytest.mark.parametrize("name", ["results.json", "episodes.csv", "weights"])
def test_a_finished_run_with_a_changed_number_is_refused(tmp_path: Path, name: str) -> None:
    with open_run(tmp_path) as run, run.stage("figures"):
        pass
    for file in ("episodes.csv", "weights"):
        (run.path / file).write_text("280.1")
    run.finish({"return_mean": 280.1, "files": {"weights": sha256(run.path / "weights")}})
    assert run.finished
    (run.path / name).write_text((run.path / name).read_text().replace("280.1", "290.1"))
    with pytest.raises((DamagedArtifactError, UnreadableFileError), match=name):
        assert run.finished


def test_a_rescored_run_records_its_new_config(tmp_path: Path) -> None:
    for n_episodes in (4, 5):
        evaluation = {"n_episodes": n_episodes, "video": True}
        with open_run(tmp_path, evaluation=evaluation) as run:
            assert not run.finished
            with run.stage("figures"):
                pass
            run.finish({})
            assert run.finished
        check_run_files(run.path, json.loads((run.path / "results.json").read_text())["files"])
    with open_run(tmp_path, evaluation=evaluation, other=1) as run:
        assert run.finished  # and keeps the config it was scored with
    check_run_files(run.path, json.loads((run.path / "results.json").read_text())["files"])


def test_a_config_that_reads_environment_variables_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("env: {kwargs: {key: ['${oc.env:WANDB_API_KEY}']}}")
    with pytest.raises(UnreadableFileError, match=r"config\.yaml cannot be used: it contains the interpolation"):
        read_config(tmp_path)


def test_a_run_lists_its_remaining_stages(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        assert run.next_steps == "expert, demonstrations, training, scores, figures"
        run.checkpoints.mkdir()
        (run.checkpoints / "last.ckpt").touch()
        assert run.next_steps == "training from its last checkpoint, scores, figures"
        (run.path / "training.json").touch()
        assert run.next_steps == "scores, figures (already trained)"


def test_only_one_process_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    one, other = open_run(tmp_path), open_run(tmp_path)
    with one, pytest.raises(RuntimeError, match="another process is working in"), other:
        pass
    with other:
        pass
    with pytest.raises(ValueError, match=r"run must be the folder of a run, with a config\.yaml in it"):
        read_config(tmp_path)


def test_a_folder_with_another_training_is_refused_and_left_alone(tmp_path: Path) -> None:
    with open_run(tmp_path):
        pass
    with pytest.raises(ValueError, match=r"another config \(seed differ\)"), open_run(tmp_path, seed=1):
        pass
    assert read_config(tmp_path / "run") == CONFIG
    with open_run(tmp_path):  # the lock is free
        pass


def test_an_error_is_kept_until_the_run_restarts(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run(tmp_path):
        raise ZeroDivisionError("in two\nlines")
    first_line, _, *trace = (tmp_path / "run" / "error.txt").read_text().splitlines()
    assert first_line == "ZeroDivisionError: in two lines"
    assert "Traceback" in trace[0]
    with open_run(tmp_path) as run:
        run.begin()
        assert not (tmp_path / "run" / "error.txt").exists()


def test_without_resume_a_run_is_set_aside_with_its_log_and_its_command(tmp_path: Path) -> None:
    log = logging.getLogger("a")
    for text in ("first", "second", "third"):
        with open_run(tmp_path, resume=False) as run:
            assert not run.finished
            log.warning("too early")
            run.begin(overrides=[f"text={text}"])
            log.warning(text)
            run.finish({})
        log.warning("too late")
    for name, text in (("run.1", "first"), ("run.2", "second"), ("run", "third")):
        assert (tmp_path / name / "train.log").read_text() == f"{text}\n"
        assert yaml.safe_load((tmp_path / name / ".hydra" / "overrides.yaml").read_text()) == [f"text={text}"]


def test_an_interrupted_run_says_how_to_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path) as run:
        raise KeyboardInterrupt
    run.checkpoints.mkdir()
    (run.checkpoints / "last.ckpt").touch()
    with pytest.raises(SystemExit), open_run(tmp_path):
        raise SystemExit(1)
    same = "stopped; the same command"
    assert caplog.messages == [f"{same} starts it over", f"{same} resumes from the last checkpoint"]
    assert not (tmp_path / "run" / "error.txt").exists()


def test_peak_memory_does_not_include_the_parent_process() -> None:
    held, before = np.ones(40_000_000), peak_memory_mb()
    most_mb = before - held.nbytes / 1e6 / 2
    print_peak = "from ilt.tracking.run_folder import peak_memory_mb; print(peak_memory_mb())"
    started = subprocess.run([sys.executable, "-c", print_peak], capture_output=True, check=True, text=True)
    assert 10 < int(started.stdout) < most_mb
    del held
    assert peak_memory_mb() > most_mb  # the kernel counts in batches of pages, not exactly


def test_a_run_is_set_aside_by_a_single_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run(tmp_path) as run:
        run.finish({"return_mean": 1.0})
    rename, renamed = Path.rename, []
    monkeypatch.setattr(Path, "rename", lambda path, target: (renamed.append(path), rename(path, target)))
    with open_run(tmp_path, resume=False):
        pass
    assert renamed == [tmp_path / "run"]
    assert (tmp_path / "run.1" / "results.json").exists()


def test_a_config_that_cannot_run_leaves_neither_a_folder_nor_a_lock(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), open_run(tmp_path) as run, run.stage("imports"):
        raise ConfigError("model cannot act")
    assert list(tmp_path.iterdir()) == []
    begun = open_run(tmp_path)
    begun.seconds["training"] = 1.0
    with pytest.raises(ConfigError), begun:
        raise ConfigError("too late")
    assert (tmp_path / "run" / "error.txt").exists()


def test_a_sweep_job_waits_for_the_same_job_in_another_sweep(tmp_path: Path) -> None:
    order = []
    with open_run(tmp_path):
        waiting = threading.Thread(target=lambda: (open_run(tmp_path, wait=True).__enter__(), order.append("entered")))
        waiting.start()
        waiting.join(timeout=0.5)
        order.append("left")
    waiting.join(timeout=10)
    assert order == ["left", "entered"]
