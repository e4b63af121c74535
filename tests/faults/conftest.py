"""What the tests of faults share."""

import os
import sys
from collections.abc import Callable, Iterator

import pytest

SEED = int(os.environ.get("ILT_FAULTS_SEED", "0"))
"""Decides what is random."""


@pytest.fixture(scope="session")
def survived() -> Iterator[Callable[[str, int], None]]:
    """Counts what was tried, and prints a line for each kind."""
    tried: dict[str, int] = {}
    yield lambda kind, n: tried.update({kind: tried.get(kind, 0) + n})
    for kind, n in tried.items():
        sys.stderr.write(f"\n{kind}: {n} tried, {n} survived (seed {SEED})")
