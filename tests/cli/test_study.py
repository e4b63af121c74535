"""`ilt study`: what it runs, what it skips, and what it says about a study that cannot run."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from ilt.registry import options_of
from tests.cli.commands import refusal, results_of, type_command

Captured = pytest.CaptureFixture[str]

TOY = """
defaults: [study_keys]
title: A toy study
metric: return
bar: 1000
columns: [model, dataset.context_length]
words: {nano: transformer, dataset.context_length: "K ="}
shared:
  experiment: smoke
  env: cartpole
  expert: random
  demos.n_episodes: 3
  trainer.max_steps: 4
  trainer.val_check_interval: 4
  callbacks.rollout.n_episodes: 2
  evaluation: {}
sweeps:
  transformers: {model: nano, dataset.context_length: 2, seed: "0,1"}
  gated: {model: mlp, model.size: nano, dataset.context_length: 2, expert.gate: 1000, expert.seed: 3}
""".replace("  evaluation: {}\n", "  evaluation.n_episodes: 5\n  evaluation.video: false\n")


def typed(folder: Path, *arguments: str) -> list[str]:
    return ["study", "toy", f"outputs={folder / 'outputs'}", *arguments, "--config-dir", str(folder / "conf")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the toy study has run: two jobs are finished, and one failed because of its expert's gate."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "conf/study").mkdir(parents=True)
    (folder / "conf/study/toy.yaml").write_text(TOY)
    with pytest.raises(SystemExit) as stopped:
        type_command(*typed(folder))
    (folder / "said").write_text(str(stopped.value.code))
    return folder


def runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("outputs/studies/toy/*/results.json"))


def test_a_failed_job_does_not_stop_the_others_and_is_named_at_the_end(folder: Path) -> None:
    said = (folder / "said").read_text()
    assert said.startswith("1 of 3 jobs are not finished, such as cartpole-mlp-K2-random-s0-")
    assert "failed: GateError" in said
    assert len(runs_in(folder)) == 2
    text = (folder / "outputs/studies/toy/study.md").read_text()
    assert "2 of 3 jobs finished" in text
    assert "failed: GateError" in text


def test_the_numbers_are_those_of_the_runs(folder: Path) -> None:
    study = json.loads((folder / "outputs/studies/toy/study.json").read_text())
    cell, gated = study["cells"]
    results = [results_of(run) for run in runs_in(folder)]
    assert (cell["row"], cell["column"], gated["column"]) == ("CartPole-v1", "transformer, K = 2", "mlp, K = 2")
    assert cell["return"] == pytest.approx(fmean(each["return_mean"] for each in results))
    assert cell["lowest"] == min(each["return_mean"] for each in results)
    assert (cell["n_episodes"], cell["misses"], "return" in gated) == (5, "mean", False)
    assert {name for name, status in cell["runs"].items()} == {run.name for run in runs_in(folder)}
    assert {path.name for path in (folder / "outputs/studies/toy").glob("study.*")} == {
        "study.md", "study.csv", "study.json", "study.png", "study.pdf"
    }  # fmt: skip


def test_the_same_command_runs_only_what_is_missing(folder: Path, capsys: Captured) -> None:
    before = {run: (run / "results.json").stat().st_mtime_ns for run in runs_in(folder)}
    said = refusal(*typed(folder, "only=[mlp]"))
    assert said.startswith("1 of 1 jobs are not finished")
    type_command(*typed(folder, "only=[transformers,seed:1]"))
    assert "toy: 1 of 1 jobs finished" in capsys.readouterr().out
    assert {run: (run / "results.json").stat().st_mtime_ns for run in runs_in(folder)} == before


def test_a_report_can_be_written_at_any_time(folder: Path, capsys: Captured) -> None:
    (folder / "outputs/studies/toy/study.md").unlink()
    type_command(*typed(folder, "report=true"))
    assert "A toy study: 2 of 3 jobs finished" in capsys.readouterr().out
    assert (folder / "outputs/studies/toy/study.md").exists()


def test_a_dry_run_lists_jobs_and_time_and_writes_nothing(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    type_command(*typed(folder, "dry_run=true"))
    said = capsys.readouterr().out
    assert "toy: 2 of 3 jobs finished, 1 failed; the rest takes about" in said
    assert "(by finished jobs)" in said
    new = [*typed(folder, "dry_run=true", "seed=0,1,2,3", "+study.seconds.transformers=7")]
    type_command(*[f"outputs={tmp_path / 'new'}" if each.startswith("outputs=") else each for each in new])
    said = capsys.readouterr().out
    assert "toy: 0 of 8 jobs finished; the rest takes about 28 s (4 as the study says, 4 of unknown length" in said
    assert "0 1 2 3" in said
    assert not list(tmp_path.rglob("*"))


STUDIES = [name for name in options_of("study") if name != "study_keys"]
MISTAKES = {
    "study zooo": f"study must be one of {STUDIES}, got 'zooo'; did you mean zoo?",
    "study": f"study must be given; it must be one of {STUDIES}",
    "study zoo only=3": "only must be a list of a sweep, a value or KEY:VALUE, got 3",
    "study zoo seed=-1": "seed must be an integer from 0 to 4294967295, got -1",
    "study zoo trainer.max_stepz=3": "trainer.max_stepz is not a key; did you mean trainer.max_steps?",
    "study zoo trainer.max_steps=3": (
        "study.sweeps.classic_control: trainer.max_steps must be a multiple of (imitation.rounds + 1)"
    ),
    "study zoo study.bar=high": "study.bar must be a number, or null, got 'high'",
    "study zoo study.metric=loss": "study.metric must be one of ['performance', 'return', 'selection'], got 'loss'",
    "study zoo study.rows=[foo]": (
        "study.sweeps.classic_control: study.rows and study.columns must contain groups or keys of every job, got foo"
    ),
    "study zoo --run": "a study has several jobs; --run has no effect",
}


@pytest.mark.parametrize(("arguments", "line"), MISTAKES.items())
def test_an_error_is_one_line_and_leaves_no_files(
    arguments: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(*arguments.split()).startswith(line)
    assert {path.name for path in tmp_path.rglob("*")} <= {"outputs"}


def test_what_only_selects_must_exist(folder: Path) -> None:
    assert refusal(*typed(folder, "only=[foo]")) == (
        "only must contain sweeps, values or KEY:VALUE, such as gated, transformers; got foo"
    )
