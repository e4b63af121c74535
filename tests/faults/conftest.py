"""How many faults were survived."""

from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.running import SEED


@pytest.fixture
def survived(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Return a function that records how many faults of a kind a test tried, all of them without harm."""
    return lambda kind, n: record_property("survived", (kind, n))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line for each kind of fault."""
    tried: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "survived":
                kind, n = value
                tried[kind] += n
    for kind, n in tried.items():
        terminalreporter.write_line(f"{kind}: {n} tried, {n} survived (seed {SEED})")
