"""What the peers' scripts share: the demonstrations, how training is timed, and the line that they print."""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

BATCH_SIZE = 256
WARM_UP = 30
"""Batches before the clock starts. The same number again tells how many batches take about `SECONDS`."""
SECONDS = 8.0


def demonstrations() -> dict[str, np.ndarray]:
    """Return the arrays of `ilt.data.episodes.Episodes`, and limit PyTorch to one thread."""
    torch.set_num_threads(1)
    with np.load(sys.argv[1]) as file:
        return dict(file)


def last_observations(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return (E,) int64: where `observations` has those that follow each episode's last action."""
    return np.cumsum(arrays["lengths"] + 1) - 1


def seconds_per_million_labels(train: Callable[[int], object], labels_per_batch: int = BATCH_SIZE) -> float:
    """Measure training; `train` takes the number of batches."""

    def timed(n_batches: int) -> float:
        started = time.perf_counter()
        train(n_batches)
        return time.perf_counter() - started

    timed(WARM_UP)
    n_batches = int(SECONDS / timed(WARM_UP) * WARM_UP) + 1
    return timed(n_batches) / (n_batches * labels_per_batch) * 1e6


def report(**measured: dict[str, float]) -> None:
    """Print the numbers by kind of work and name."""
    print(json.dumps(measured))  # noqa: T201 (the benchmark reads it)
