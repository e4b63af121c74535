"""What a search trains in tests: nothing. Imported by worker processes, so it imports little."""

import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


def leave_traces(cfg: DictConfig, folder: Path, value: float) -> None:
    """What is in a run's folder: one line per start in `starts.txt`, and results if it was scored on test seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts.txt").open("a") as file:
        file.write("started\n")
    if cfg.search.trial is None:
        from tests.analysis.finished_runs import finish_run

        seeds = {"seeds": {"block": "test", "offset": 0, "count": 1}}
        finish_run(folder, seed=cfg.seed, returns={7: value}, selection_return=value, results=seeds)


def train(cfg: DictConfig) -> float:
    """A run of a search as `ilt train` makes it."""
    leave_traces(cfg, Path(HydraConfig.get().runtime.output_dir), float(cfg.seed))
    return cfg.seed - cfg.optimizer.learning_rate


def train_in_company(cfg: DictConfig) -> float:
    """The same, but a trial's first run waits until that of another trial has begun."""
    value, deadline = train(cfg), time.monotonic() + 20
    while cfg.search.trial is not None and len(list(Path(HydraConfig.get().sweep.dir).glob("trial-*/seed-0"))) < 2:
        assert time.monotonic() < deadline, "no other trial began"
        time.sleep(0.01)
    return value
