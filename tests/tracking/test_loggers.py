"""Every logger writes runs without a server, and its files contain what was logged."""

import csv
import json
import re
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import mlflow
import pytest
import pytorch_lightning as pl
import torch
import wandb
import yaml
from hydra import compose, initialize_config_module
from matplotlib.image import imsave
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from ilt.cli.sync import records
from ilt.schema import ConfigError
from ilt.tracking.loggers import LONGEST_TAG, ExpertCurve, JobInfo, open_run, tags_of
from ilt.tracking.reading import UnreadableFileError
from ilt.tracking.store import Artifact, Store
from ilt.tracking.wandb import WandbRun, artifact_name, has_key
from tests.tracking.hostile_files import replaced

KEY = "0123456789" * 4
WANDB = {"_target_": "wandb.init", "project": "ilt", "name": None, "group": None, "tags": []}
QUIET = dict.fromkeys(["enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep these tests from reaching a server on any machine."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def job(folder: Path, **known: Any) -> JobInfo:
    about = {"name": "some", "job_type": "collect", "config": {"model": {"n_layer": 2}, "seed": 3}}
    return JobInfo(folder=folder, outputs=folder, **{**about, **known})


def option(name: str, outputs: Path) -> Any:
    """Return the logger config for this option."""
    with initialize_config_module("ilt.conf", version_base="1.3"):
        return compose("collect", [f"logger={name}", f"outputs={outputs}"]).logger


def written(outputs: Path, kind: str) -> list[dict[str, Any]]:
    """Return the records of one kind in the only W&B run."""
    (path,) = outputs.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 30  # W&B may still be writing
    while not any(record["type"] == "exit" for record in records(path)) and time.monotonic() < until:
        time.sleep(0.1)
    return [record[kind] for record in records(path) if record["type"] == kind]


@pytest.fixture
def expert(tmp_path: Path) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "actor.safetensors").write_text("weights")
        return {"return_mean": 280.0}

    return Store(tmp_path / "store").find_or_make("experts", "ppo", {"seed": 0}, make)


class Learner(BoringModel):
    """A model that logs a metric with known values."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train/loss", 10.0 + self.global_step)
        return super().training_step(batch, batch_idx)


class OwnLogger(CSVLogger):
    """A logger written by a user."""


def log_everything(logger: Any, job: JobInfo, expert: Artifact) -> None:
    """Log everything that a command may log, including a Lightning training."""
    figure, video = expert.path.parent / "curve.png", expert.path.parent / "episode.mp4"
    imsave(figure, torch.rand(4, 5, 3).numpy())
    video.write_bytes(b"frames")
    with open_run(logger, job) as run:
        run.use_artifacts(expert=expert)
        options = {"logger": run.lightning or False, "default_root_dir": str(job.folder), **QUIET}
        trainer = pl.Trainer(max_steps=2, log_every_n_steps=1, limit_val_batches=0, accelerator="cpu", **options)
        trainer.fit(Learner())
        run.log({"expert/return_mean": -5.0}, step=100, x="expert/steps")
        run.log({"expert/return_mean": 9.0}, step=200, x="expert/steps")
        run.log_tables({"episodes": [{"seed": 1, "return": 2.5}, {"seed": 2, "return": 3.5}]})
        run.log_figures({"curve": figure})
        if not isinstance(run, WandbRun):  # W&B checks that it is a video
            run.log_videos({"episode": video})
        run.summarize({"test/return_mean": 5.0, "test/name": "left out", "test/crash_rate": None})
        run.summarize({"selection/return_mean": 6.0})
        run.describe("# Some run")
        run.log_artifacts(demonstrations=expert)


def test_tensorboard_event_files_contain_everything_but_videos(tmp_path: Path, expert: Artifact) -> None:
    log_everything(option("tensorboard", tmp_path), job(tmp_path), expert)
    folder = tmp_path / "logs" / "collect-some" / "tensorboard"
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(0, 10.0), (1, 11.0)]
    assert [(e.step, e.value) for e in events.Scalars("expert/return_mean")] == [(100, -5.0), (200, 9.0)]
    assert [e.value for e in events.Scalars("test/return_mean")] == [5.0]
    assert [e.value for e in events.Scalars("selection/return_mean")] == [6.0]
    (table,) = events.Tensors("episodes/text_summary")
    assert b"| 2 | 3.5 |" in table.tensor_proto.string_val[0]
    (card,) = events.Tensors("card/text_summary")
    assert card.tensor_proto.string_val[0] == b"# Some run"
    (image,) = events.Images("curve")
    assert (image.height, image.width) == (4, 5)
    start = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    hyperparameters = start.session_start_info.hparams
    assert hyperparameters["model/n_layer"].number_value == 2
    assert hyperparameters["job/type"].string_value == "collect"
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["seed"] == 3


def test_a_local_mlflow_store_contains_everything_and_the_status(tmp_path: Path, expert: Artifact) -> None:
    log_everything(option("mlflow", tmp_path), job(tmp_path), expert)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("ilt")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params.items() >= {"model/n_layer": "2", "seed": "3", "job/type": "collect"}.items()
    assert run.data.metrics.items() >= {"test/return_mean": 5.0, "selection/return_mean": 6.0}.items()
    for name, points in {"train/loss": [(0, 10.0), (1, 11.0)], "expert/return_mean": [(100, -5.0), (200, 9.0)]}.items():
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] == points
    assert run.data.tags["mlflow.note.content"] == "# Some run"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"curve.png", "episode.mp4", "episodes.csv"}
    (table,) = tmp_path.glob("mlflow/**/episodes.csv")
    assert table.read_text().split() == ["seed,return", "1,2.5", "2,3.5"]
    with pytest.raises(KeyError), open_run(option("mlflow", tmp_path), job(tmp_path, name="fails")):
        raise KeyError
    found = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name: run.info.status for run in found} == {"some": "FINISHED", "fails": "FAILED"}


@pytest.mark.parametrize("target", ["pytorch_lightning.loggers.CSVLogger", f"{__name__}.OwnLogger"])
def test_csv_files_contain_everything_for_user_loggers_too(tmp_path: Path, expert: Artifact, target: str) -> None:
    log_everything({**option("csv", tmp_path), "_target_": target}, job(tmp_path, job_type="train"), expert)
    folder = tmp_path / "csv"
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [(row["step"], row["train/loss"]) for row in rows if row["train/loss"]] == [("0", "10.0"), ("1", "11.0")]
    assert [row["step"] for row in rows if row["expert/return_mean"]] == ["100", "200"]
    assert [row["test/return_mean"] for row in rows if row["test/return_mean"]] == ["5.0"]
    assert "test/name" not in rows[0]
    hyperparameters = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert hyperparameters["model"] == {"n_layer": 2}
    assert "git_commit" in hyperparameters["made_by"]
    files = ["card.md", "curve.png", "episode.mp4", "episodes.csv", "hparams.yaml", "metrics.csv"]
    assert sorted(path.name for path in folder.iterdir()) == files


def test_wandb_contains_everything_and_distinguishes_inputs_from_outputs(tmp_path: Path, expert: Artifact) -> None:
    own = {"tags": ["mine"], "notes": "Mine."}
    log_everything({**WANDB, **own}, job(tmp_path, tags=["seed=1"], group="sweep"), expert)
    header, described = written(tmp_path, "run")
    assert (header["notes"], described["notes"]) == ("Mine.", "Mine.\n\n# Some run")
    assert (header["project"], header["job_type"], header["display_name"]) == ("ilt", "collect", "some")
    assert (header["tags"], header["run_group"]) == (["mine", "seed=1"], "sweep")
    assert header["config"]["update"]["model"] == {"n_layer": 2}
    assert "git_commit" in header["config"]["update"]["made_by"]
    assert written(tmp_path, "exit")[0].get("exit_code", 0) == 0
    history = [record["item"] for record in written(tmp_path, "history")]
    assert [row["train/loss"] for row in history if "train/loss" in row] == [10.0, 11.0]
    curve = [(row["expert/steps"], row["expert/return_mean"]) for row in history if "expert/return_mean" in row]
    assert curve == [(100, -5.0), (200, 9.0)]
    summary = {name: value for record in written(tmp_path, "summary") for name, value in record["update"].items()}
    assert (summary["test/return_mean"], summary["selection/return_mean"]) == (5.0, 6.0)
    assert {"episodes", "curve"} <= {name.split(".")[0] for row in history for name in row}
    (table,) = tmp_path.glob("wandb/offline-*/files/media/table/*.json")
    assert json.loads(table.read_text())["data"] == [[1, 2.5], [2, 3.5]]
    artifacts = {artifact["type"]: artifact for artifact in written(tmp_path, "artifact")}
    used = artifacts["expert"]
    assert (used["name"], used.get("use_after_commit", False)) == (expert.name, True)
    assert not artifacts["demonstrations"].get("use_after_commit", False)
    assert json.loads(used["metadata"])["metrics"] == {"return_mean": 280.0}


def test_without_a_logger_nothing_is_written(tmp_path: Path, expert: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for name in ("none", "wandb"):
        log_everything(option(name, tmp_path), job(tmp_path / "of the job"), expert)
        assert not (tmp_path / "of the job").exists()


def test_a_logger_that_cannot_be_built_is_a_config_error(tmp_path: Path) -> None:
    wrong = {**option("csv", tmp_path), "bogus": 1}
    with pytest.raises(ConfigError, match=r"logger\.bogus is not a key"), open_run(wrong, job(tmp_path)):
        pass


def test_a_failed_wandb_run_is_marked_and_stores_no_code_or_package_list(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_run(WANDB, job(tmp_path)):
        raise KeyError
    assert written(tmp_path, "exit")[0]["exit_code"] == 1
    assert {path.name for path in tmp_path.glob("wandb/offline-*/files/**/*")} <= {"output.log"}
    assert "git" not in written(tmp_path, "run")[0]


def test_the_wandb_run_id_depends_only_on_the_job(tmp_path: Path) -> None:
    ids = []
    for job_type in ("collect", "collect", "expert"):
        with open_run(WANDB, job(tmp_path, job_type=job_type)) as run:
            assert isinstance(run, WandbRun)
            ids.append(run.id)
    assert ids[0] == ids[1] != ids[2]


def test_a_job_that_cannot_reach_its_server_continues_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()  # W&B reads the environment only once
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    try:
        with open_run(WANDB, job(tmp_path)) as run:
            run.summarize({"return_mean": 5.0})
    finally:
        wandb.teardown()
    assert written(tmp_path, "exit")
    assert any("return_mean" in update["update"] for update in written(tmp_path, "summary"))


def test_a_key_counts_only_for_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    (tmp_path / "netrc").write_text(f"machine wandb.example.org login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert not has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert has_key()
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_key()


def test_an_artifact_has_the_same_digest_in_every_run_and_is_read_in_place(tmp_path: Path, expert: Artifact) -> None:
    digests = set()
    for name in ("one", "other"):
        with open_run(WANDB, job(tmp_path / name)) as run:
            run.use_artifacts(expert=expert)
        (artifact,) = written(tmp_path / name, "artifact")
        digests.add(artifact["digest"])
        files = {file["path"]: file["local_path"] for file in artifact["manifest"]["contents"]}
        assert files == {name: str(expert.file(name)) for name in ("actor.safetensors", "manifest.json")}
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["actor.safetensors", "manifest.json"])
@pytest.mark.parametrize("how", ["a link", "a FIFO", "a folder"])
def test_an_artifact_contains_only_regular_files_from_its_folder(
    name: str, how: str, tmp_path: Path, expert: Artifact
) -> None:
    replaced(expert.file(name), how)
    with (
        open_run(WANDB, job(tmp_path)) as run,
        pytest.raises(UnreadableFileError, match=f"{name} cannot be used: it is "),
    ):
        run.use_artifacts(expert=expert)
    outside = Artifact(expert.path, {**expert.manifest, "files": {"../../netrc": "0"}})
    (tmp_path / "netrc").touch()
    with open_run(WANDB, job(tmp_path / "other")) as run, pytest.raises(UnreadableFileError, match="it leads out of"):
        run.log_artifacts(expert=outside)
    assert written(tmp_path / "other", "artifact") == []


@pytest.mark.parametrize("live", [False, True])
def test_an_experts_curve_is_logged_once_whether_trained_now_or_earlier(live: bool) -> None:
    history = [{"steps": 100, "return_mean": -5.0}, {"steps": 200, "return_mean": 9.0}]
    curve = ExpertCurve(run := Mock())
    for entry in history if live else []:
        curve.add(int(entry["steps"]), entry["return_mean"])
    curve.fill(history)
    points = [(entry["steps"], entry["return_mean"]) for entry in history]
    assert run.log.mock_calls == [call({"expert/return_mean": mean}, step=n, x="expert/steps") for n, mean in points]


def test_overrides_that_affect_results_become_tags() -> None:
    kept = ["model=small", "+env.kwargs.gravity=-8", "seed=1", "evaluation.context_length=4"]
    overrides = [*kept, "outputs=/home/me", "logger.project=x", "resume=false", "evaluation.video=false"]
    assert tags_of(overrides) == [override.lstrip("+") for override in kept]
    (tag,) = tags_of([f"expert.training.hidden=[{','.join(['64'] * 40)}]"])
    assert len(tag) == LONGEST_TAG
    assert tag.startswith("expert.training.hidden=[64,")


@pytest.mark.parametrize("name", ["lr=0.1", "two words", "a+b:c", "größe", "n" * 200])
def test_any_name_is_mapped_to_a_valid_wandb_name(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", artifact_name(name))
    assert artifact_name(name) == artifact_name(name) != artifact_name(f"{name}2")
    assert artifact_name("tiny-K8-s0.1") == "tiny-K8-s0.1"
