"""Starting the same command several times at once makes everything once; late starts finish or name the other."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.running import AGAIN, CARTPOLE, SECONDS, SHORT, content, run, start

pytestmark = pytest.mark.slow

AT_ONCE = 4
COMMANDS = {
    "train": AGAIN,
    "sweep": ["train", "-m", *SHORT, "seed=3,4"],
    "search": ["train", "-m", "sweep=optuna", *SHORT, "search.study_name=study", "search.n_trials=1", "model=nano"],
    "expert": ["expert", "logger=none", *CARTPOLE, "expert.total_steps=2000"],
    "collect": ["collect", "logger=none", *CARTPOLE, "expert.total_steps=2000", "demos.n_episodes=10"],
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_commands_started_at_once_make_everything_once(
    kind: str, tmp_path: Path, survived: Callable[[str, int], None]
) -> None:
    (tmp_path / "whole").mkdir()
    assert (answer := run(tmp_path / "whole", *COMMANDS[kind])).code == 0, answer.said
    folders = [tmp_path / f"terminal-{n}" for n in range(AT_ONCE)]
    (tmp_path / "outputs").mkdir()
    for folder in folders:
        folder.mkdir()
        (folder / "outputs").symlink_to(tmp_path / "outputs")
    processes = [start(folder, *COMMANDS[kind]) for folder in folders]
    for process, folder in zip(processes, folders, strict=True):
        process.join(SECONDS)
        said = (folder / ".said").read_text()
        assert process.exitcode in (0, 1), said
        if process.exitcode == 1:
            assert "another process " in said.splitlines()[-1], said
    assert any(process.exitcode == 0 for process in processes)
    assert content(tmp_path / "outputs") == content(tmp_path / "whole" / "outputs")
    shutil.rmtree(tmp_path)
    survived("simultaneous starts", AT_ONCE)
