"""The whole default run, from a command line to a scored student, in a folder where nothing was made before."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ilt.envs.spec import EnvSpec
from tests.benchmarks.measuring import Row, at_most, compare


def rows(spec: EnvSpec) -> list[Row]:
    """Seconds, as `results.json` has them: all, and those until the first stage that does work."""
    runs: list[dict[str, float]] = []

    def whole() -> float:
        runs.append(run())
        return runs[-1]["total"]

    row = compare("ilt train, everything", "s", whole, [("at most", 75, at_most(1))])
    start = iter([sum(seconds[name] for name in ("startup", "imports", "logger")) for seconds in runs])
    return [row, compare("of which start-up, imports and W&B", "s", lambda: next(start), [("at most", 12, at_most(1))])]


def run() -> dict[str, float]:
    """Seconds by stage."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ilt", "train", f"outputs={folder}", "run_name=run"]
        subprocess.run(command, capture_output=True, check=True)
        results = json.loads((Path(folder) / "runs" / "run" / "results.json").read_text())
        seconds: dict[str, float] = results["seconds"]
        return seconds
