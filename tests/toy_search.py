"""What a search trains in tests: nothing. Imported by worker processes, so it imports little."""

import json
import math
import os
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


def value_of(cfg: DictConfig) -> float:
    """Largest at a learning rate of 0.003; seeds differ a little."""
    return -abs(math.log10(cfg.optimizer.learning_rate / 0.003)) + 0.01 * cfg.seed


def train(cfg: DictConfig) -> float | None:
    """A run of a search as `ilt.train` makes it: a value, and results on test seeds only if it is not of a trial."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with (folder / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    if cfg.search.trial is None:
        policy = {"crash_rate": 0.0}
        mean = value_of(cfg)
        results = {
            "return_mean": mean,
            "return_mean_interval": [mean, mean],
            "selection_return_mean": mean,
            "expert_return_mean": 0.0,
            "difference_to_expert": {"mean": mean, "interval": [mean, mean]},
            "crash_rate": 0.0,
            "policies": {"expert": policy, "random": policy},
            "seeds": {"block": "test", "offset": 0, "count": 10},
        }
        (folder / "results.json").write_text(json.dumps(results))
        (folder / "config.yaml").write_text(f"seed: {cfg.seed}")
    return value_of(cfg)


def train_in_company(cfg: DictConfig) -> float | None:
    """The same, but a trial's first run waits until that of another trial has begun."""
    value = train(cfg)
    deadline = time.monotonic() + 20
    while cfg.search.trial is not None and len(list(Path(HydraConfig.get().sweep.dir).glob("trial-*/seed-0"))) < 2:
        assert time.monotonic() < deadline, "no other trial began"
        time.sleep(0.01)
    return value


def train_worse_and_worse(cfg: DictConfig) -> float | None:
    """Each trial is worse than the one before, and says so at two steps."""
    from ilt.study import reporter

    train(cfg)
    if cfg.search.trial is None:
        return 0.0
    report = reporter(cfg, Path(HydraConfig.get().sweep.dir))
    for step in (10, 20):
        if report is not None and report(step - 100.0 * cfg.search.trial, step):
            return None
    return 20 - 100.0 * cfg.search.trial


def fail_second_trial(cfg: DictConfig) -> float | None:
    """The second seed of the second trial fails."""
    train(cfg)
    if (cfg.search.trial, cfg.seed) == (1, 1):
        raise ValueError("a pipe | in a message")
    return value_of(cfg)
