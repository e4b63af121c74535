"""`python -m tests.benchmarks [only=fly]`: a table on the terminal, and `outputs/bench/<date>.json`."""

import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import yaml

from ilt.analysis.tables import print_table
from ilt.envs import EnvSpec
from ilt.store import provenance, write_json
from tests.benchmarks import a2c, fly, train

BENCHMARKS = {"fly": fly, "train": train, "a2c": a2c}


def main(arguments: list[str]) -> None:
    """Run all benchmarks, or the one that `only=` names."""
    chosen = [argument.removeprefix("only=") for argument in arguments] or list(BENCHMARKS)
    if unknown := [name for name in chosen if name not in BENCHMARKS]:
        raise SystemExit(f"only= must name one of {list(BENCHMARKS)}, got {unknown[0]}")
    torch.set_num_threads(1)
    env = yaml.safe_load(Path("conf/env/lunar_lander.yaml").read_text())
    spec = EnvSpec(**{key: value for key, value in env.items() if key != "_target_"})
    measured = [row for name in chosen for row in BENCHMARKS[name].rows(spec)]
    columns = ["work", "ours", "beside", "reference", "ratio (min … max)"]
    print_table("one thread; medians of three", columns, [row.cells() for row in measured])
    path = Path("outputs/bench") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**provenance(), "rows": [asdict(row) for row in measured]})
    print(path)  # noqa: T201 (this is a command)


if __name__ == "__main__":
    main(sys.argv[1:])
