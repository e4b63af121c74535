"""`ilt train` without the learning, for tests of sweeps: it counts slowly to `trainer.max_steps`.

It records its progress in `steps.txt`, and a killed job resumes from there. `model.dropout=0.5` fails at the end with
an error that cannot be pickled. `model.dropout=0.75` kills its own process, but not after it is resumed;
`model.dropout=0.875` kills it every time.
"""

import os
import signal
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ilt.cli import app  # noqa: F401  (registers the schemas with Hydra)
from ilt.settings import check_config, run_config, training_config
from ilt.tracking.run_folder import RunFolder, discard_unused, selection_return


class CountingError(Exception):
    """An error that cannot be rebuilt from its message alone, as unpickling tries to do."""

    def __init__(self, key: str, value: float) -> None:
        super().__init__(f"{key} is {value} | a bar")


@hydra.main(version_base="1.3", config_path="pkg://ilt.conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Count, and return the seed as the selection return."""
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
