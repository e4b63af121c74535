"""The command `ilt`: its commands, its errors, its tab completion."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ilt import __version__
from ilt.cli import train
from ilt.cli.main import COMMANDS, main
from tests.cli.test_train import ROOT, SMOKE, environment

ILT = [sys.executable, "-m", "ilt"]


def ilt(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(), "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([*ILT, *arguments], cwd=cwd, env=env, capture_output=True, text=True)


def test_help_lists_every_command_and_imports_nothing() -> None:
    shown = ilt("--help").stdout
    modules = {path.stem for path in (ROOT / "ilt" / "cli").glob("*.py")} - {"__init__", "app", "main"}
    assert modules == set(COMMANDS)
    assert all(f"  {name} " in shown for name in COMMANDS)
    code = "import sys, ilt.cli.main; print(*{'hydra', 'omegaconf', 'numpy', 'rich', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_version() -> None:
    assert ilt("--version").stdout == f"ilt {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("trian", "trian is not a command; did you mean train?"),
        ("x", "x is not a command; ilt --help lists the commands"),
    ],
)
def test_an_unknown_command_is_refused(typed: str, told: str) -> None:
    process = ilt(typed)
    assert (process.returncode, process.stdout, process.stderr) == (2, "", f"ilt: {told}\n")


# --- mistakes ---

MODELS = "['base', 'mini', 'nano', 'small', 'tiny']"
MISTAKES = {
    "model.n_layers=3": "model.n_layers is not a key; did you mean model.n_layer?",
    "n_layer=3": "n_layer is not a key; did you mean model.n_layer?",
    "modle.n_layers=3": "modle.n_layers is not a key; did you mean model.n_layer?",
    "trainer.zzz=1": "trainer.zzz is not a key; +trainer.zzz=… adds it",
    "modle=tiny": "modle is not a key; did you mean model?",
    "experimnt=smoke": "experimnt is not a key; did you mean experiment?",
    "hydra.run.dirr=x": "hydra.run.dirr is not a key; did you mean hydra.run.dir?",
    "hydra/lancher=joblib": "hydra/lancher is not a group; did you mean hydra/launcher?",
    "model=tinny": f"model must be one of {MODELS}, got 'tinny'; did you mean tiny?",
    "model": "model is not an override such as key=value: missing EQUAL at '<EOF>'",
    "model.n_layer=[1": "model.n_layer=[1 is not an override such as key=value: no viable alternative at input '[1'",
    "run_name=${nope}": "hydra.run.dir: Interpolation key 'nope' not found",
    "--config-name=foo": "Cannot find primary config 'foo'. Check that it's in your config search path.",
    "--resolve": "The --resolve flag can only be used in conjunction with --cfg or --help",
}


@pytest.mark.parametrize(("argument", "told"), MISTAKES.items())
def test_a_mistake_on_the_command_line_is_told_in_one_line(
    argument: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["ilt", "train", argument])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    assert stopped.value.code == told


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("model.n_layer=0", "model.n_layer must be an integer of at least 1, got 0"),
        ("+modl=tiny", "modl is not a key; did you mean model?"),
        ("modle=tiny", "modle is not a key; did you mean model?"),
    ],
)
def test_a_mistake_is_told_on_stderr_and_leaves_nothing(argument: str, told: str, tmp_path: Path) -> None:
    process = ilt("train", argument, cwd=tmp_path)
    assert (process.returncode, process.stdout, process.stderr) == (1, "", f"{told}\n")
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_mistake_has_a_traceback_where_one_is_asked_for(tmp_path: Path) -> None:
    process = ilt("train", "model.n_layer=0", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert process.returncode == 1
    assert "Traceback" in process.stderr


def test_an_unexpected_error_has_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file where a folder must be")
    process = ilt("train", cwd=tmp_path)
    assert process.returncode == 1
    assert "Traceback" in process.stderr


def test_in_a_sweep_a_mistake_is_told_after_the_other_jobs(tmp_path: Path) -> None:
    process = ilt("train", "-m", "model.n_layer=0,-1", f"outputs={tmp_path}")
    assert process.returncode == 1
    assert process.stderr.splitlines()[1:] == ["model.n_layer must be an integer of at least 1, got 0"]
    assert len(list(tmp_path.glob("multirun/*/*/error.txt"))) == 2


def test_an_interrupt_exits_with_130_also_in_training(tmp_path: Path) -> None:
    run = [*SMOKE, f"outputs={tmp_path}", "trainer.max_steps=100000", "evaluation.video=false", "processes=1"]
    process = subprocess.Popen([*ILT, "train", *run], cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("runs/*/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told


# --- what Hydra's users expect ---


def test_a_job_on_joblib_runs_what_its_module_holds(tmp_path: Path) -> None:
    run = [*SMOKE, "model.n_layer=0,-1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"outputs={tmp_path}"]
    process = ilt("train", "-m", *run)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "model.n_layer must be an integer of at least 1, got 0"
    assert "failed: ConfigError" in next(tmp_path.glob("multirun/*/sweep.md")).read_text()


@pytest.mark.parametrize("how", ["--config-dir", "hydra.searchpath"])
def test_configs_of_a_users_own_are_found(how: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [nano]\nn_layer: 7\n")
    given = ["--config-dir", str(tmp_path)] if how == "--config-dir" else [f"hydra.searchpath=[file://{tmp_path}]"]
    shown = ilt("train", "--cfg", "job", *given, "model=mine").stdout
    assert OmegaConf.create(shown).model.n_layer == 7


def test_each_command_has_its_own_help_and_name() -> None:
    assert "== Keys and their values ==\noutputs: outputs" in ilt("list", "--help").stdout
    assert "usage: ilt report " in ilt("report", "--nope").stderr


# --- tab completion ---

COMPLETIONS = {
    "ilt ": set(COMMANDS),
    "ilt tr": {"train"},
    "ilt train mod": {"model=", "model."},
    "ilt train model=ti": {"model=tiny"},
    "ilt train -m seed=0,1 model.n_": {"model.n_head=", "model.n_layer="},
    "ilt report run": {"runs="},
    "ilt nope r": set(),
}


@pytest.mark.parametrize(("line", "expected"), COMPLETIONS.items())
def test_what_tab_completes(
    line: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setattr(sys, "argv", ["ilt", "-sc", "query=fish"])
    main()
    assert set(capsys.readouterr().out.split()) == expected


def test_bash_completes_with_the_script_that_is_installed(tmp_path: Path) -> None:
    command = tmp_path / "ilt"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ilt "$@"\n')
    command.chmod(0o755)
    script = f"""
        eval "$({command} -sc install=bash)"
        complete -p ilt
        COMP_LINE="ilt train model=ti"; COMP_POINT=18; COMP_CWORD=2
        hydra_bash_completion
        echo "${{COMPREPLY[@]}}"
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    registered, completed = process.stdout.splitlines()
    assert registered.endswith("hydra_bash_completion ilt")
    assert completed == "model=tiny"
