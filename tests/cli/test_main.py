import os
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest

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
    others = {"__init__", "app", "config", "job", "main", "search_space", "study_jobs", "sweep"}
    assert {command.replace("-", "_") for command in COMMANDS} == modules - others
    assert all(f"  {name} " in shown for name in COMMANDS)
    code = "import sys, ilt.cli.main; print(*{'hydra', 'omegaconf', 'numpy', 'rich', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
    type_command("--version")
    assert capsys.readouterr().out == f"ilt {__version__}\n"


@pytest.mark.parametrize(("typed", "hint"), [("trian", "did you mean train?"), ("x", "ilt --help lists the commands")])
def test_an_unknown_command_is_refused(typed: str, hint: str, capsys: Captured) -> None:
    assert refusal(typed) == "2"
    assert capsys.readouterr() == ("", f"ilt: {typed} is not a command; {hint}\n")


WRONG = "model.n_layer=0"
MISTAKES = {
    "model.n_layers=3": "model.n_layers is not a key; did you mean model.n_layer?",
    "n_layer=3": "n_layer is not a key; did you mean model.n_layer?",
    "modle.n_layers=3": "modle.n_layers is not a key; did you mean model.n_layer?",
    "trainer.zzz=1": "trainer.zzz is not a key",
    "env.kwargs.gravity=-8": "env.kwargs.gravity is not a key; +env.kwargs.gravity=… adds it",
    "trainer.fast_dev_run=true": (
        "trainer.fast_dev_run cannot be set: a run needs its checkpoints and rollout evaluations; experiment=smoke is "
        "short"
    ),
    "batch_size=8": "batch_size is not a key; did you mean expert.batch_size or dataset.batch_size?",
    "foo=8": "foo is not a key",
    "modle=tiny": "modle is not a key; did you mean model?",
    "experimnt=smoke": "experimnt is not a key; did you mean experiment?",
    "hydra.run.dirr=x": "hydra.run.dirr is not a key; did you mean hydra.run.dir?",
    "hydra/lancher=joblib": "hydra/lancher is not a group; did you mean hydra/launcher?",
    "model=tinny": f"model must be one of {options_of('model')}, got 'tinny'; did you mean tiny?",
    "model": "model is not an override such as key=value: missing EQUAL at '<EOF>'",
    "model.n_layer=[1": "model.n_layer=[1 is not an override such as key=value: no viable alternative at input '[1'",
    WRONG: "model.n_layer must be an integer of at least 1, got 0",
    "+modl=tiny": "modl is not a key; did you mean model?",
    "model=null": "model=null is not an option of a group; a group takes a name, such as model=tiny",
    "model=[tiny,small]": "model=[tiny,small] is not an option of a group; a group takes one name, such as model=tiny",
    "env.id=null": "env.id must be text, got None",
    "experiment=adapt dataset.context_length=0": "dataset.context_length must be an integer of at least 1, got 0",
    "seed=[1]": "seed must be an integer from 0 to 4294967295, got [1]",
    "hydra/launcher=joblib": "hydra/launcher=joblib has no effect without -m",
    "trainer.num_nodes=2": "trainer.num_nodes must be 1 where neither torchrun nor srun starts the processes, got 2",
    "~model": f"model must be given; it must be one of {options_of('model')}",
    "demos.filters=null": "demos.filters must be a mapping, got None",
    "+env.foo=1": "env.foo is not a key",
    "model.attention='\x1b[2J'": "model.attention must be one of ['banded', 'full'], got '\\x1b[2J'",
    "run_name=\x1bc": "run_name=?c is not an override such as key=value: LexerNoViableAltException: run_name=?c ^",
    "optimizer={lr: 1}": (
        "optimizer.lr is not a key; the keys of optimizer are learning_rate, betas, weight_decay, warmup_fraction, "
        "final_learning_rate_fraction"
    ),
    "env.seed_blocks={}": (
        "env.seed_blocks={} removes nothing, as mappings are merged; ~env.seed_blocks.KEY removes "
        "['demonstrations', 'validation', 'selection', 'test']"
    ),
    "outputs=/etc/passwd/x": "outputs must be a folder, but /etc/passwd is a file",
    "outputs=/proc/x": "outputs must be a folder that can be written to, got /proc/x: No such file or directory",
    f"outputs={'x' * 256}": f"outputs must be a folder whose name has at most 255 bytes, got {'x' * 256}",
    "+search.trial=3": "search.trial cannot be set: a search numbers its trials",
    "+logger.foo=1": "logger.foo is not a key",
    "logger.project=a/b": (
        "logger.project must be a name of at most 128 characters, none of them one of / \\ # ? % :, got 'a/b'"
    ),
    "+logger.mode=offline": ("logger.mode cannot be set: the job sets it; the environment variable WANDB_MODE does"),
    "dataset.batch_size=1000 trainer.devices=1000": (
        f"trainer.devices must be at most {os.cpu_count()}, the CPU cores here, got 1000"
    ),
    "+callbacks.own._target_=foo.Bar": (
        "callbacks.own._target_ must be the dotted path of something that can be imported, got foo.Bar"
    ),
    "run_name=${nope}": "hydra.run.dir: Interpolation key 'nope' not found",
    "--config-name=foo": "Cannot find primary config 'foo'. Check that it's in your config search path.",
    "--resolve": "The --resolve flag can only be used in conjunction with --cfg or --help",
}


@pytest.mark.parametrize(("argument", "line"), MISTAKES.items())
def test_an_error_is_one_line_and_leaves_no_files(argument: str, line: str, tmp_path: Path) -> None:
    with chdir(tmp_path):
        assert refusal("train", *argument.split(" ") if "{" not in argument else [argument]) == line
    assert {path.name for path in tmp_path.rglob("*")} <= {"outputs", "runs"}


def test_an_unknown_option_is_a_one_line_error(capsys: Captured) -> None:
    assert refusal("train", "--multirunn") == "2"
    assert capsys.readouterr().err == "ilt train: error: unrecognized arguments: --multirunn\n"


def test_the_process_prints_an_error_on_one_line_of_stderr_and_exits_with_1(tmp_path: Path) -> None:
    process = call("train", WRONG, f"outputs={tmp_path}", check=False)
    assert (process.returncode, process.stdout, process.stderr) == (1, "", f"{MISTAKES[WRONG]}\n")


def test_unexpected_errors_have_a_traceback_and_config_errors_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError):
        type_command("train", WRONG, f"outputs={tmp_path}", HYDRA_FULL_ERROR="1")
    monkeypatch.setattr("ilt.cli.list.find_entries", lambda outputs: [1 / 0])
    with pytest.raises(ZeroDivisionError):
        type_command("list", f"outputs={tmp_path}")


SWEEP_MISTAKES = {
    "trainer.max_steps=30,40 trainer.val_check_interval=${trainer.max_steps} env.id=Foo": (  # intervals of 30 and 40
        "env.id must be an environment that Gymnasium knows, got Foo"
    ),
    "model.n_layer=range(0)": "model.n_layer=range(0) has no value to sweep over",
    "model.n_layer=range(1,3,0)": "model.n_layer=range(1,3,0) cannot be swept over: range() arg 3 must not be zero",
    "model.dropout=interval(0,1)": (
        "model.dropout=interval(0,1) has no discrete values to sweep over; sweep=optuna searches it"
    ),
    "model.n_layer=0,-1": MISTAKES[WRONG],
    "model=tiny,tinny": MISTAKES["model=tinny"],
    "seed=0,1 env.id=Foo": "env.id must be an environment that Gymnasium knows, got Foo",
    "+search.trial=1,2": "search.trial cannot be set: a search numbers its trials",
    "sweep=optuna search.trial=1": "search.trial cannot be set: a search numbers its trials",
    "sweep=optuna search.n_trials=0": "search.n_trials must be an integer of at least 1, got 0",
    "seed=0,1 hydra/launcher=joblib hydra.launcher.n_jobs=0": "hydra.launcher.n_jobs must be a number of jobs",
}


@pytest.mark.parametrize(("arguments", "line"), SWEEP_MISTAKES.items())
def test_an_error_common_to_all_jobs_is_reported_before_the_first_job(
    arguments: str, line: str, tmp_path: Path
) -> None:
    with chdir(tmp_path):
        assert refusal("train", "-m", *arguments.split()).startswith(line)
    assert not list(tmp_path.rglob("*"))


def test_a_sweep_does_not_write_through_links(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("words")
    (tmp_path / "multirun.yaml").symlink_to(tmp_path / "private")
    said = refusal("train", "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert said == f"{tmp_path}/multirun.yaml cannot be used: it is a link"
    assert (tmp_path / "private").read_text() == "words"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_the_error_of_one_job_is_the_last_line_after_all_jobs(launcher: str, tmp_path: Path) -> None:
    sweep = [*SMOKE, "model.n_layer=0,1", f"hydra/launcher={launcher}", f"outputs={tmp_path}"]
    process = call("train", "-m", *sweep, check=False)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == MISTAKES[WRONG]
    assert next(tmp_path.glob("multirun/*/sweep.md")).read_text().count("failed: ConfigError") == 1
    assert len(list(tmp_path.glob("multirun/*/*/error.txt"))) == 1


@pytest.mark.slow
def test_our_sweeper_and_launcher_are_found_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ilt", "train", "-m", "sweep=optuna", "hydra/launcher=ray", "model.n_layer=0"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.stderr.splitlines()[-1].startswith("model.n_layer must be"), process.stderr


@pytest.mark.slow
def test_an_interrupt_exits_with_130_even_during_training(tmp_path: Path) -> None:
    process = start("train", *SMOKE, f"outputs={tmp_path}", "trainer.max_steps=100000")
    while not list(tmp_path.glob("runs/*/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "stopped; the same command resumes from the last checkpoint" in said


def test_each_command_has_its_own_help(capsys: Captured) -> None:
    assert refusal("list", "--help") == refusal("train", "--help") == "0"
    shown = capsys.readouterr().out
    assert shown.count("== Keys and their values ==\n") == 2
    assert f"model: {', '.join(options_of('model'))}\n" in shown


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
def test_tab_completion(line: str, expected: set[str], capsys: Captured) -> None:
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
