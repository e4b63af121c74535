"""Seeds of the episodes that an expert learns from."""

import numpy as np

from ilt.envs.spec import EnvSpec


class SeedStream:
    """An endless stream of seeds drawn from the demonstrations block: never one of selection or test.

    Args:
        spec: the environment.
        entropy: what the stream is decided by.
    """

    def __init__(self, spec: EnvSpec, entropy: list[int]) -> None:
        self._first, self._count = spec.seed_blocks["demonstrations"]
        self._rng = np.random.default_rng(entropy)

    def next(self) -> int:
        """The next seed."""
        return int(self._first + self._rng.integers(self._count))
