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
from ilt.cli.main import COMMANDS
from ilt.registry import options_of
from ilt.schema import ConfigError
from tests.cli.commands import ROOT, SMOKE, call, refusal, start, type_command

Captured = pytest.CaptureFixture[str]


def test_help_lists_every_command_and_imports_nothing(capsys: Captured) -> None:
    type_command("--help")
    shown = capsys.readouterr().out
    modules = {path.stem for path in (ROOT / "ilt" / "cli").glob("*.py")}
    assert set(COMMANDS) == modules - {"__init__", "app", "config", "job", "main", "search_space", "sweep"}
    assert all(f"  {name} " in shown for name in COMMANDS)
    code = "import sys, ilt.cli.main; print(*{'hydra', 'omegaconf', 'numpy', 'rich', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
    type_command("--version")
    assert capsys.readouterr().out == f"ilt {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("trian", "trian is not a command; did you mean train?"),
        ("x", "x is not a command; ilt --help lists the commands"),
    ],
)
def test_an_unknown_command_is_refused(typed: str, told: str, capsys: Captured) -> None:
    assert refusal(typed) == "2"
    assert capsys.readouterr() == ("", f"ilt: {told}\n")


# --- mistakes ---

MISTAKES = {
    "model.n_layers=3": "model.n_layers is not a key; did you mean model.n_layer?",
    "n_layer=3": "n_layer is not a key; did you mean model.n_layer?",
    "modle.n_layers=3": "modle.n_layers is not a key; did you mean model.n_layer?",
    "trainer.zzz=1": "trainer.zzz is not a key; +trainer.zzz=… adds it",
    "modle=tiny": "modle is not a key; did you mean model?",
    "experimnt=smoke": "experimnt is not a key; did you mean experiment?",
    "hydra.run.dirr=x": "hydra.run.dirr is not a key; did you mean hydra.run.dir?",
    "hydra/lancher=joblib": "hydra/lancher is not a group; did you mean hydra/launcher?",
    "model=tinny": f"model must be one of {options_of('model')}, got 'tinny'; did you mean tiny?",
    "model": "model is not an override such as key=value: missing EQUAL at '<EOF>'",
    "model.n_layer=[1": "model.n_layer=[1 is not an override such as key=value: no viable alternative at input '[1'",
    "model.n_layer=0": "model.n_layer must be an integer of at least 1, got 0",
    "+modl=tiny": "modl is not a key; did you mean model?",
    "run_name=${nope}": "hydra.run.dir: Interpolation key 'nope' not found",
    "--config-name=foo": "Cannot find primary config 'foo'. Check that it's in your config search path.",
    "--resolve": "The --resolve flag can only be used in conjunction with --cfg or --help",
}


@pytest.mark.parametrize(("argument", "told"), MISTAKES.items())
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(
    argument: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal("train", argument) == told
    assert not list(tmp_path.rglob("config.yaml"))


def test_in_a_process_of_its_own_a_mistake_is_one_line_on_stderr_and_exit_code_1(tmp_path: Path) -> None:
    process = call("train", "model.n_layer=0", f"outputs={tmp_path}", check=False)
    told = "model.n_layer must be an integer of at least 1, got 0\n"
    assert (process.returncode, process.stdout, process.stderr) == (1, "", told)


def test_a_mistake_has_a_traceback_where_one_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        type_command("train", "model.n_layer=0", f"outputs={tmp_path}", HYDRA_FULL_ERROR="1")


def test_an_unexpected_error_has_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file where a folder must be")
    with pytest.raises(NotADirectoryError):
        type_command("train", f"outputs={tmp_path}/outputs")


def test_in_a_sweep_a_mistake_is_told_after_the_other_jobs(tmp_path: Path) -> None:
    told = refusal("train", "-m", "model.n_layer=0,-1", f"outputs={tmp_path}", "processes=1")
    assert told == "model.n_layer must be an integer of at least 1, got 0"
    assert len(list(tmp_path.glob("multirun/*/*/error.txt"))) == 2


@pytest.mark.slow
def test_an_interrupt_exits_with_130_also_in_training(tmp_path: Path) -> None:
    process = start("train", *SMOKE, f"outputs={tmp_path}", "trainer.max_steps=100000")
    while not list(tmp_path.glob("runs/*/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert "stopped; the same command goes on from the last checkpoint" in told


# --- what Hydra's users expect ---


@pytest.mark.slow
def test_a_job_on_joblib_runs_what_its_module_holds(tmp_path: Path) -> None:
    run = [*SMOKE, "model.n_layer=0,-1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"outputs={tmp_path}"]
    process = call("train", "-m", *run, check=False)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "model.n_layer must be an integer of at least 1, got 0"
    assert "failed: ConfigError" in next(tmp_path.glob("multirun/*/sweep.md")).read_text()


@pytest.mark.parametrize("how", ["--config-dir", "hydra.searchpath"])
def test_configs_of_a_users_own_are_found(how: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [nano]\nn_layer: 7\n")
    given = ["--config-dir", str(tmp_path)] if how == "--config-dir" else [f"hydra.searchpath=[file://{tmp_path}]"]
    type_command("train", "--cfg", "job", *given, "model=mine")
    assert OmegaConf.create(capsys.readouterr().out).model.n_layer == 7


@pytest.mark.parametrize("command", ["train", "list"])
def test_each_command_has_its_own_help(command: str, capsys: Captured) -> None:
    assert refusal(command, "--help") == "0"
    shown = capsys.readouterr().out
    assert "== Keys and their values ==\n" in shown
    if command == "train":
        assert f"model: {', '.join(options_of('model'))}\n" in shown


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
def test_what_tab_completes(line: str, expected: set[str], capsys: Captured) -> None:
    type_command("-sc", "query=fish", COMP_LINE=line)
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
