"""Count the faults that the program survived."""

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.faults.running import SEED


@pytest.fixture(scope="session")
def survived() -> Iterator[Callable[[str, int], None]]:
    """Return a function that counts faults by kind; print a line for each kind at the end."""
    tried: dict[str, int] = {}
    yield lambda kind, n: tried.update({kind: tried.get(kind, 0) + n})
    for kind, n in tried.items():
        sys.stderr.write(f"\n{kind}: {n} tried, {n} survived (seed {SEED})")
