"""Every command works under locales other than UTF-8 and writes the same files."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import ENVIRONMENT
from tests.faults.running import AGAIN, CARTPOLE, SHORT, content, in_parallel

pytestmark = pytest.mark.slow

LOCALES = {
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "strict ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
    "Latin-1": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1:strict"},
}
COMMANDS = {
    "train": AGAIN,
    "sweep": ["train", "-m", *SHORT, "seed=3,4"],
    "collect": ["collect", "logger=none", *CARTPOLE, "expert.total_steps=2000", "demos.n_episodes=12"],
    "expert": ["expert", "logger=none", *CARTPOLE, "expert.total_steps=3000"],
    "evaluate": ["evaluate", "run=outputs/runs/one", "seeds=selection:0:5", "logger=none", "processes=1"],
    "compare": [
        "compare",
        *CARTPOLE[:2],
        "+policies.student=outputs/runs/one",
        "seeds=selection:0:5",
        "logger=none",
    ],
    "report": ["report", "runs=outputs/runs", "videos=false"],
    "list": ["list"],
}


def test_every_command_works_under_every_locale(tmp_path: Path, survived: Callable[[str, int], None]) -> None:
    def try_all(locale: str) -> dict[str, str]:
        folder = tmp_path / locale
        folder.mkdir()
        variables = {key: value for key, value in ENVIRONMENT.items() if key not in ("LANG", "PYTHONIOENCODING")}
        for arguments in COMMANDS.values():
            command = [sys.executable, "-m", "ilt", *arguments]
            variables = {**variables, **LOCALES[locale]}
            done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, timeout=300)
            assert done.returncode == 0, f"{locale}, {arguments[0]}: {done.stderr.decode(errors='replace')[-2000:]}"
        pages = {path.name: path.read_text(encoding="utf-8") for path in (folder / "outputs/runs").glob("report.md")}
        return content(folder / "outputs") | pages

    whole, *others = in_parallel(try_all, LOCALES)
    assert all(other == whole for other in others)
    survived("locales", len(others) * len(COMMANDS))
