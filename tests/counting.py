"""`ilt train` with the learning taken out, for tests of sweeps: counts to `trainer.max_steps`, slowly.

How far it has come is kept in `steps.txt`, from which a killed job goes on. `model.dropout=0.5` fails at the end, with
an error that cannot be sent to another process; `model.dropout=0.75` kills its own process, though not when it goes on;
`model.dropout=0.875` does so each time.
"""

import os
import signal
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ilt.cli import app  # noqa: F401  (which hands the schemas to Hydra)
from ilt.settings import check_config, run_config, training_config
from ilt.tracking.run_folder import RunFolder, discard_unused, selection_return


class CountingError(Exception):
    """Is not made from its message alone, as errors are that were sent."""

    def __init__(self, key: str, value: float) -> None:
        super().__init__(f"{key} is {value} | a bar")


@hydra.main(version_base="1.3", config_path="pkg://ilt.conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Count, and return the seed as the selection-seed return."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        check_config(cfg)
    except ValueError:
        discard_unused(folder)
        raise
    with RunFolder(folder, run_config(cfg), training_config(cfg), resume=cfg.resume, started=time.monotonic()) as run:
        if run.finished:
            return selection_return(run)
        run.begin(config=cfg, hydra={"hydra": hydra_config}, overrides=hydra_config.overrides.task)
        steps = run.path / "steps.txt"
        done = len(steps.read_text().split()) if steps.exists() else 0
        for step in range(done, cfg.trainer.max_steps):
            time.sleep(0.05)
            with steps.open("a") as file:
                file.write(f"{step}\n")
            if cfg.model.dropout == 0.875 or (cfg.model.dropout == 0.75 and not done):
                os.kill(os.getpid(), signal.SIGKILL)
        if cfg.model.dropout == 0.5:
            raise CountingError("model.dropout", cfg.model.dropout)
        with run.stage("figures"):
            rates = {"success_rate": 0.5, "crash_rate": 0.25, "processes": cfg.processes}
        returns = {"return_mean": -float(cfg.seed), "return_mean_interval": [-cfg.seed - 1.0, -cfg.seed + 1.0]}
        run.finish({"selection_return_mean": float(cfg.seed), **returns, **rates})
        return selection_return(run)


if __name__ == "__main__":
    main()
