"""How soon the command line answers."""

import subprocess
import sys
import time

from ilt.envs.spec import EnvSpec
from tests.benchmarks.measuring import Measure, Row, at_most, compare


def rows(spec: EnvSpec) -> list[Row]:
    """Seconds to the help text, and to being told of a wrong key."""
    return [
        compare("ilt train --help", "s", answering("--help"), [("at most", 1.5, at_most(1))]),
        compare("ilt train, a wrong key", "s", answering("model.n_layers=3"), [("at most", 1.5, at_most(1))]),
    ]


def answering(argument: str) -> Measure:
    """Seconds that the command takes."""

    def measure() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ilt", "train", argument], capture_output=True, check=False)
        return time.perf_counter() - started

    return measure
