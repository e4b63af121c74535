"""Memory of training on many demonstrations, compared with the size of their flat arrays."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from tests.benchmarks.measuring import Row, compare

N_EPISODES, N_STEPS = 10_000, 300


def memory(spec: EnvSpec) -> list[Row]:
    """Measure the peak megabytes of a process that trains `tiny` with K = 64 on 3 million steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demonstrations.npz"
        flat = write_episodes(path, N_EPISODES)
        besides = [("1.5 × flat arrays + 700 MB", 1.5 * flat + 700, "≤ 1"), ("flat arrays", flat, None)]
        work = f"train on {N_EPISODES:,} demonstrations, K = 64"
        return [compare(work, "MB", lambda: peak(path), *besides, repeats=1)]


def write_episodes(path: Path, n_episodes: int) -> float:
    """Write episodes of random numbers; return the megabytes of their arrays."""
    rng = np.random.default_rng(0)
    n_steps = n_episodes * N_STEPS
    episodes = Episodes(
        observations=rng.standard_normal((n_steps + n_episodes, 8), dtype=np.float32),
        actions=rng.integers(0, 4, n_steps),
        rewards=rng.standard_normal(n_steps),
        lengths=np.full(n_episodes, N_STEPS),
        terminated=np.ones(n_episodes, dtype=bool),
        truncated=np.zeros(n_episodes, dtype=bool),
        seeds=np.arange(n_episodes),
    )
    episodes.save(path)
    return sum(array.nbytes for array in vars(episodes).values() if isinstance(array, np.ndarray)) / 1e6


def peak(path: Path) -> float:
    """Return the peak megabytes of a training on this file in its own process."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", str(path)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()[-1])


def train(path: Path) -> None:
    """Train as `ilt.training.fit.fit` does, with a validation; print the peak."""
    import torch

    from ilt.data.datamodule import WindowData
    from ilt.data.windows import WindowDataset, observation_statistics, take_episodes
    from ilt.evaluation import scoring  # noqa: F401  (a run's imports count toward its memory)
    from ilt.tracking.run_folder import peak_memory_mb
    from ilt.training import fit  # noqa: F401  (a run's imports count toward its memory)
    from ilt.training.callbacks import EMA
    from ilt.training.runtime import keep_freed_memory
    from tests.benchmarks.rollouts import SPACE, decoder
    from tests.benchmarks.training import module, quiet_trainer

    torch.set_num_threads(1)
    keep_freed_memory()
    episodes = take_episodes(Episodes.load(path), 1.0)
    model = decoder("tiny", 64)
    model.set_normalization(*observation_statistics(episodes))
    windows: dict[str, Any] = {"action_space": SPACE, "context_length": 64}
    validation = WindowDataset(episodes.first(20), **windows, as_deployed=True)
    data = WindowData(WindowDataset(episodes, **windows), validation, batch_size=256, seed=0)
    quiet_trainer(max_steps=10, val_check_interval=10, callbacks=[EMA(decay=0.995)]).fit(module(model), data)
    print(peak_memory_mb())  # noqa: T201


if __name__ == "__main__":
    train(Path(sys.argv[1]))
