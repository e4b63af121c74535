"""Stand-ins for training in tests of searches. Worker processes import this module, so it imports little."""

import json
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


def leave_traces(cfg: DictConfig, folder: Path, value: float) -> None:
    """Write a run's files: one line per start in `starts.txt`, and results if it is scored on test seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts.txt").open("a") as file:
        file.write("started\n")
    if cfg.search.trial is None:
        mean = {"return_mean": value, "return_mean_interval": [value, value], "crash_rate": 0.0}
        results = {
            **mean,
            "selection_return_mean": value,
            "expert_return_mean": 0.0,
            "difference_to_expert": {"mean": value, "interval": [value, value]},
            "policies": {"expert": mean},
            "success_rate": 0.0,
            "seed": cfg.seed,
            "seeds": {"block": "test", "offset": 0, "count": 10},
            **{name: {} for name in ("seconds", "packages", "files")},
        }
        columns = "seed,student_return,expert_return,random_return,student_steps,student_terminated"
        (folder / "results.json").write_text(json.dumps(results))
        (folder / "config.yaml").write_text(f"seed: {cfg.seed}\nenv: {{id: Toy-v0, success_return: 200}}")
        (folder / "curve.csv").write_text("step\n")
        (folder / "episodes.csv").write_text(f"{columns}\n0,{value},0,0,1,1\n")


def train(cfg: DictConfig) -> float:
    """Stand in for one run of `ilt train` in a search."""
    leave_traces(cfg, Path(HydraConfig.get().runtime.output_dir), float(cfg.seed))
    return cfg.seed - cfg.optimizer.learning_rate


def train_in_company(cfg: DictConfig) -> float:
    """Do the same, but wait in a trial's first run until another trial has started."""
    value, deadline = train(cfg), time.monotonic() + 20
    while cfg.search.trial is not None and len(list(Path(HydraConfig.get().sweep.dir).glob("trial-*/seed-0"))) < 2:
        assert time.monotonic() < deadline, "no other trial began"
        time.sleep(0.01)
    return value
