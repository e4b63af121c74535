"""W&B runs, written offline and read back from their files."""

import json
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import DictConfig, OmegaConf

from ilt.cli.sync import records
from ilt.config import ConfigError
from ilt.tracking import wandb_artifacts
from ilt.tracking.loggers import LONGEST_TAG, ExpertCurve, has_key, open_run, publish, tags_of
from ilt.tracking.store import Artifact, Store

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing here reaches a server, whoever runs it."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))


def job(outputs: Path, **logger: Any) -> DictConfig:
    wandb = {"_target_": "wandb.init", "project": "ilt", "name": None, "group": None, "tags": [], **logger}
    return OmegaConf.create({"outputs": str(outputs), "seed": 3, "double": "${seed}", "logger": wandb})


def run_files(outputs: Path) -> list[Path]:
    return sorted(outputs.glob("wandb/offline-run-*/run-*.wandb"))


def written(outputs: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in the only run there is."""
    (path,) = run_files(outputs)
    return [record[kind] for record in records(path) if record["type"] == kind]


@pytest.fixture
def expert(tmp_path: Path) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "actor.safetensors").write_text("weights")
        return {"return_mean": 280.0}

    return Store(tmp_path / "store").find_or_make("experts", "ppo", {"seed": 0}, make)


# --- a run ---


def test_a_run_knows_its_job_and_its_resolved_config_and_ends_with_the_job(tmp_path: Path) -> None:
    with open_run(job(tmp_path, tags=["mine"]), "collect", name="some", folder=tmp_path) as run:
        publish(
            run, numbers={"return_mean": 5.0, "name": "left out"}, tables={"episodes": [{"seed": 1, "return": 2.0}]}
        )
    (header,) = written(tmp_path, "run")
    assert (header["project"], header["job_type"], header["display_name"]) == ("ilt", "collect", "some")
    assert header["tags"] == ["mine"]
    assert header["config"]["update"]["double"] == 3
    assert "git_commit" in header["config"]["update"]["made_by"]
    assert "outputs" not in header["config"]["update"]
    assert written(tmp_path, "exit")[0].get("exit_code", 0) == 0
    assert any("return_mean" in update["update"] for update in written(tmp_path, "summary"))
    (table,) = tmp_path.glob("wandb/offline-*/files/media/table/*.json")
    assert json.loads(table.read_text())["data"] == [[1, 2.0]]


def test_neither_code_nor_a_list_of_packages_is_kept_for_the_upload(tmp_path: Path) -> None:
    with open_run(job(tmp_path), "collect", name="some", folder=tmp_path):
        pass
    assert {path.name for path in tmp_path.glob("wandb/offline-*/files/**/*")} <= {"output.log"}
    assert "git" not in written(tmp_path, "run")[0]


def test_a_run_whose_job_fails_is_marked_as_failed(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyError),
        open_run(job(tmp_path), "collect", name="some", folder=tmp_path),
    ):
        raise KeyError
    assert written(tmp_path, "exit")[0]["exit_code"] == 1


def test_the_same_job_again_is_the_same_run_and_another_is_another(tmp_path: Path) -> None:
    ids = []
    for job_type in ("collect", "collect", "expert"):
        with open_run(job(tmp_path), job_type, name="some", folder=tmp_path) as run:
            assert run is not None
            ids.append(run.id)
    assert ids[0] == ids[1] != ids[2]


def test_without_a_logger_there_is_no_run_and_nothing_to_do(tmp_path: Path, expert: Artifact) -> None:
    cfg = job(tmp_path)
    cfg.logger = {}
    with open_run(cfg, "expert", name="some", folder=tmp_path) as run:
        assert run is None
        publish(run, numbers={"return_mean": 5.0})
        wandb_artifacts.uses(run, expert=expert)
        wandb_artifacts.makes(run, expert=expert)
        ExpertCurve(run).add(100, 5.0)
    assert run_files(tmp_path) == []


def test_wandb_that_is_disabled_is_no_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with open_run(job(tmp_path), "expert", name="some", folder=tmp_path) as run:
        assert run is None


def test_a_logger_for_trainings_is_refused_elsewhere(tmp_path: Path) -> None:
    cfg = job(tmp_path, _target_="pytorch_lightning.loggers.CSVLogger")
    with (
        pytest.raises(ConfigError, match="logger must be wandb or none"),
        open_run(cfg, "expert", name="some", folder=tmp_path),
    ):
        pass


def test_a_job_that_cannot_reach_its_server_goes_on_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    wandb.teardown()  # the environment is read once
    with open_run(job(tmp_path), "expert", name="some", folder=tmp_path) as run:
        publish(run, numbers={"return_mean": 5.0})
    wandb.teardown()
    assert written(tmp_path, "exit")
    assert any("return_mean" in update["update"] for update in written(tmp_path, "summary"))


def test_a_key_counts_for_the_server_that_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    (tmp_path / "netrc").write_text(f"machine wandb.example.org login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert not has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert has_key()
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_key()


# --- tags ---


def test_what_was_swept_becomes_tags_and_what_changes_no_number_does_not() -> None:
    overrides = [
        "model=small",
        "+env.kwargs.gravity=-8",
        "seed=1",
        "outputs=/home/me",
        "logger.project=x",
        "resume=false",
    ]
    assert tags_of(overrides) == ["model=small", "env.kwargs.gravity=-8", "seed=1"]


def test_a_tag_is_as_long_as_wandb_allows() -> None:
    (tag,) = tags_of([f"expert.training.hidden=[{','.join(['64'] * 40)}]"])
    assert len(tag) == LONGEST_TAG
    assert tag.startswith("expert.training.hidden=[64,")


# --- W&B artifacts ---


def test_what_is_made_and_what_is_used_are_told_apart_also_offline(tmp_path: Path, expert: Artifact) -> None:
    with open_run(job(tmp_path), "collect", name="some", folder=tmp_path) as run:
        wandb_artifacts.uses(run, expert=expert)
        wandb_artifacts.makes(run, demonstrations=expert)
    used, made = written(tmp_path, "artifact")
    assert (used["type"], used.get("use_after_commit", False)) == ("expert", True)
    assert (made["type"], made.get("use_after_commit", False)) == ("demonstrations", False)
    assert used["name"] == expert.name
    assert json.loads(used["metadata"])["metrics"] == {"return_mean": 280.0}


def test_an_artifact_is_the_same_in_every_run_and_is_read_in_place(tmp_path: Path, expert: Artifact) -> None:
    digests = set()
    for name in ("one", "other"):
        with open_run(job(tmp_path / name), "collect", name=name, folder=tmp_path / name) as run:
            wandb_artifacts.uses(run, expert=expert)
        (artifact,) = written(tmp_path / name, "artifact")
        digests.add(artifact["digest"])
        files = {file["path"]: file["local_path"] for file in artifact["manifest"]["contents"]}
        assert files == {name: str(expert.file(name)) for name in ("actor.safetensors", "manifest.json")}
    assert len(digests) == 1


# --- an expert's curve ---


def test_an_expert_that_was_trained_before_shows_its_curve_and_one_in_training_shows_it_once(tmp_path: Path) -> None:
    history = [{"steps": 100, "return_mean": -5.0}, {"steps": 200, "return_mean": 9.0}]
    for name, live in (("found", False), ("trained", True)):
        with open_run(job(tmp_path / name), "expert", name=name, folder=tmp_path / name) as run:
            curve = ExpertCurve(run)
            for entry in history if live else []:
                curve.add(int(entry["steps"]), entry["return_mean"])
            curve.fill(history)
        rows = [record["item"] for record in written(tmp_path / name, "history")]
        assert [(row["expert/steps"], row["expert/return_mean"]) for row in rows] == [(100, -5.0), (200, 9.0)]
