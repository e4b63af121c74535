"""`ilt export-minari`, and students of recordings, which need no expert."""

import shutil
from pathlib import Path

import minari
import numpy as np
import pytest

from ilt.data.episodes import Episodes
from tests.cli.commands import only_run, refusal, results_of, run_command, type_command, wandb_records

POLE = ["env=cartpole", "env.gate=null", "processes=1"]
QUICK = ["expert=random", "expert.selection_episodes=2", "expert.gate_episodes=4", "demos.n_episodes=10"]
STUDENT = ["model=nano", "trainer=smoke", "callbacks.rollout.n_episodes=4", "evaluation.n_episodes=6"]
ID = "ilt/cartpole-v0"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with demonstrations, and with a data set of them in `datasets`."""
    folder = tmp_path_factory.mktemp("outputs")
    type_command(
        "export-minari", f"id={ID}", *POLE, *QUICK, "demos.n_validation_episodes=1", "author=A", f"outputs={folder}",
        MINARI_DATASETS_PATH=str(folder / "datasets"),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def run(outputs: Path) -> Path:
    """Return a run with the data set, without an expert, logged to W&B offline."""
    place = {"MINARI_DATASETS_PATH": str(outputs / "datasets")}
    type_command("train", *POLE, "demos=minari", f"demos.id={ID}", *STUDENT, f"outputs={outputs}", **place)
    return only_run(outputs)


@pytest.fixture(autouse=True)
def _datasets(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(outputs / "datasets"))


def test_demonstrations_are_exported_with_reference_scores(outputs: Path) -> None:
    dataset, (demos,) = minari.load_dataset(ID), outputs.glob("demos/random-*")
    episodes = Episodes.load(demos / "demonstrations.npz")
    assert [len(episode.rewards) for episode in dataset] == episodes.lengths.tolist()
    np.testing.assert_array_equal(np.concatenate([e.observations for e in dataset]), episodes.observations)
    np.testing.assert_array_equal(np.concatenate([e.actions for e in dataset]), episodes.actions)
    metadata = dataset.storage.metadata
    assert (metadata["author"], metadata["algorithm_name"]) == ({"A"}, "random")
    assert metadata["num_episodes_average_score"] == 4
    assert {"ref_min_score", "ref_max_score"} <= set(metadata)
    assert dataset.env_spec.id == "CartPole-v1"


def test_a_folder_and_a_file_are_exported(outputs: Path) -> None:
    (demos,) = outputs.glob("demos/random-*")
    for name, source in {"folder": demos, "file": demos / "demonstrations.npz"}.items():
        run_command("export-minari", f"id=ilt/{name}-v0", *POLE, f"episodes={source}", f"outputs={outputs}")
    folder, file = (minari.load_dataset(f"ilt/{name}-v0") for name in ("folder", "file"))
    assert len(folder) == len(file) == 10
    assert folder.storage.metadata["ref_max_score"] == minari.load_dataset(ID).storage.metadata["ref_max_score"]
    assert "ref_max_score" not in file.storage.metadata
    shutil.rmtree(outputs / "datasets" / "ilt" / "file-v0")
    shutil.rmtree(outputs / "datasets" / "ilt" / "folder-v0")


def test_an_existing_data_set_is_refused_before_any_work(outputs: Path, tmp_path: Path) -> None:
    said = refusal("export-minari", f"id={ID}", *POLE, f"outputs={tmp_path}")
    assert said.startswith("id must be a new data set, unless overwrite=true, but ")
    assert not list(tmp_path.iterdir())


def test_a_student_of_recordings_has_no_expert(run: Path) -> None:
    assert run.name.startswith("cartpole-nano-K8-minari-s0-")
    results, metadata = results_of(run), minari.load_dataset(ID).storage.metadata
    assert [results[name] for name in ("expert", "expert_return_mean", "difference_to_expert")] == [None, None, None]
    low, high = metadata["ref_min_score"], metadata["ref_max_score"]
    if low < high:
        assert results["performance_reference"] == {"source": "dataset", "zero": low, "one": high}
        assert results["performance"] == pytest.approx((results["return_mean"] - low) / (high - low))
    assert set(results["policies"]) == {"random"}
    assert (run / "episodes.csv").read_text().startswith("seed,student_return,random_return,")
    for name in ("learning_curve.png", "return_distribution.png", "episode.mp4"):
        assert (run / name).stat().st_size > 100
    assert len(list(run.parents[1].glob("experts/random-*"))) == 1  # of the export
    logged = [artifact["type"] for artifact in wandb_records(run)["artifact"]]
    assert "expert" not in logged
    assert "model" in logged


def test_every_command_copes_with_a_missing_expert(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = f"outputs={run.parents[1]}"
    again = run_command("evaluate", f"run={run}", "seeds=test:6", outputs, "processes=1", "logger=none")
    assert again == results_of(run)["return_mean"]
    for command in (["show", f"run={run}"], ["list"], ["figures", f"run={run}"]):
        type_command(*command, outputs)
    type_command("report", f"runs={run.parent}", "videos=false", outputs)
    (page,) = run.parent.glob("report.html")
    assert "Student beside expert" not in page.read_text()
    assert "None" not in capsys.readouterr().out


def test_the_expert_of_recordings_may_be_named(outputs: Path, tmp_path: Path) -> None:
    shutil.copytree(outputs / "experts", tmp_path / "experts")
    demos = ["demos=minari", f"demos.id={ID}", "evaluation.video=false"]
    type_command("train", *POLE, *demos, *QUICK[:3], *STUDENT, "logger=none", f"outputs={tmp_path}")
    results = results_of(only_run(tmp_path))
    assert results["expert"].startswith("random-")
    assert results["performance_reference"]["source"] == "expert"


def test_labels_need_an_expert(tmp_path: Path) -> None:
    for name in ("dagger", "dart"):
        said = refusal("train", *POLE, "demos=minari", f"demos.id={ID}", f"imitation={name}", f"outputs={tmp_path}")
        assert said.startswith("expert must be one that labels the student's episodes where imitation.rounds is above")
    assert not list(tmp_path.glob("*/*"))
