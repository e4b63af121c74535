"""Seeds of an expert's training episodes."""

import numpy as np

from ilt.envs.spec import EnvSpec


class SeedStream:
    """An endless stream of seeds from the demonstrations block, never of selection or test.

    Args:
        spec: the environment.
        entropy: seeds the stream.
    """

    def __init__(self, spec: EnvSpec, entropy: list[int]) -> None:
        self._first, self._count = spec.seed_blocks["demonstrations"]
        self._rng = np.random.default_rng(entropy)

    def next(self) -> int:
        """Return the next seed."""
        return int(self._first + self._rng.integers(self._count))
