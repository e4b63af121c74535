"""The command line: response times, and the default run from scratch."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ilt.envs.spec import EnvSpec
from tests.benchmarks.measuring import Row, compare, seconds


def start(spec: EnvSpec) -> list[Row]:
    """Measure the seconds until the help text, and until an error about a wrong key."""
    limit = "at most", 1.5, "≤ 1"
    return [
        compare("ilt train --help", "s", seconds(lambda: ilt_train("--help")), limit),
        compare("ilt train, a wrong key", "s", seconds(lambda: ilt_train("model.n_layers=3")), limit),
    ]


def run(spec: EnvSpec) -> list[Row]:
    """Measure the seconds in `results.json`: the total, and those before the first working stage."""
    runs: list[dict[str, float]] = []

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            ilt_train(f"outputs={folder}", "run_name=run")
            runs.append(json.loads((Path(folder) / "runs" / "run" / "results.json").read_text())["seconds"])
        return runs[-1]["total"]

    row = compare("ilt train, everything", "s", whole, ("at most", 45, "≤ 1"))
    begun = iter([each["startup"] + each["imports"] for each in runs])
    return [row, compare("of which start-up and imports", "s", lambda: next(begun), ("at most", 8, "≤ 1"))]


def ilt_train(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "ilt", "train", *arguments], capture_output=True, check=False)
